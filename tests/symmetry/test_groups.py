"""Symmetry groups as data."""

import json

import pytest

from trajectory_tools.errors import BadArgument, TrajectoryError, UnknownName
from trajectory_tools.symmetry import SymmetryGroup, rescale, scale, translation

SHAPES = {"0.weight": (20, 64), "0.bias": (20,), "2.weight": (10, 20), "2.bias": (10,), "gain": ()}
GROUPS = [
    rescale([("0.weight", 0), ("0.bias", 0)], [("2.weight", 1)]),
    scale([("0.weight", 0), ("0.bias", 0)]),
    translation([("2.weight", 0), ("2.bias", 0)]),
]


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.kind)
def test_a_group_survives_json(group):
    checked = group.checked(SHAPES)
    assert checked.units == (10 if group.kind == "translation" else 20)
    assert checked.checked(SHAPES) == checked
    assert SymmetryGroup.from_json(json.loads(json.dumps(checked.to_json()))) == checked
    assert SymmetryGroup.from_json(group.to_json()) == group
    assert hash(checked) == hash(SymmetryGroup.from_json(checked.to_json()))


def test_the_json_is_the_form_of_the_design():
    assert GROUPS[0].checked(SHAPES).to_json() == {
        "kind": "rescale",
        "in": [["0.weight", 0], ["0.bias", 0]],
        "out": [["2.weight", 1]],
        "units": 20,
    }
    assert GROUPS[0].label == "rescale 0.weight+0.bias → 2.weight"
    assert SymmetryGroup.from_json({"kind": "translation", "in": [["2.weight", 0], ["2.bias", 0]]}) == GROUPS[2]
    assert GROUPS[0].names == ("0.weight", "0.bias", "2.weight")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"kind": "rotate", "in": [["0.weight", 0]]}, "kind of symmetry 'rotate'"),
        ({"kind": "scale", "in": []}, "at least one"),
        ({"kind": "scale"}, "at least one"),
        ({"in": [["0.weight", 0]]}, "cannot read"),
        ({"kind": "scale", "in": [["0.weight", 0]], "out": [["2.weight", 1]]}, "has no outputs"),
        ({"kind": "rescale", "in": [["0.weight", 0]]}, "needs outputs"),
        ({"kind": "scale", "in": [["0.weight", 0], ["0.weight", 1]]}, "twice"),
        ({"kind": "scale", "in": "0.weight"}, "cannot read"),
        ({"kind": "scale", "in": [["0.weight"]]}, "cannot read"),
        ({"kind": "scale", "in": [["0.weight", "rows"]]}, "cannot read"),
        ({"kind": "scale", "in": [["0.weight", 0]], "unit": 3}, "did you mean units"),
        ({"kind": "scale", "in": [["0.weight", 0]], "units": "all"}, "cannot read"),
        ({"kind": "scale", "in": [["0.wieght", 0]]}, "did you mean 0.weight"),
        ({"kind": "scale", "in": [["0.weight", 2]]}, "axis 2"),
        ({"kind": "scale", "in": [["0.weight", -1]]}, "axis -1"),
        ({"kind": "scale", "in": [["gain", 0]]}, "axis 0"),
        ({"kind": "scale", "in": [["0.weight", 1], ["0.bias", 0]]}, "20, 64"),
        ({"kind": "scale", "in": [["0.weight", 0]], "units": 7}, "7, 20"),
    ],
)
def test_a_group_that_cannot_be_is_one_sentence(data, words):
    with pytest.raises(BadArgument, match=words) as caught:
        SymmetryGroup.from_json(data).checked(SHAPES)
    assert isinstance(caught.value, TrajectoryError)
    assert "\n" not in str(caught.value)


def test_an_unknown_kind_lists_the_known():
    with pytest.raises(UnknownName, match="rescale"):
        SymmetryGroup("rescal", (("0.weight", 0),))
