"""Options of named entries (problems, optimizers): fields of a frozen dataclass, checked and listed without torch."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, NoReturn, Self, get_args, get_origin, get_type_hints

from trajectory_tools.errors import BadArgument, UnknownName

__all__ = ["BELOW_ONE", "NON_NEGATIVE", "POSITIVE", "UNIT", "Option", "Options", "Range", "option"]


@dataclass(frozen=True)
class Range:
    """The numbers that an option takes, in words and as a test."""

    words: str
    holds: Callable[[float], bool]


POSITIVE = Range("above 0", lambda number: number > 0)
NON_NEGATIVE = Range("at least 0", lambda number: number >= 0)
UNIT = Range("from 0 to 1", lambda number: 0 <= number <= 1)
BELOW_ONE = Range("at least 0 and below 1", lambda number: 0 <= number < 1)


def option(default: Any, help: str, *, choices: Iterable[str] = (), valid: Range | None = None) -> Any:
    """A dataclass field that is an option: its default, one line of help, and the names or numbers it takes."""
    return field(default=default, metadata={"help": help, "choices": tuple(choices), "valid": valid})


@dataclass(frozen=True)
class Option:
    """One option as listings show it: ``type`` in words, ``default`` as its Python value."""

    name: str
    type: str
    default: Any
    help: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base of an entry whose fields are its options, of type bool, int, float, str, or a tuple of int or float.

    A value may come as its own type, as JSON gives it back (lists), or as the command line does ("32,16", "true").
    Raises ``UnknownName`` for an option or choice that does not exist, ``BadArgument`` for a value of the wrong type,
    out of range, or not finite.
    """

    name: ClassVar[str]

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for entry in fields(self):
            given = getattr(self, entry.name)
            try:
                value = _converted(hints[entry.name], given)
            except (KeyError, OverflowError, TypeError, ValueError):
                self.refuse(entry.name, given, f"give {_words(hints[entry.name])}")
            choices, valid = entry.metadata["choices"], entry.metadata["valid"]
            if choices and value not in choices:
                raise UnknownName(entry.name, value, choices)
            several = isinstance(value, tuple)
            if valid and not all(map(valid.holds, value if several else (value,))):
                self.refuse(entry.name, given, f"give {_words(hints[entry.name])}{', each' * several} {valid.words}")
            object.__setattr__(self, entry.name, value)  # the way past frozen, while it is being made

    def refuse(self, option: str, found: object, advice: str) -> NoReturn:
        """Raise ``BadArgument`` about one option: what was found, what to do."""
        raise BadArgument(f"{self.name}: {option} is {found!r}; {advice}")

    @classmethod
    def make(cls, options: Mapping[str, Any]) -> Self:
        """The entry with these options; the names are checked first."""
        known = [entry.name for entry in fields(cls)]
        for given in options:
            if given not in known:
                raise UnknownName(f"option of {cls.name}:", given, known)
        return cls(**options)

    @classmethod
    def listing(cls) -> tuple[Option, ...]:
        """What this entry can be told, in the order of its fields."""
        hints = get_type_hints(cls)
        return tuple(
            Option(f.name, _words(hints[f.name]), f.default, f.metadata["help"], f.metadata["choices"])
            for f in fields(cls)
        )

    def options(self) -> dict[str, Any]:
        """The options as JSON holds them; ``make`` of it gives the same entry again."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _words(kind: Any) -> str:
    if get_origin(kind) is tuple:
        item, *rest = get_args(kind)
        return f"{'' if rest == [...] else f'{len(rest) + 1} '}{_words(item).split(maxsplit=1)[1]}s separated by commas"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}[kind]


def _converted(kind: Any, value: Any) -> Any:
    """``value`` as a ``kind``; any of Python's conversion errors where it is none."""
    if get_origin(kind) is tuple:
        item, *rest = get_args(kind)
        if isinstance(value, str):
            value = [part for part in value.split(",") if part.strip()]
        values = tuple(_converted(item, part) for part in (value if isinstance(value, Iterable) else [value]))
        if rest != [...] and len(values) != 1 + len(rest):
            raise ValueError
        return values
    if kind is bool:
        return value if isinstance(value, bool) else {"true": True, "false": False}[str(value).strip().lower()]
    if kind is str:
        return os.fspath(value)
    if isinstance(value, bool):  # Python counts True as 1; here it is a slip
        raise TypeError
    if kind is int:
        return int(value) if isinstance(value, str) else operator.index(value)
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    return number
