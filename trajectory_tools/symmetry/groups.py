"""Symmetry groups as data, so that analysis needs no model (Kunin et al. 2021, arXiv 2012.04728)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from trajectory_tools.errors import BadArgument, UnknownName

__all__ = ["Axis", "Kind", "SymmetryGroup", "rescale", "scale", "translation"]

Kind = Literal["rescale", "scale", "translation"]

Axis = tuple[str, int]
"""A parameter's name and the axis of it that runs over the units."""


@dataclass(frozen=True)
class SymmetryGroup:
    """Parameters along which the loss does not change, unit by unit.

    ``kind``
        - ``rescale``: a unit's incoming parameters times ρ and its outgoing ones divided by ρ (a linear or positively
          homogeneous activation in between; Kunin et al. 2021, sec. 3).
        - ``scale``: a unit's incoming parameters times ρ (batch normalization behind them; ibid.).
        - ``translation``: the same number added to a column of all units (softmax behind them; ibid.).
    ``inputs``, ``outputs``
        pairs (parameter name, axis over the units); ``outputs`` only for ``rescale``.
    ``units``
        number of units: the length of each of those axes.
    """

    kind: Kind
    inputs: tuple[Axis, ...]
    outputs: tuple[Axis, ...] = ()
    units: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise UnknownName("kind of symmetry", str(self.kind), get_args(Kind))
        if not self.inputs:
            raise BadArgument(f"a {self.kind} symmetry needs at least one parameter in its inputs, found none")
        if bool(self.outputs) != (self.kind == "rescale"):
            raise BadArgument(
                f"a {self.kind} symmetry {'needs' if self.kind == 'rescale' else 'has no'} outputs,"
                f" found {list(self.outputs) or 'none'}"
            )
        names = self.names
        if len(set(names)) != len(names):
            raise BadArgument(f"a {self.kind} symmetry names a parameter twice: {', '.join(names)}")

    @property
    def axes(self) -> tuple[Axis, ...]:
        """Every (parameter, axis) pair of the group, inputs first."""
        return self.inputs + self.outputs

    @property
    def names(self) -> tuple[str, ...]:
        """The group's parameters, inputs first."""
        return tuple(name for name, _ in self.axes)

    @property
    def label(self) -> str:
        """What tables and figures call the group, such as ``rescale 0.weight+0.bias → 2.weight``."""
        inputs = "+".join(name for name, _ in self.inputs)
        outputs = "+".join(name for name, _ in self.outputs)
        return f"{self.kind} {inputs} → {outputs}" if outputs else f"{self.kind} {inputs}"

    def checked(self, shapes: Mapping[str, Sequence[int]]) -> SymmetryGroup:
        """This group with ``units`` filled in, once its names and axes are found to fit ``shapes``."""
        lengths = set() if self.units is None else {self.units}
        for name, axis in self.axes:
            if name not in shapes:
                raise UnknownName(f"parameter in the {self.kind} symmetry:", name, shapes)
            if not 0 <= axis < len(shapes[name]):
                raise BadArgument(
                    f"the {self.kind} symmetry takes axis {axis} of {name!r}, whose shape is {tuple(shapes[name])};"
                    " give the axis that runs over the units"
                )
            lengths.add(shapes[name][axis])
        if len(lengths) != 1:
            raise BadArgument(
                f"the {self.kind} symmetry's axes differ in length ({', '.join(map(str, sorted(lengths)))});"
                " each must run over the same units"
            )
        return SymmetryGroup(self.kind, self.inputs, self.outputs, lengths.pop())

    def to_json(self) -> dict[str, Any]:
        """The form that run.json holds."""
        out = {"out": [list(axis) for axis in self.outputs]} if self.outputs else {}
        return {"kind": self.kind, "in": [list(axis) for axis in self.inputs], **out, "units": self.units}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SymmetryGroup:
        """The group that ``to_json`` wrote; also accepts a user's dict in that form."""
        if extra := set(data) - {"kind", "in", "out", "units"}:
            raise UnknownName("key in a symmetry group:", sorted(extra)[0], ["kind", "in", "out", "units"])
        try:
            inputs, outputs = (tuple((str(n), int(a)) for n, a in data.get(key, ())) for key in ("in", "out"))
            units = data.get("units")
            return cls(data["kind"], inputs, outputs, units if units is None else int(units))
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, BadArgument):
                raise
            raise BadArgument(
                f"cannot read the symmetry group {dict(data)!r}; it needs 'kind' and 'in' as [[parameter, axis], ...]"
            ) from error


def rescale(inputs: Sequence[Axis], outputs: Sequence[Axis]) -> SymmetryGroup:
    """Rescaling of each unit between two layers: ``rescale([("0.weight", 0), ("0.bias", 0)], [("2.weight", 1)])``."""
    return SymmetryGroup("rescale", tuple(inputs), tuple(outputs))


def scale(inputs: Sequence[Axis]) -> SymmetryGroup:
    """Scaling of each unit in front of batch normalization: ``scale([("0.weight", 0), ("0.bias", 0)])``."""
    return SymmetryGroup("scale", tuple(inputs))


def translation(inputs: Sequence[Axis]) -> SymmetryGroup:
    """Translation of all units in front of softmax: ``translation([("2.weight", 0), ("2.bias", 0)])``."""
    return SymmetryGroup("translation", tuple(inputs))
