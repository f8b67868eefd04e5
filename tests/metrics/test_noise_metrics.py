"""The metrics of the noise: on probes made by hand, where every number is known, and on a run that was probed."""

import re
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import metric_runs as runs
import numpy as np
import pytest
import torch

from trajectory_tools.errors import BadArgument, MissingData
from trajectory_tools.metrics import analyze, compute
from trajectory_tools.metrics.covariance import Covariance
from trajectory_tools.metrics.summary import summarize
from trajectory_tools.metrics.tail_index import TailIndexMetric
from trajectory_tools.metrics.temporal_covariance import TemporalCovariance
from trajectory_tools.metrics.verdict import verdicts
from trajectory_tools.recorder import Recorder
from trajectory_tools.run import open_run
from trajectory_tools.store.probe_set import ProbeSet

QUICK = {"coordinates": 40, "directions": 12, "null_draws": 12, "resamples": 20}


def probe(step=0, *, k=60, d=80, batch_size=16, seed=0, sketch=None, scale=1.0, **arrays):
    rng = np.random.default_rng([seed, step])
    grad = rng.standard_normal((k, d)) * np.exp(np.linspace(-3, 3, d)) + 0.5
    update = -0.1 * np.tanh(grad) * scale
    arrays = {"grad": grad, "update": update, "mean_update": -0.1 * np.tanh(grad.mean(axis=0)) * scale} | arrays
    if sketch is None:
        return ProbeSet(step, batch_size, d, {"w": slice(0, d)}, **arrays)
    g, u, m = (arrays[name] for name in ("grad", "update", "mean_update"))
    products = {
        "grad·grad": g @ g.T,
        "update·update": u @ u.T,
        "update·grad": u @ g.T,
        "mean_update·update": u @ m,
        "mean_update·grad": g @ m,
        "mean_update·mean_update": np.array(m @ m),
    }
    cut = {name: a[..., :sketch] for name, a in arrays.items()}
    return ProbeSet(step, batch_size, d, {"w": slice(0, sketch)}, **cut, products=products)


def frame_of(metric, *probes):
    states = [metric.update(None, one) for one in probes]
    while len(states) > 1:
        states[:2] = [metric.combine(*states[:2])]
    return metric.finish(None, states[0])


def values(frame, kind, **keys):
    for key, value in ({"kind": kind} | keys).items():
        frame = frame[frame[key] == value]
    return dict(zip(frame["quantity"].astype(str), frame["value"], strict=True))


def test_the_covariance_is_numpys():
    one = probe()
    found = frame_of(Covariance(k=3), one)
    for kind in ("grad", "update"):
        x = getattr(one, kind)
        eigenvalues = np.linalg.eigvalsh(np.cov(x.T))[::-1]
        got = values(found, kind)
        assert got["trace"] == pytest.approx(eigenvalues.sum())
        np.testing.assert_allclose([got[f"eigenvalue_{i}"] for i in (1, 2, 3)], eigenvalues[:3])
        assert got["participation_ratio"] == pytest.approx(eigenvalues.sum() ** 2 / (eigenvalues**2).sum())
        m = one.mean_update if kind == "update" else x.mean(axis=0)
        around = (x - m).T @ (x - m) / len(x)
        assert got["paper_trace"] == pytest.approx(np.trace(around))
        assert got["paper_eigenvalue"] == pytest.approx(np.linalg.eigvalsh(around)[-1], rel=1e-3)
    u, g = one.update.mean(axis=0), one.grad.mean(axis=0)
    update, grad = values(found, "update"), values(found, "grad")
    assert update["cosine"] == pytest.approx(-(u @ g) / np.linalg.norm(u) / np.linalg.norm(g))
    trace = np.trace(np.cov(one.grad.T))
    assert grad["trace_per_sample"] == pytest.approx(16 * trace)
    assert grad["noise_scale"] == pytest.approx(16 * trace / (g @ g - trace / 60))
    rows = found[found["quantity"].isin(["trace", "eigenvalue_1", "noise_scale", "cosine"])]
    assert ((rows["low"] < rows["value"]) & (rows["value"] < rows["high"])).all()
    assert set(found["n"]) == {60}


