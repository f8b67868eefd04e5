"""How long the covariance of many samples takes, against its own matrix product and eigendecomposition."""

from __future__ import annotations

import argparse
import time

import numpy as np
from pairs import machine, ratio, report

from trajectory_tools.metrics.covariance import Covariance
from trajectory_tools.store.probe_set import ProbeSet


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--samples", type=int, default=2000)
    options.add_argument("--values", type=int, default=15_910)
    options.add_argument("--pairs", type=int, default=3)
    chosen = options.parse_args()
    n, d = chosen.samples, chosen.values
    rng = np.random.default_rng(0)
    grad = (rng.standard_normal((n, d)) * np.exp(rng.standard_normal(d))).astype(np.float32)
    update = (-0.1 * np.tanh(grad)).astype(np.float32)
    probe = ProbeSet(0, 1, d, {"w": slice(0, d)}, grad, update, mean_update=update.mean(axis=0))
    print(f"covariance of {n:,} × {d:,}, gradients and updates; {machine()}")

    def measure() -> float:
        start = time.perf_counter()
        Covariance().update(None, probe)
        return time.perf_counter() - start

    def parts() -> float:
        """The product and eigh of both kinds, of the samples as float64."""
        given = [samples.astype(np.float64) for samples in (grad, update)]
        start = time.perf_counter()
        for samples in given:
            np.linalg.eigh(samples @ samples.T)
        return time.perf_counter() - start

    report("covariance / its product and eigh", ratio(measure, parts, pairs=chosen.pairs), "1.5x")


if __name__ == "__main__":
    main()
