"""Numbers and names as a reader wants them."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["first_few", "listed", "number", "one_line", "plus_minus", "power_of_ten", "several", "wrapped"]

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float, digits: int = 3) -> str:
    """The number with a few significant digits, a power of ten written out where it is small or large.

    >>> number(0.01333), number(3.14e-14), number(12345.0, 2), number(float("nan"))
    ('0.0133', '3.14×10⁻¹⁴', '12000', 'NaN')
    """
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
    power = int(exponent)
    if -4 < power < 5:
        text = _trimmed(f"{float(f'{mantissa}e{power}'):.{max(digits - 1 - power, 0)}f}")
    else:
        text = f"{_trimmed(mantissa)}×10{_raised(power)}"
    return text.replace("-", "−")


def power_of_ten(value: float) -> str:
    """A tick of a logarithmic axis: ``10⁻³``; numbers between the powers are written as they are."""
    if value == 0:
        return "0"
    exponent = math.log10(abs(value))
    if abs(exponent - round(exponent)) > 1e-6:
        return number(value)
    sign = "−" if value < 0 else ""
    return sign + (f"{abs(value):g}" if -2 <= round(exponent) <= 2 else f"10{_raised(round(exponent))}")


def plus_minus(values: Iterable[float]) -> str:
    """Mean ± standard deviation (n − 1), the mean to the digits that the deviation allows; one value as it is."""
    found = np.array(list(values), float)
    if not found.size:
        return "–"
    if found.size == 1 or not np.isfinite(found).all():
        return ", ".join(dict.fromkeys(number(value) for value in found))
    mean, deviation = float(found.mean()), float(found.std(ddof=1))
    if deviation == 0:
        return f"{number(mean)}\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}0"
    digits = 2 + max(0, math.floor(math.log10(abs(mean))) - math.floor(math.log10(deviation))) if mean else 2
    return f"{number(mean, min(digits, 5))}\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{number(deviation, 2)}"


def one_line(text: str, limit: int = 60) -> str:
    """A name that others chose, fit for a figure: no line breaks or control characters, shortened in the middle."""
    flat = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return flat if len(flat) <= limit else f"{flat[: limit // 2]}…{flat[-(limit - limit // 2 - 1) :]}"


def wrapped(text: str, width: int = 36) -> str:
    """The name on up to three lines."""
    return "\n".join(textwrap.wrap(one_line(text, 3 * width), width, break_on_hyphens=False))


def listed(said: Mapping[Any, str]) -> str:
    """``Adam: 0.2; Lion: 0.3``, the names fit for a sentence."""
    return "; ".join(first_few([f"{one_line(name, 40)}: {text}" for name, text in said.items()]))


def first_few(items: Sequence[str], limit: int = 6) -> list[str]:
    """The first items, and how many more there are."""
    return [*items[:limit], *([f"and {len(items) - limit} more"] if len(items) > limit else [])]


def several(count: int, noun: str, plural: str | None = None) -> str:
    """``1 run``, ``3 runs``."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def _trimmed(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


def _raised(exponent: int) -> str:
    return str(exponent).translate(_SUPERSCRIPTS)