def test_a_sketch_gives_the_same_numbers_and_says_what_it_cannot():
    full, sketch = (frame_of(Covariance(), probe(sketch=cut)) for cut in (None, 10))
    for kind in ("grad", "update"):
        whole, part = values(full, kind), values(sketch, kind)
        assert set(whole) - set(part) == {"overlap_chance"}
        for name in set(whole) & set(part):
            assert part[name] == pytest.approx(whole[name], rel=1e-8), name
    notes = sketch[sketch["quantity"] == "overlap"]["note"].astype(str)
    assert set(notes) == {"a sketch does not hold the directions"}


def test_overlap_is_with_the_probe_before_of_the_same_batch_size():
    found = frame_of(
        Covariance(k=2), probe(0), probe(0, batch_size=1, seed=5), probe(7), probe(7, batch_size=1, seed=5)
    )
    assert found[found["quantity"] == "overlap"].groupby("batch_size")["step"].agg(list).to_dict() == {
        1: [7, 7],
        16: [7, 7],
    }
    directions = [np.linalg.svd(p.grad - p.grad.mean(axis=0))[2][:2] for p in (probe(0), probe(7))]
    expected = np.square(directions[0] @ directions[1].T).sum() / 2
    assert values(found, "grad", batch_size=16, step=7)["overlap"] == pytest.approx(expected)
    assert (
        values(found, "grad", batch_size=1, step=7)["noise_scale"]
        != values(found, "grad", batch_size=16)["noise_scale"]
    )


def test_many_samples_are_measured_without_their_inner_products():
    one = probe(k=300)
    exact, found = (values(frame_of(Covariance(exact=n), one), "grad") for n in (4000, 100))
    assert found["trace"] == pytest.approx(exact["trace"])
    assert found["eigenvalue_1"] == pytest.approx(exact["eigenvalue_1"], rel=1e-6)
    assert found["participation_ratio"] == pytest.approx(exact["participation_ratio"], rel=1e-2)
    assert np.isnan(found["effective_rank"])
    assert np.isnan(found["paper_trace"])


def test_gaussian_noise_is_indistinguishable_and_heavy_tails_are_not():
    rng = np.random.default_rng(0)
    scales = np.exp(2 * rng.standard_normal(400))
    gaussian = [probe(s, d=400, grad=np.random.default_rng(s).standard_normal((60, 400)) * scales) for s in range(3)]
    heavy = [probe(s, d=400, grad=np.random.default_rng(s).standard_cauchy((60, 400)) * scales) for s in range(3)]
    for probes, word in ((gaussian, "indistinguishable from"), (heavy, "heavier than")):
        found = frame_of(TailIndexMetric(**QUICK), *probes).assign(run="r", label="L")
        for quantity in ("pooled_block", "ecf_coordinates", "mcculloch_coordinates", "ecf_projections"):
            if quantity == "pooled_block" and probes is heavy:
                continue  # outliers rule the sample covariance, and Gaussian noise of that looks as heavy to it
            verdict = verdicts(found, quantity)["L", "grad", 16]
            assert (verdict.said, verdict.probes) == (word, 3), quantity
        assert verdicts(found)["L", "grad", 16].alpha < 1.6
        gains = found[(found["kind"] == "grad") & (found["quantity"] == "stable_gain")]["value"]
        assert (gains > 0).all() == (word == "heavier than")


def test_surrogates_are_the_updates_second_null():
    surrogate = probe(seed=9).update
    found = frame_of(TailIndexMetric(**QUICK), probe(surrogate_update=surrogate, surrogate_grad=surrogate))
    update, grad = values(found, "update"), values(found, "grad")
    alone = values(frame_of(TailIndexMetric(**QUICK), probe(update=surrogate)), "update")
    assert update["pooled_block_surrogate"] == pytest.approx(alone["pooled_block"])
    assert not any(name.endswith("_surrogate") for name in grad)
    few = frame_of(TailIndexMetric(**QUICK), probe(surrogate_update=surrogate[:55]))
    assert "of 55 surrogates" in few[few["quantity"] == "ecf_projections_surrogate"]["note"].iloc[0]


