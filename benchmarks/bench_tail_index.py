"""How accurate the estimators of the tail index are, whether their intervals cover, and how fast they are."""

from __future__ import annotations

import argparse
import time

import numpy as np
from pairs import machine, report
from scipy.stats import levy_stable

from trajectory_tools.estimators import tail_index
from trajectory_tools.estimators.block import pooled_block
from trajectory_tools.estimators.ecf import ecf_alpha
from trajectory_tools.estimators.mcculloch import mcculloch_alpha
from trajectory_tools.metrics.tail_index import TailIndexMetric
from trajectory_tools.store.probe_set import ProbeSet

TARGETS = {
    "ecf": {0.8: 0.012, 1.2: 0.018, 1.5: 0.016, 1.8: 0.014, 2.0: 0.003},
    "mcculloch": {0.8: 0.011, 1.2: 0.016, 1.5: 0.020, 1.8: 0.030, 2.0: 0.030},
    "pooled-block": {0.8: 0.025, 1.2: 0.047, 1.5: 0.063, 1.8: 0.077, 2.0: 0.103},
}
BETWEEN = (0.83, 1.23, 1.53, 1.83)


def accuracy(repetitions: int, n: int, covered_of: int) -> None:
    """RMSE, in brackets what 90 % of sets of 100 repetitions have, and the coverage of 95 % intervals."""
    rng = np.random.default_rng(0)
    for alpha in sorted((*TARGETS["ecf"], *BETWEEN)):
        x = levy_stable.rvs(alpha, 0, size=(n, repetitions), random_state=rng)
        estimates = {
            "ecf": ecf_alpha(x),
            "mcculloch": mcculloch_alpha(x),
            "pooled-block": np.array([pooled_block(column[:, None]) for column in x.T]),
        }
        for name, found in estimates.items():
            errors = (found - alpha) ** 2
            again = [np.sqrt(rng.choice(errors, 100).mean()) for _ in range(1000)]
            low, high = np.quantile(again, [0.05, 0.95])
            target = TARGETS[name].get(alpha)
            intervals = [tail_index(column, estimator=name) for column in x.T[:covered_of]]
            covered = np.mean([one.low <= alpha <= one.high for one in intervals])
            said = f"{np.sqrt(errors.mean()):.4f} ({low:.4f}-{high:.4f}), {100 * covered:.0f} % covered"
            wanted = "between nodes" if target is None else f"{target:.3f}"
            report(f"RMSE of {name} at α = {alpha}, {repetitions} × n = {n:,}", said, f"{wanted}, 90-99 %")


def seconds(call: object, times: int = 5) -> float:
    """The median time of a call."""
    found = []
    for _ in range(times):
        start = time.perf_counter()
        call()  # type: ignore[operator]
        found.append(time.perf_counter() - start)
    return float(np.median(found))


def speed() -> None:
    """The estimator on many coordinates, SciPy's quantile start on some of them, and a whole probe."""
    rng = np.random.default_rng(0)
    x = levy_stable.rvs(1.5, 0, size=(64, 10_000), random_state=rng)
    ours = seconds(lambda: ecf_alpha(x))
    report("ECF, 10,000 coordinates × 64 samples", f"{ours:.3f} s", "1 s")
    some = x[:, :100]
    scipys = seconds(lambda: [levy_stable._fitstart(column) for column in some.T], 3) * 100
    report("scipy levy_stable._fitstart on the same (100 timed, × 100)", f"{scipys:.2f} s = {scipys / ours:.0f}x", "-")
    grad = (rng.standard_normal((64, 15_910)) * np.exp(2 * rng.standard_normal(15_910))).astype(np.float32)
    probe = ProbeSet(0, 128, 15_910, {"w": slice(0, 15_910)}, grad, -0.1 * grad)
    metric = TailIndexMetric()
    metric.update(None, probe)
    report(
        "tail_index of one probe, 64 × 15,910, both kinds",
        f"{seconds(lambda: metric.update(None, probe), 3):.1f} s",
        "-",
    )


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--repetitions", type=int, default=1000)
    options.add_argument("--samples", type=int, default=10_000)
    options.add_argument("--intervals", type=int, default=200, help="so many repetitions have one")
    chosen = options.parse_args()
    print(f"tail index; {machine()}")
    speed()
    accuracy(chosen.repetitions, chosen.samples, chosen.intervals)


if __name__ == "__main__":
    main()
