"""Built-in problems: what there is to train, by name; importing this loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trajectory_tools.errors import UnknownName
from trajectory_tools.problems.base import SEED_LIMIT, Optimizee, Problem
from trajectory_tools.problems.mlp import DigitsMLP, FashionMnistMLP, MnistMLP
from trajectory_tools.problems.quadratic import Quadratic

__all__ = ["PROBLEMS", "SEED_LIMIT", "Optimizee", "Problem", "make_problem"]

PROBLEMS: Mapping[str, type[Problem]] = {
    problem.name: problem for problem in (Quadratic, DigitsMLP, MnistMLP, FashionMnistMLP)
}


def make_problem(name: str, **options: Any) -> Problem:
    """The problem of this name: ``make_problem("digits-mlp", hidden=(32,), activation="relu")``.

    ``PROBLEMS[name].listing()`` says what options there are. Raises ``UnknownName`` for a problem, option or choice
    that does not exist, ``BadArgument`` for a value that cannot be used.
    """
    if name not in PROBLEMS:
        raise UnknownName("problem", name, PROBLEMS)
    return PROBLEMS[name].make(options)
