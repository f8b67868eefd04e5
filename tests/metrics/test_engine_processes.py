"""What only a process of its own shows: what is imported, and how much memory it takes."""

from pathlib import Path

import metric_runs as runs
import numpy as np
import pytest
from processes import python


def test_torch_is_never_imported(walked, own):
    code = """
        import json, sys, warnings
        warnings.simplefilter("error")
        from trajectory_tools.metrics import analyze, compute
        rows = len(compute(sys.argv[1:], "symmetry"))
        analyze(sys.argv[1:])
        loaded = {name.partition(".")[0] for name in sys.modules}
        print(json.dumps([rows, sorted(loaded & {"torch", "matplotlib", "sklearn"})]))
    """
    rows, loaded = python(code, walked.path, own.path)
    assert rows > 0
    assert loaded == []


MEMORY = """
    import json, sys
    from pathlib import Path
    import trajectory_tools.store.chunks as chunks
    from trajectory_tools.metrics import analyze
    from trajectory_tools.metrics.symmetry import Symmetry
    chunks.CHUNK_VALUES = 100_000


    def peak():  # MB; what getrusage says would begin with what the parent had
        return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


    before = peak()
    found = analyze(sys.argv[1], [Symmetry("none"), "histogram", "dynamics"], saved=False)
    print(json.dumps([found["dynamics"].frame["step"].nunique(), before, peak()]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="where the peak is read")
def test_memory_does_not_grow_with_the_steps(tmp_path):
    shapes = {"in": (50, 100), "out": (10, 50)}  # 5,500 values: 2,000 steps are 264 MB in float64
    groups = [{"kind": "rescale", "in": [["in", 0]], "out": [["out", 1]]}]
    peaks = {}
    for n in (200, 2000):
        arrays = [
            {k: np.broadcast_to(a, (n, *a.shape[1:])) for k, a in runs.random_arrays(1, shapes=shapes, seed=i).items()}
            for i in range(3)
        ]
        arrays = [{k: a.astype(np.float32) for k, a in one.items()} for one in arrays]
        path = tmp_path / str(n)
        run = runs.write_run(path, *arrays, steps=range(n), symmetries=groups, parts=n // 20, compression="none")
        assert len(run.parts("tensors")) >= n // 40
        steps, before, peaks[n] = python(MEMORY, path)
        assert steps == n
        assert peaks[n] > before
    assert peaks[2000] - peaks[200] < 40, "MB, where the data are 240 MB larger"
