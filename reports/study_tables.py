"""The tables of a figure of the study: what is claimed and whether it holds, and the numbers beside the paper's."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trajectory_tools.experiments.study.claims import Number, Verdict
from trajectory_tools.experiments.study.reproduction import Reproduction, SettingResult
from trajectory_tools.reports.words import plus_minus

__all__ = ["caution", "claims_table", "definitions", "numbers_table", "verdict_line"]

NOTHING = "–"
MAX_NUMBERS = 3
"""Up to this many numbers of a claim are listed; of more, the first and the range of the others."""


def claims_table(reproduction: Reproduction) -> pd.DataFrame:
    """One row for each claim: setting, claim, number, paper, ours (mean ± sd over seeds), holds, seeds."""
    rows = [
        {
            "setting": result.setting.title,
            "claim": verdict.claim.text,
            "of": verdict.claim.where or NOTHING,
            "paper": _paper(result, verdict),
            "ours": _ours(verdict),
            "holds": "yes" if verdict.holds else "NO",
            "seeds": f"{verdict.seeds_holding} of {verdict.n_seeds}",
        }
        for result in reproduction.settings
        for verdict in result.verdicts
    ]
    return pd.DataFrame(rows, columns=["setting", "claim", "of", "paper", "ours", "holds", "seeds"])


def numbers_table(result: SettingResult) -> pd.DataFrame:
    """One row for each curve of a setting, one column for each number; in brackets the paper's."""
    rows = []
    for curve in result.setting.curves:
        row = {"curve": curve.label}
        for column in result.setting.columns:
            values = result.values.get(Number(curve.label, column.name))
            ours = NOTHING if values is None else _mean(values)
            row[column.name] = f"{ours} ({column.paper[curve.label]})" if curve.label in column.paper else ours
        rows.append(row)
    return pd.DataFrame(rows)


def definitions(reproduction: Reproduction) -> dict[str, str]:
    """Column → what exactly it is, each once; where the symmetry's share is among them, also what chance would be."""
    found: dict[str, str] = {}
    for result in reproduction.settings:
        for column in result.setting.columns:
            found.setdefault(column.name, str(column.reading))
            if found[column.name] != str(column.reading):
                found[f"{column.name} ({result.setting.title})"] = str(column.reading)
        if (level := chance(result)) is not None:
            found[f"chance ({result.setting.title})"] = (
                f"a random direction's {result.setting.symmetry} share, {level:.3g}"
            )
    return found


def chance(result: SettingResult) -> float | None:
    """The share that a random direction has along the setting's symmetry."""
    if not result.setting.symmetry:
        return None
    frame = result.frames["symmetry"]
    of_symmetry = frame["group"].astype(str).str.startswith(f"{result.setting.symmetry} ")
    return float(frame[of_symmetry & (frame["quantity"] == "chance")]["value"].iloc[0])


def caution(reproduction: Reproduction) -> str:
    """What to keep in mind of the paper's values beside ours, and of ours beside each other; empty where nothing."""
    sentences = []
    beside = any(column.paper for result in reproduction.settings for column in result.setting.columns)
    if reproduction.data == "digits" and beside:
        sentences.append(
            "The digits' network has 64 inputs where the paper's has 784: compare orders and factors, not sizes of"
            " numbers."
        )
    for result in reproduction.settings:
        cards = (run.metadata.get("optimizer", {}).get("weights", {}).get("card", {}) for run in result.runs)
        trained = sorted({card["meta_steps"] for card in cards if "meta_steps" in card})
        if len(trained) > 1:
            sentences.append(
                f"{result.setting.title}: the learned optimizers took {trained[0]:,} to {trained[-1]:,} steps of"
                " meta-training: part of what they differ in may come from that."
            )
    return " ".join(sentences)


def verdict_line(reproduction: Reproduction) -> str:
    """``9 of 10 claims hold.``"""
    verdicts = [verdict for result in reproduction.settings for verdict in result.verdicts]
    held = sum(verdict.holds for verdict in verdicts)
    return f"{held} of {len(verdicts)} claims hold."


def _paper(result: SettingResult, verdict: Verdict) -> str:
    if verdict.claim.paper:
        return verdict.claim.paper
    columns = {column.name: column.paper for column in result.setting.columns}
    read = [columns[number.column].get(number.curve, NOTHING) for number in verdict.claim.numbers]
    return "; ".join(read) if set(read) != {NOTHING} else NOTHING


def _ours(verdict: Verdict) -> str:
    texts = [_mean(values) for values in verdict.ours]
    if len(texts) <= MAX_NUMBERS:
        return "; ".join(texts)
    means = verdict.ours[1:].mean(axis=1)
    return f"{texts[0]}; others {plus_minus([means.min()])} to {plus_minus([means.max()])}"


def _mean(values: NDArray[np.float64]) -> str:
    """Mean ± sd; the mean of equal numbers is that number, which floating point may miss."""
    if len(values) > 1 and np.ptp(values) == 0:
        return f"{plus_minus(values[:1])}\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}0"
    return plus_minus(values)
