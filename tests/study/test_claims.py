"""Claims held against numbers made by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from trajectory_tools.experiments.study.claims import Number, judge, larger, meet, ordered, smallest, summary, vanishes

L2O, LION, ADAM = (Number(curve, "deviation") for curve in ("L2O", "Lion", "Adam"))


def verdict(claim, *rows):
    """The verdict on rows of numbers, one for each of the claim's, each with one number for each seed."""
    values = {number: np.array(row, float) for number, row in zip(claim.numbers, rows, strict=True)}
    return judge(claim, values, len(rows[0]))


@pytest.mark.parametrize(
    ("claim", "rows", "holds", "seeds"),
    [
        (larger(L2O, LION), ([3, 1, 3], [2, 2, 2]), True, 2),
        (larger(L2O, LION), ([2], [2]), False, 0),
        (larger(L2O, LION, factor=2), ([4.1, 4.1], [2, 2]), True, 2),
        (larger(L2O, LION, factor=2), ([3.9, 4.0], [2, 2]), False, 0),
        (larger(L2O, LION, factor=2), ([9, 0.1, 0.1], [1, 1, 1]), True, 1),  # the mean decides, and the seeds tell
        (vanishes(ADAM, L2O, below=1e-4), ([1e-5, 9e-5], [1, 1]), True, 2),
        (vanishes(ADAM, L2O, below=1e-4), ([2e-4, 1e-5], [1, 1]), False, 1),
        (vanishes(ADAM, L2O, below=0.02), ([0, 0], [0, 0]), True, 2),
        (meet([L2O, LION, ADAM], within=0.25), ([1.0, 1.0], [1.2, 1.0], [1.1, 1.2]), True, 2),
        (meet([L2O, LION], within=0.25), ([1.0, 1.0], [1.3, 1.0]), True, 1),
        (meet([L2O, LION], within=0.25), ([1.0], [1.26]), False, 0),
        (meet([LION, L2O], within=0.25), ([1.26], [1.0]), False, 0),
        (smallest("L2O", ["Lion", "Adam"], "loss"), ([1, 1], [2, 2], [1.5, 0.9]), True, 1),
        (smallest("L2O", ["Lion", "Adam"], "loss"), ([1, 1], [2, 2], [0.9, 0.9]), False, 0),
        (larger(L2O, LION), ([math.nan, 9], [1, 1]), False, 1),
        (vanishes(ADAM, L2O, below=0.1), ([0, 0], [math.nan, 1]), False, 1),
        (meet([L2O, LION], within=9), ([math.nan, 1], [1, 1]), False, 1),
        (smallest("L2O", ["Lion", "Adam"], "loss"), ([0, 0], [math.nan, 1], [1, 1]), False, 1),
    ],
)
def test_verdicts(claim, rows, holds, seeds):
    found = verdict(claim, *rows)
    assert (found.holds, found.seeds_holding, found.n_seeds) == (holds, seeds, len(rows[0]))


def test_a_number_that_is_missing_holds_nothing():
    found = judge(larger(L2O, LION), {L2O: np.ones(3)}, 3)
    assert not found.holds
    assert found.seeds_holding == 0
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["numbers"][1]["mean"] is None


def test_a_claim_says_what_is_compared_and_how():
    early, late = Number("L2O", "deviation at 10"), Number("L2O", "deviation at 100")
    said = {
        ("L2O > 2 × Lion", "deviation"): larger(L2O, LION, factor=2),
        ("deviation at 10 > deviation at 100", "L2O"): larger(early, late),
        ("L2O's deviation at 10 > Lion's deviation", ""): larger(early, LION),
        ("Adam ≤ 0.0001 × L2O", "deviation"): vanishes(ADAM, L2O, below=1e-4),
        ("L2O, Lion agree within 20 %", "deviation"): meet([L2O, LION], within=0.2),
        ("all agree within 20 %", "deviation"): meet([L2O, LION], within=0.2, together="all"),
        ("L2O < Lion, Adam", "loss"): smallest("L2O", ["Lion", "Adam"], "loss"),
    }
    for words, claim in said.items():
        assert (claim.text, claim.where) == words


def test_an_order_is_one_claim_for_each_pair_of_neighbours():
    claims = ordered(["Lion", "λ = 0.5", "SGD"], "deviation", paper="so it says")
    assert [claim.text for claim in claims] == ["Lion > λ = 0.5", "λ = 0.5 > SGD"]
    assert {claim.paper for claim in claims} == {"so it says"}


def test_summary_is_mean_and_standard_deviation_of_a_sample():
    assert summary(np.array([1.0, 2.0, 6.0])) == {
        "values": [1, 2, 6],
        "mean": 3,
        "sd": pytest.approx(math.sqrt((4 + 1 + 9) / 2)),
    }
    assert summary(np.array([1.0])) == {"values": [1], "mean": 1, "sd": None}
    assert summary(np.array([1.0, math.inf])) == {"values": [1, None], "mean": None, "sd": None}
