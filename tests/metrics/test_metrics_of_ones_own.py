"""Metrics of one's own, of other packages, and such that fail."""

from concurrent.futures import ThreadPoolExecutor

import metric_runs as runs
import numpy as np
import pytest
from metric_runs import CLOSE, NAMES
from ones_own import Mean
from processes import python

from trajectory_tools.errors import MissingData
from trajectory_tools.metrics import analyze, compute


def test_a_metric_of_ones_own(own, walked):
    frame = compute([own, walked], Mean())
    assert list(frame) == ["run", "label", "seed", "step", "value"]
    for value, run in zip(frame["value"], (own, walked), strict=True):
        assert value == pytest.approx(np.mean([run.array("update", n).mean() for n in run.shapes]))
    saved = analyze(own, [Mean(), "dynamics"])
    assert runs.same_values(saved["mean"].frame, frame.iloc[:1])
    assert runs.same_values(analyze(own, [Mean()])["mean"].frame, frame.iloc[:1])


class Broken(Mean):
    """Fails where it is told to."""

    name = "broken"
    where = ""

    def fail(self, where):
        if self.where == where:
            raise ZeroDivisionError(f"in {where}\nand a second line")

    def prepare(self, run):
        self.fail("prepare")

    def steps(self, context):
        self.fail("steps")

    def update(self, context, chunk):
        self.fail("update")
        return super().update(context, chunk)

    def combine(self, left, right):
        self.fail("combine")
        return super().combine(left, right)

    def finish(self, context, state):
        self.fail("finish")
        frame = super().finish(context, state)
        return {"nothing": None, "column": frame.assign(label="x")}.get(self.where, frame)


def broken(where):
    metric = Broken()
    metric.where = where
    return metric


@pytest.mark.parametrize("executor", [None, ThreadPoolExecutor(2)])
@pytest.mark.parametrize("where", ["prepare", "steps", "update", "combine", "finish", "nothing", "column"])
def test_a_metric_that_fails_stops_no_other(odd, where, executor):
    found = analyze(odd, ["dynamics", broken(where), "loss"], executor=executor, saved=False)
    assert runs.same(found["dynamics"].frame, compute(odd, "dynamics"), **CLOSE)
    assert not found["loss"].skipped
    [(run, reason)] = found["broken"].skipped.items()
    told = {"nothing": "TypeError: finish gives a tidy frame, and gave NoneType", "column": "ValueError: its frame has"}
    assert run == odd.name
    assert reason.startswith(f"broken failed: {told.get(where, f'ZeroDivisionError: in {where}')}")
    assert "\n" not in reason
    assert "Traceback" in found["broken"].failed[run]
    assert found["broken"].frame.empty
    with pytest.raises(MissingData, match=r"no broken of .*odd: broken failed: ") as alone:
        compute(odd, broken(where))
    assert "Traceback" in alone.value.__notes__[0]


def test_a_metric_that_fails_with_one_run_keeps_the_others(odd, walked):
    class Picky(Mean):
        name = "picky"

        def prepare(self, run):
            if run.path == odd.path:
                raise KeyError

    frame = compute([odd, walked], Picky())
    assert set(frame["run"]) == {walked.name}
    assert frame.attrs["skipped"] == {odd.name: "picky failed: KeyError: KeyError"}


THIRD_PARTY = '''
from dataclasses import dataclass
import numpy as np
import pandas as pd
from trajectory_tools.metrics import Metric

@dataclass(frozen=True)
class Largest(Metric):
    """The largest update."""
    factor: float = 1.0
    name = "largest"
    columns = ("update",)
    def prepare(self, run):
        return None
    def update(self, context, chunk):
        return max(float(np.abs(a).max()) for a in chunk.update.values())
    def combine(self, left, right):
        return max(left, right)
    def finish(self, context, state):
        return pd.DataFrame({"step": [0], "value": [self.factor * state]})

class Clash(Largest):
    name = "loss"

class Nameless(Metric):
    pass

not_a_metric = 3
'''


def test_another_packages_metric(tmp_path, walked):
    site = tmp_path / "site"
    info = site / "third_party-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "third_party.py").write_text(THIRD_PARTY)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1.0\n")
    entries = ["largest = third_party:Largest", "clash = third_party:Clash", "gone = third_party:Gone"]
    entries += ["missing = no_such_module:X", "number = third_party:not_a_metric", "nameless = third_party:Nameless"]
    (info / "entry_points.txt").write_text("\n".join(["[trajectory_tools.metrics]", *entries, ""]))
    code = """
        import json, sys, warnings
        from concurrent.futures import ThreadPoolExecutor
        from trajectory_tools.metrics import analyze, compute, metrics
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            names = sorted(metrics())
        said = sorted(str(w.message) for w in caught)
        assert metrics()["loss"].__module__ == "trajectory_tools.metrics.loss"
        value = compute(sys.argv[1], "largest", factor=2.0)["value"].item()
        with ThreadPoolExecutor(2) as executor:
            found = analyze(sys.argv[1], executor=executor, saved=False)
        print(json.dumps([names, said, value, found["largest"].frame["value"].item(), len(found)]))
    """
    names, said, value, plain, n = python(code, walked.path, path=site)
    assert names == sorted([*NAMES, "covariance", "largest", "tail_index", "temporal_covariance"])
    assert [message.split("'")[1] for message in said] == ["clash", "gone", "missing", "nameless", "number"]
    assert all("of another package was left out: " in message for message in said)
    for reason in ("the name 'loss' is taken", "no attribute 'Gone'", "No module named", "is no subclass of Metric"):
        assert any(reason in message for message in said)
    largest = max(np.abs(walked.array("update", name)).max() for name in walked.shapes)
    assert (value, plain, n) == (2 * largest, largest, 8)
