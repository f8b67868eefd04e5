"""The figure of the noise, on a small scale: probed, estimated, drawn, and answered."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from trajectory_tools.errors import OutputExists
from trajectory_tools.experiments.probing import Probing
from trajectory_tools.experiments.study import FIGURES, Plan
from trajectory_tools.experiments.study.claims import Number
from trajectory_tools.experiments.study.figures import ALPHA_END, NULL_END, SECOND_NULL_END
from trajectory_tools.reports.study import study_files
from trajectory_tools.reports.study_noise import noise_answer


def small():
    figure = FIGURES["fig8"]
    (setting,) = figure.settings
    columns = tuple(
        replace(column, reading=replace(column.reading, first=1, last=4))
        for column in setting.columns
        if "start" not in column.name
    )
    claims = tuple(c for c in setting.claims if all("start" not in number.column for number in c.numbers))
    setting = replace(setting, columns=columns, claims=claims, curves=setting.curves[:3:2])  # L2O and SGD
    claims = tuple(c for c in claims if {number.curve for number in c.numbers} <= {"L2O", "SGD"})
    probing = Probing(at=(0, 3), batches=8, surrogates=8)
    return replace(figure, settings=(replace(setting, claims=claims),), iterations=4, probing=probing)


@pytest.fixture(scope="module")
def result(tmp_path_factory, weights):
    folder = tmp_path_factory.mktemp("noise")
    return Plan.make(small(), seeds=1, weights=weights).carry_out(folder), folder


def test_every_number_is_there_and_the_answer_is_about_them(result):
    found, _ = result
    values = found.settings[0].values
    assert all(np.isfinite(numbers).all() for numbers in values.values())
    ours, null, second = (values[Number("L2O", name)][0] for name in (ALPHA_END, NULL_END, SECOND_NULL_END))
    text = noise_answer(found)
    assert all(f"{value:.3f}" in text for value in (ours, null, second))
    more = ours / second > 1.05, second / ours > 1.05
    assert ("more than what" in text, "less than what" in text, "no more than what" in text) == (
        (more[0] or not any(more)),
        more[1],
        not any(more),
    )
    # SGD without momentum in its state is linear, so that its updates are Gaussian where the gradients are.
    assert [run.probed_steps.tolist() for run in found.runs] == [[0, 3], [0, 3]]


def test_page_and_picture(result, tmp_path):
    found, _ = result
    with study_files(tmp_path, "fig8-digits") as write:
        paths = write(found)
    html, svg, csv, data = (path.read_text(encoding="utf-8") for path in paths)
    assert noise_answer(found).split(";")[0][:60] in html
    assert svg.count("<text") > 20
    for panel in ("α of updates", "Gaussian null", "same optimizer", "α of gradients", "λ_max of updates"):
        assert panel in csv
    assert len(json.loads(data)["settings"][0]["claims"]) == len(found.settings[0].verdicts)


def test_a_run_with_other_probes_is_not_taken(result, weights):
    _, folder = result
    other = replace(small(), probing=Probing(at=(0, 3), batches=9, surrogates=8))
    with pytest.raises(OutputExists, match="probes = "):
        Plan.make(other, seeds=1, weights=weights).carry_out(folder)