def test_the_same_probe_has_the_same_numbers_and_every_quantity_is_documented():
    one = probe(surrogate_update=probe(seed=9).update)
    for metric in (TailIndexMetric(**QUICK), Covariance()):
        first, again = (frame_of(metric, one) for _ in range(2))
        assert runs.same(first, again)
        for quantity in first["quantity"].astype(str):
            base = quantity
            for suffix in ("_null", "_surrogate", "_spread"):
                base = base.removesuffix(suffix)
            shown = "eigenvalue_1" if base.startswith("eigenvalue") else base
            assert f"``{shown}``" in metric.__doc__, quantity


BAD = {
    "one": (lambda g: g[:1], "a single sample has no noise"),
    "equal": (lambda g: np.repeat(g[:1], len(g), axis=0), "all samples are equal"),
    "zeros": (lambda g: 0 * g, "all samples are 0"),
    "nan": (lambda g: np.where(np.arange(len(g))[:, None] == 3, np.nan, g), "1 of 60 samples hold NaN or infinite"),
    "inf": (lambda g: np.where(np.arange(len(g))[:, None] == 3, np.inf, g), "1 of 60 samples hold NaN or infinite"),
}


@pytest.mark.parametrize("metric", [TailIndexMetric(**QUICK), Covariance()], ids=lambda m: m.name)
@pytest.mark.parametrize("which", BAD)
def test_bad_samples_are_said_and_leave_the_others_alone(which, metric):
    spoil, reason = BAD[which]
    good = probe()
    with np.errstate(all="ignore"):
        bad = probe(grad=spoil(good.grad), update=spoil(good.update), mean_update=good.mean_update)
        with pytest.raises(MissingData, match=reason):
            frame_of(metric, bad)
        half = frame_of(metric, probe(update=spoil(good.update)))
    spoiled = half[half["kind"] == "update"]
    known = spoiled[~spoiled["quantity"].isin(["cosine"])]["value"]
    assert known.isna().all()
    assert spoiled["note"].astype(str).str.contains(reason).any()
    assert half[half["kind"] == "grad"]["value"].notna().any()


def test_few_mini_batches_have_the_papers_estimate_alone():
    found = frame_of(TailIndexMetric(**QUICK), probe(k=20))
    assert np.isfinite(values(found, "grad")["pooled_block"])
    rows = found[found["quantity"] == "ecf_projections"]
    assert rows["value"].isna().all()
    assert rows["note"].astype(str).str.startswith("not enough samples: 20").all()
    unknown = frame_of(Covariance(), probe(batch_size=None))
    assert "batch size is not known" in unknown[unknown["quantity"] == "noise_scale"]["note"].iloc[0]
    assert (unknown["batch_size"] == 0).all()


