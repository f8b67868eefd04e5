"""Options: what they accept, refuse and list, for problems and optimizers alike."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trajectory_tools.errors import BadArgument, UnknownName
from trajectory_tools.optimizers import OPTIMIZERS
from trajectory_tools.problems import PROBLEMS, make_problem
from trajectory_tools.problems.base import streams


def test_the_problems():
    assert list(PROBLEMS) == ["quadratic", "digits-mlp", "mnist-mlp", "fashion-mnist-mlp"]
    assert make_problem("digits-mlp").options() == {
        "hidden": [20],
        "activation": "sigmoid",
        "batch_norm": False,
        "batch_size": 128,
    }


@pytest.mark.parametrize("entry", [*PROBLEMS.values(), *OPTIMIZERS.values()], ids=lambda entry: entry.name)
def test_every_option_is_explained_and_its_default_accepted(entry):
    assert entry.__doc__
    for option in entry.listing():
        assert option.help
        assert option.type.split()[0] in {"true", "a", "whole", "2"}, option
        assert entry.make({option.name: option.default}) == entry()
        if not option.choices:
            text = ",".join(map(str, option.default)) if isinstance(option.default, tuple) else str(option.default)
            assert entry.make({option.name: text}) == entry(), "the command line's form"


@given(
    hidden=st.lists(st.integers(1, 64), max_size=3),
    activation=st.sampled_from(["sigmoid", "relu", "leaky_relu", "tanh"]),
    batch_norm=st.booleans(),
    batch_size=st.integers(1, 2000),
)
def test_options_survive_json(**options):
    problem = make_problem("digits-mlp", **options)
    assert make_problem("digits-mlp", **json.loads(json.dumps(problem.options()))) == problem
    assert problem.options() == options


def test_the_forms_of_one_value():
    expected = make_problem("digits-mlp", hidden=(32, 16))
    for form in ([32, 16], "32,16", " 32, 16,", np.array([32, 16])):
        assert make_problem("digits-mlp", hidden=form) == expected
    assert make_problem("digits-mlp", hidden=7) == make_problem("digits-mlp", hidden="7")
    assert make_problem("digits-mlp", batch_norm="True").options()["batch_norm"] is True
    assert make_problem("quadratic", size=np.int64(3)).options() == {"size": 3}


@pytest.mark.parametrize(
    ("problem", "options", "message"),
    [
        ("quadratic", {"size": 0}, r"quadratic: size is 0; give a whole number above 0"),
        ("quadratic", {"size": 2.5}, r"size is 2.5; give a whole number"),
        ("quadratic", {"size": "ten"}, r"size is 'ten'; give a whole number"),
        ("quadratic", {"size": True}, r"size is True"),
        (
            "digits-mlp",
            {"hidden": (20, 0)},
            r"hidden is \(20, 0\); give whole numbers separated by commas, each above 0",
        ),
        ("digits-mlp", {"hidden": None}, r"hidden is None"),
        ("digits-mlp", {"hidden": {"a": 1}}, r"hidden is \{'a': 1\}"),
        ("digits-mlp", {"batch_norm": 1}, r"batch_norm is 1; give true or false"),
        ("digits-mlp", {"batch_norm": "perhaps"}, r"give true or false"),
        ("digits-mlp", {"batch_size": -1}, r"batch_size is -1; give a whole number above 0"),
        ("mnist-mlp", {"data_dir": 3}, r"data_dir is 3; give a text"),
        ("digits-mlp", {"activation": 3}, r"activation is 3; give a text"),
    ],
)
def test_bad_values(problem, options, message):
    with pytest.raises(BadArgument, match=message):
        make_problem(problem, **options)


def test_unknown_names_list_the_near_ones():
    with pytest.raises(UnknownName, match="unknown problem 'digit-mlp'; did you mean digits-mlp"):
        make_problem("digit-mlp")
    with pytest.raises(UnknownName, match="unknown option of digits-mlp: 'batchsize'; did you mean batch_size"):
        make_problem("digits-mlp", batchsize=3)
    with pytest.raises(UnknownName, match="unknown activation 'leakyrelu'; did you mean leaky_relu"):
        make_problem("digits-mlp", activation="leakyrelu")


def test_streams_differ_between_seeds_and_within_one():
    drawn = [stream for seed in (0, 1, 2**32, 2**32 + 1, 2**64) for stream in streams(seed, 3)]
    assert len(set(drawn)) == len(drawn)
    assert streams(5, 2) == streams(5, 3)[:2]


@pytest.mark.parametrize("seed", [-1, 1.5, "0", None])
def test_bad_seeds(seed):
    with pytest.raises(BadArgument, match="give a whole number from 0 on"):
        make_problem("quadratic").start(seed)


def test_listing_and_making_need_no_torch():
    code = (
        "import sys; from trajectory_tools.problems import PROBLEMS, make_problem;"
        "from trajectory_tools.optimizers import OPTIMIZERS, optimizer_options;"
        "[p.listing() for p in PROBLEMS.values()]; make_problem('mnist-mlp'); optimizer_options('lion-sgd');"
        "import trajectory_tools.experiments.tune; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
