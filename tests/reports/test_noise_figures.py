"""What the figures of the noise plot and say, from frames made by hand."""

import numpy as np
import pandas as pd
import pytest

from trajectory_tools.errors import MissingData
from trajectory_tools.reports import covariance, tail_index, temporal_covariance
from trajectory_tools.reports.style import RunStyle
from trajectory_tools.reports.svg import draw

STYLE = RunStyle(("Adam", "SGD"))


def frame(rows):
    """(label, step, kind, quantity, batch size, value, low, high, note)"""
    columns = ["label", "step", "kind", "quantity", "batch_size", "value", "low", "high", "note"]
    return pd.DataFrame(rows, columns=columns).assign(run=lambda f: f["label"], n=64)


@pytest.fixture
def tails():
    rows = []
    for label, alpha in (("Adam", 0.6), ("SGD", 0.5)):
        for step in range(0, 200, 20):
            for kind in ("grad", "update"):
                for view in ("pooled_block", "ecf_coordinates", "ecf_projections", "mcculloch_projections"):
                    rows.append((label, step, kind, view, 128, alpha, alpha - 0.02, alpha + 0.02, ""))
                    rows.append((label, step, kind, f"{view}_null", 128, 0.61, 0.58, 0.63, ""))
                rows.append((label, step, kind, "student_gain", 128, 0.1, 0.05, 0.15, ""))
                rows.append((label, step, kind, "stable_gain", 128, -0.01, -0.02, 0.0, ""))
            rows.append((label, step, "update", "pooled_block_surrogate", 128, 0.6, 0.59, 0.61, ""))
    return frame(rows)


def test_the_sentence_says_who_is_gaussian_and_who_is_not(tails):
    figure = tail_index.pooled(tails)
    assert "Indistinguishable from Gaussian noise of the same covariance: gradients of Adam (α 0.6, null 0.61)" in (
        figure.finding
    )
    assert (
        "Heavier tails than Gaussian noise of the same covariance: gradients of SGD (α 0.5, null 0.61)"
        in figure.finding
    )
    assert list(figure.data["panel"].unique()) == ["Adam: updates", "SGD: updates", "Adam: gradients", "SGD: gradients"]
    null = figure.data[figure.data["series"] == "pooled_block_null"]
    assert null[["low", "high"]].drop_duplicates().values.tolist() == [[0.58, 0.63]]


def test_steps_outside_of_the_band_are_not_hidden(tails):
    few = tails[(tails["label"] == "Adam") & (tails["step"] < 60)].copy()
    few.loc[(few["quantity"] == "pooled_block") & (few["kind"] == "update") & (few["step"] == 0), "value"] = 0.4
    assert "null 0.61; outside the null's band at 1 of 3 probes)" in tail_index.pooled(few).finding
    assert "more concentrated" in tail_index.single_updates(few).how_to_read


def test_why_there_is_nothing_is_said_once():
    rows = [
        ("Adam", 0, "update", quantity, n, np.nan, np.nan, np.nan, f"not enough samples: {n}, and {needs}")
        for n in (10, 16)
        for quantity, needs in (
            ("ecf_coordinates", "ecf needs 50 for a trustworthy α"),
            ("mcculloch_coordinates", "mcculloch needs 50 for a trustworthy α"),
            ("student_gain", "a comparison needs 20"),
        )
    ]
    with pytest.raises(MissingData, match=r"^not enough samples: 10 or 16, where ecf needs 50, mcculloch needs 50$"):
        tail_index.single_updates(frame(rows))
    with pytest.raises(MissingData, match=r"^not enough samples: 10 or 16, where comparison needs 20$"):
        tail_index.laws(frame(rows))


def test_every_figure_is_drawn(tails):
    for make in tail_index.FIGURES.values():
        svg = draw(make(tails), STYLE, "key")
        assert "Gaussian" in svg or make is tail_index.laws
    assert (
        tail_index.laws(tails).finding == "Preferred for the updates, in the mean: Adam Student's t; SGD Student's t."
    )


def test_batch_sizes_have_panels_of_their_own(tails):
    both = pd.concat([tails, tails.assign(batch_size=1)])
    panels = tail_index.pooled(both).data["panel"].unique()
    assert {"Adam: updates, batch 128", "Adam: updates, single samples"} <= set(panels)
    assert len(panels) == 8


def test_without_a_number_the_reason_is_said():
    rows = [
        ("Adam", 0, kind, "pooled_block", 8, np.nan, np.nan, np.nan, "all samples are 0") for kind in ("grad", "update")
    ]
    with pytest.raises(MissingData, match="all samples are 0"):
        tail_index.pooled(frame(rows))


def test_the_covariance_and_the_noise_scale():
    rows = []
    for label, size in (("Adam", 1e-4), ("SGD", 1e-2)):
        for step in (0, 20, 40):
            for kind in ("grad", "update"):
                for quantity in ("trace", "eigenvalue_1", "paper_trace", "paper_eigenvalue", "participation_ratio"):
                    rows.append((label, step, kind, quantity, 128, size, size / 2, size * 2, ""))
            value = np.nan if step == 40 else 500.0
            rows.append((label, step, "grad", "noise_scale", 128, value, 400.0, np.inf, ""))
            rows.append((label, step, "update", "cosine", 128, 0.5, 0.4, 0.6, ""))
    table = frame(rows)
    assert "Median λ_max of the updates (batch 128): Adam: 10⁻⁴" in covariance.size(table).finding.replace("1×", "")
    noise = covariance.noise(table)
    assert "500 (400 to ∞)" in noise.finding
    assert "At 2 of 6 probes the mean gradient cannot be told from 0" in noise.notes[-1]
    for make in covariance.FIGURES.values():
        draw(make(table), STYLE, "key")
    temporal = table[table["quantity"].isin(["trace", "eigenvalue_1"])]
    temporal = temporal.assign(quantity="temporal_" + temporal["quantity"])
    figure = temporal_covariance.temporal(temporal)
    assert set(figure.data["panel"]) == {"λ_max over time", "trace over time"}
    draw(figure, STYLE, "key")