def test_options_are_checked():
    for wrong in (
        lambda: Covariance(k=0),
        lambda: TailIndexMetric(null_draws=0),
        lambda: TemporalCovariance(windows=0),
    ):
        with pytest.raises(BadArgument, match="1 or more"):
            wrong()


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    """Plain SGD on a linear model, probed with 60 mini-batches in front of steps 0 and 4."""
    path = tmp_path_factory.mktemp("probed") / "run"
    torch.manual_seed(0)
    model = torch.nn.Linear(6, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def batch():
        return torch.randn(8, 6), torch.randint(3, (8,))

    def loss_of(b):
        return torch.nn.functional.cross_entropy(model(b[0]), b[1])

    with Recorder(path, model, optimizer) as recorder:
        for step in range(8):
            if step % 4 == 0:
                recorder.probe(loss_of, [batch() for _ in range(60)])
            optimizer.zero_grad()
            loss = loss_of(batch())
            loss.backward()
            optimizer.step()
            recorder.log(loss=loss)
    return open_run(path)


def test_a_probed_run_is_measured_on_any_executor(probed):
    wanted = [TailIndexMetric(**QUICK), Covariance()]
    serial = analyze(probed, wanted, saved=False)
    for executor in (ThreadPoolExecutor(2), ProcessPoolExecutor(1)):
        with executor:
            spread = analyze(probed, wanted, executor=executor, saved=False)
        for name, analysis in serial.items():
            assert not analysis.failed
            assert not spread[name].failed
            assert runs.same(spread[name].frame, analysis.frame, rtol=1e-12)
    frame = serial["covariance"].frame
    assert set(frame["step"]) == {0, 4}
    assert set(frame["batch_size"]) == {8}
    for step, one in zip((0, 4), probed.probe_sets(), strict=True):
        trace = np.trace(np.cov(one.grad.astype(float).T))
        assert values(frame, "grad", step=step)["trace"] == pytest.approx(trace)
        assert values(frame, "update", step=step)["trace"] == pytest.approx(0.01 * trace, rel=1e-3)  # SGD: u = −0.1 g
        assert values(frame, "update", step=step)["cosine"] == pytest.approx(1, abs=1e-5)
    tails = serial["tail_index"].frame
    update, grad = (values(tails, kind, step=0)["pooled_block"] for kind in ("update", "grad"))
    assert update == pytest.approx(grad, rel=1e-3)
    row = summarize([probed], serial).iloc[0]
    assert row["α updates"] == pytest.approx(
        tails[tails["quantity"] == "pooled_block"]["value"][tails["kind"] == "update"].mean()
    )
    of_updates = tails[tails["kind"] == "update"].set_index(["quantity", "step"])
    alpha, null = of_updates.loc["pooled_block"]["value"], of_updates.loc["pooled_block_null"]
    outside = int(((alpha < null["low"]) | (alpha > null["high"])).sum())
    assert re.fullmatch(rf"(indistinguishable|heavier|lighter) \({outside} of {len(alpha)} outside\)", row["tails"])
    assert row["noise scale"] > 0


def test_a_run_without_probes_says_how_to_record_them(walked):
    for name in ("tail_index", "covariance"):
        with pytest.raises(MissingData, match="its noise was not probed; call rec"):
            compute(walked, name)


def test_temporal_covariance_is_numpys_window_by_window(walked):
    found = compute(walked, "temporal_covariance", windows=3, steps_per_window=5, k=2)
    vectors = {
        kind: np.concatenate([walked.array(kind, n).reshape(24, -1) for n in walked.shapes], axis=1)
        for kind in ("grad", "update")
    }
    for kind, x in vectors.items():
        before = None
        for first in (0, 8, 16):
            rows = x[first + np.array([0, 2, 4, 5, 7])]
            eigenvalues = np.linalg.eigvalsh(np.cov(rows.T))[::-1]
            got = values(found, kind, step=first)
            assert got["temporal_trace"] == pytest.approx(eigenvalues.sum())
            assert got["temporal_eigenvalue_2"] == pytest.approx(eigenvalues[1])
            directions = np.linalg.svd(rows - rows.mean(axis=0))[2][:2]
            if before is not None:
                assert got["temporal_overlap"] == pytest.approx(np.square(before @ directions.T).sum() / 2)
            before = directions
    assert set(found["n"]) == {5, 2}


def test_temporal_windows_do_not_depend_on_the_parts(tmp_path):
    arrays = runs.walk(40, seed=3)
    frames = []
    for parts in (1, 7):
        run = runs.write_run(tmp_path / str(parts), *arrays, steps=range(40), parts=parts)
        with ThreadPoolExecutor(2) as executor:
            frame = compute(run, "temporal_covariance", executor=executor if parts > 1 else None)
        frames.append(frame.drop(columns=["run", "label"]))
    assert runs.same(*frames, rtol=1e-9)
    with pytest.raises(MissingData, match="needs 4 recorded steps"):
        compute(runs.write_run(tmp_path / "short", *runs.walk(3), steps=range(3)), "temporal_covariance")
