"""Files of weights: written whole, read safely, and which of those that ship fit a problem."""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import resource
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from trajectory_tools.errors import BadArgument, MissingData, OutputExists, TrajectoryError, UnsupportedFormat
from trajectory_tools.l2o import choice
from trajectory_tools.l2o.choice import choose_weights, fitting_weights, shipped_weights
from trajectory_tools.l2o.network import CoordinatewiseLSTM
from trajectory_tools.l2o.weights import CARD_VERSION, load_weights, network_from, save_weights, sha256
from trajectory_tools.problems import make_problem


def network(seed=0, **options):
    torch.manual_seed(seed)
    return CoordinatewiseLSTM(**options)


def assert_same(one, other):
    assert (one.preprocess, one.hidden, one.output_scale) == (other.preprocess, other.hidden, other.output_scale)
    found, expected = one.state_dict(), other.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def refused(path, error=BadArgument):
    """The one sentence with which a file is refused, which names it."""
    with pytest.raises(error) as caught:
        load_weights(path)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert path.name in sentence
    return sentence


@pytest.mark.parametrize("options", [{}, {"preprocess": False}, {"hidden": 7, "output_scale": 0.25}])
def test_what_is_saved_is_loaded(tmp_path, options):
    saved = network(**options)
    save_weights(tmp_path / "new" / "w.safetensors", saved, {"recipe": {"unroll": 20}, "seed": 3})
    loaded, card = load_weights(tmp_path / "new/w.safetensors")
    assert_same(loaded, saved)
    assert card.pop("format") == CARD_VERSION == 1
    settings = {name: getattr(saved, name) for name in ("preprocess", "hidden", "output_scale")}
    assert card == {"recipe": {"unroll": 20}, "seed": 3, **settings}
    assert not any(weight.requires_grad for weight in loaded.parameters())
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["w.safetensors"]


def test_the_same_weights_and_card_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        save_weights(tmp_path / name, network(), {"b": 1, "a": [1, 2]})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").stat().st_size < 30_000


def test_a_card_keeps_what_json_has_no_word_for(tmp_path):
    card = {"losses": [0.5, math.nan, (math.inf, 1)], "where": Path("data"), 3: True, "none": None}
    save_weights(tmp_path / "w", network(), card)
    _, found = load_weights(tmp_path / "w")
    expected = {"losses": [0.5, None, [None, 1]], "where": "data", "3": True, "none": None}
    assert {name: found[name] for name in expected} == expected


def test_float64_stays(tmp_path):
    save_weights(tmp_path / "w", network().double())
    assert load_weights(tmp_path / "w")[0].output.weight.dtype == torch.float64


def test_the_sha256_is_that_of_the_network_in_whichever_file(tmp_path):
    save_weights(tmp_path / "w", network(), {"seed": 1})
    torch.save(network().state_dict(), tmp_path / "w.pt")
    found = {sha256(network()), choose_weights(tmp_path / "w").sha256, choose_weights(tmp_path / "w.pt").sha256}
    assert len(found) == 1
    others = [network(1), network(output_scale=0.2), network(preprocess=False), network(hidden=19)]
    assert len(found | set(map(sha256, others))) == 5


@pytest.mark.parametrize("n_inputs", [1, 2])
def test_to_and_from_two_cells_and_a_linear_layer(n_inputs):
    """By the state dict alone; the keys are those of existing checkpoints."""

    def cells():
        return nn.ModuleDict(
            {"recurs": nn.LSTMCell(n_inputs, 20), "recurs2": nn.LSTMCell(20, 20), "output": nn.Linear(20, 1)}
        )

    theirs, back = cells(), cells()
    made = network_from(theirs.state_dict())
    assert made.preprocess == (n_inputs == 2)
    back.load_state_dict(made.state_dict())
    assert all(torch.equal(back.state_dict()[name], value) for name, value in theirs.state_dict().items())
    parts = {"weight_ih", "weight_hh", "bias_ih", "bias_hh"}
    needed = {f"{cell}.{part}" for cell in ("recurs", "recurs2") for part in parts} | {"output.weight", "output.bias"}
    assert set(made.state_dict()) == needed


WRAPPINGS = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"epoch": 3, "state_dict": state},
    "optimizer": lambda state: {"loss": 0.1, "optimizer": state, "args": {"lr": 1e-3}},
    "module": lambda state: {f"module.{name}": value for name, value in state.items()},
    "both": lambda state: {"model": {f"_orig_mod.module.{name}": value for name, value in state.items()}},
    "half": lambda state: {name: value.half() for name, value in state.items()},
    "double": lambda state: {name: value.double() for name, value in state.items()},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_torch_checkpoint_of_that_shape_is_loaded(tmp_path, wrapping, zipped):
    saved = network(3)
    file = tmp_path / "checkpoint.pt"
    torch.save(WRAPPINGS[wrapping](saved.state_dict()), file, _use_new_zipfile_serialization=zipped)
    loaded, card = load_weights(file)
    assert card == {}
    if wrapping == "half":
        saved.half().float()
    assert loaded.output.weight.dtype == (torch.float64 if wrapping == "double" else torch.float32)
    assert_same(loaded.float(), saved)


def test_safetensors_without_a_card_are_loaded(tmp_path):
    saved = network(preprocess=False)
    save_file(saved.state_dict(), tmp_path / "w.safetensors")
    loaded, card = load_weights(tmp_path / "w.safetensors")
    assert_same(loaded, saved)
    assert card == {}


class Malicious:
    """Unpickled, it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("how", ["torch", "torch, not zipped", "pickle", "among the weights"])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path, how):
    file, made = tmp_path / "weights.pt", tmp_path / "made"
    content = {**network().state_dict(), "extra": Malicious(made)} if how == "among the weights" else Malicious(made)
    if how == "pickle":
        file.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=how != "torch, not zipped")
    assert "is refused: it is a pickle of more than tensors, and loading it could run code" in refused(file)
    assert not made.exists()
    # The test can fail: loaded carelessly, it runs.
    if how == "pickle":
        pickle.loads(file.read_bytes())
    else:
        torch.load(file, weights_only=False)
    assert made.exists()


def changed(**entries):
    return {**network().state_dict(), **entries}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (changed(**{"recurs.weight_ih": torch.zeros(80, 3)}), r"recurs.weight_ih is (80, 3), needed (4 · hidden, 2)"),
        (changed(**{"recurs.weight_ih": torch.zeros(2)}), "recurs.weight_ih is (2,), needed"),
        (changed(**{"recurs.weight_ih": torch.zeros(0, 2)}), "recurs.weight_ih is (0, 2), needed"),
        (changed(**{"recurs2.weight_ih": torch.zeros(80, 19)}), "recurs2.weight_ih is (80, 19), needed (80, 20)"),
        (changed(**{"output.weight": torch.zeros(2, 20)}), "output.weight is (2, 20), needed (1, 20)"),
        (
            changed(**{"output.bias": torch.zeros(1, dtype=torch.int64)}),
            "output.bias is (1,) of torch.int64, needed (1,)",
        ),
        (changed(**{"output.bias": 0.5}), "output.bias is a float, needed (1,)"),
        (changed(**{"output.bias": torch.tensor([math.nan])}), "are not finite: 1 of 1 values of output.bias"),
        (changed(**{"recurs3.bias_ih": torch.zeros(80)}), "are of another network: it also has recurs3.bias_ih"),
        ({k: v for k, v in network().state_dict().items() if k != "recurs.bias_hh"}, "lack recurs.bias_hh; needed are"),
        (
            nn.Linear(2, 2).state_dict(),
            "holds no weights of the learned optimizer: found weight, bias, needed recurs.*",
        ),
        ({}, "found nothing, needed recurs.*, recurs2.* and output.*"),
        ([torch.zeros(3)], "found list, needed"),
        (torch.zeros(3), "found Tensor, needed"),
        ({3: torch.zeros(2)}, "found 3, needed"),
    ],
)
def test_what_is_no_such_network_is_refused_in_one_sentence(tmp_path, content, said):
    file = tmp_path / "weights.pt"
    torch.save(content, file)
    assert said in refused(file)


@pytest.mark.parametrize("name", ["recurs.weight_hh", "output.bias"])
def test_the_same_of_safetensors(tmp_path, name):
    file = tmp_path / "w.safetensors"
    save_file({k: v for k, v in network().state_dict().items() if k != name}, file)
    assert f"lack {name}; needed are recurs.weight_ih" in refused(file)
    save_file(changed(**{name: torch.zeros(4)}), file)
    assert f"{name} is (4,), needed" in refused(file)
    bad = network().state_dict()
    bad[name].view(-1)[0] = -math.inf
    save_file(bad, file)
    assert f"not finite: 1 of {bad[name].numel()} values of {name}" in refused(file)


def test_what_is_no_file_of_weights_is_refused_in_one_sentence(tmp_path):
    good, checkpoint = tmp_path / "good", io.BytesIO()
    save_weights(good, network())
    torch.save(network().state_dict(), checkpoint)
    contents = {
        "empty": b"",
        "text": b"these are not the weights you are looking for",
        "image": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "cut": good.read_bytes()[:-1],
        "cut early": good.read_bytes()[:40],
        "torch, cut": checkpoint.getvalue()[:3000],
        "torch, damaged": b"\x80\x02}q\x00" + bytes(50),
        "long header": (2**60).to_bytes(8, "little") + b"{}",
    }
    for name, content in contents.items():
        file = tmp_path / name
        file.write_bytes(content)
        assert "holds no weights" in refused(file) or "is refused" in refused(file), name
    with zipfile.ZipFile(tmp_path / "zip", "w") as other:
        other.writestr("a", "b")
    assert "damaged torch checkpoint, or none" in refused(tmp_path / "zip")
    assert "No such file or directory; give a file" in refused(tmp_path / "missing")
    (tmp_path / "folder").mkdir()
    assert "Is a directory; give a file" in refused(tmp_path / "folder")


@pytest.mark.parametrize(
    ("card", "said"),
    [
        ("no json", "holds no weights"),
        ("[1]", "holds no weights"),
        ('{"output_scale": -1}', "the output scale in"),
        ('{"output_scale": "much"}', "is 'much'; it is a number above 0"),
        ('{"output_scale": NaN}', "is nan; it is a number above 0"),
    ],
)
def test_a_damaged_card_is_refused(tmp_path, card, said):
    save_file(network().state_dict(), tmp_path / "w", {"card": card})
    assert said in refused(tmp_path / "w")


def test_a_card_of_a_later_version_is_refused(tmp_path):
    save_file(network().state_dict(), tmp_path / "w", {"card": json.dumps({"format": 2})})
    assert "has format 2, this version reads up to 1; upgrade" in refused(tmp_path / "w", UnsupportedFormat)


def test_an_existing_file_is_replaced_only_when_asked(tmp_path):
    file = tmp_path / "w"
    save_weights(file, network(0))
    with pytest.raises(OutputExists, match="is there already; choose another output, or replace it"):
        save_weights(file, network(1))
    assert_same(load_weights(file)[0], network(0))
    save_weights(file, network(1), if_exists="replace")
    assert_same(load_weights(file)[0], network(1))


@pytest.mark.parametrize("allowed", [0, 5000])
def test_a_full_disk_leaves_what_was_there(tmp_path, allowed):
    file = tmp_path / "w"
    save_weights(file, network(0))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (allowed, limits[1]))
    try:
        with pytest.raises(TrajectoryError, match="cannot be written: File too large; choose another output"):
            save_weights(file, network(1), if_exists="replace")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_same(load_weights(file)[0], network(0))
    assert list(tmp_path.iterdir()) == [file]


def test_what_cannot_be_saved(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(TrajectoryError, match="cannot be written: File exists"):
        save_weights(tmp_path / "file" / "w", network())
    with pytest.raises(TrajectoryError, match="cannot be written: Is a directory"):
        save_weights(tmp_path, network(), if_exists="replace")
    bad = network()
    with torch.no_grad():
        bad.recurs.bias_ih[:2] = math.nan
    with pytest.raises(BadArgument, match="the weights in the network are not finite: 2 of 80 values"):
        save_weights(tmp_path / "w", bad)
    assert not (tmp_path / "w").exists()


@pytest.fixture
def ship(tmp_path, monkeypatch):
    """Ship weights of these names, and no others."""
    monkeypatch.setattr(choice, "SHIPPED", tmp_path)

    def ship(*names):
        for file in tmp_path.iterdir():
            file.unlink()
        for seed, name in enumerate(names):
            save_weights(tmp_path / f"{name}.safetensors", network(seed), {"seed": seed})

    return ship


ALL = [
    f"{data}-{rest}" for data in ("digits-mlp", "mnist-mlp") for rest in ("sigmoid", "leaky_relu", "relu-batch_norm")
]


@pytest.mark.parametrize(
    ("problem", "options", "fits"),
    [
        ("digits-mlp", {}, "digits-mlp-sigmoid"),
        ("digits-mlp", {"activation": "leaky_relu", "hidden": (40, 40)}, "digits-mlp-leaky_relu"),
        ("digits-mlp", {"activation": "relu", "batch_norm": True}, "digits-mlp-relu-batch_norm"),
        ("digits-mlp", {"activation": "relu"}, "digits-mlp-leaky_relu"),
        ("digits-mlp", {"activation": "tanh"}, "digits-mlp-sigmoid"),
        ("digits-mlp", {"activation": "sigmoid", "batch_norm": True}, "digits-mlp-relu-batch_norm"),
        ("mnist-mlp", {"activation": "leaky_relu"}, "mnist-mlp-leaky_relu"),
        ("fashion-mnist-mlp", {"activation": "leaky_relu"}, "mnist-mlp-leaky_relu"),
        ("quadratic", {}, "mnist-mlp-sigmoid"),
        (None, {}, "mnist-mlp-sigmoid"),
    ],
)
def test_which_weights_fit(ship, problem, options, fits):
    ship(*ALL, "digits-mlp-leaky_relu-rescale")
    assert fitting_weights(make_problem(problem, **options) if problem else None) == fits


def test_the_network_counts_before_the_data(ship):
    problem = make_problem("mnist-mlp", activation="relu")
    ship("digits-mlp-leaky_relu", "mnist-mlp-sigmoid")
    assert fitting_weights(problem) == "digits-mlp-leaky_relu"
    ship("digits-mlp-relu-batch_norm", "mnist-mlp-sigmoid")
    assert fitting_weights(problem) == "mnist-mlp-sigmoid"
    ship("mnist-mlp-relu", "mnist-mlp-leaky_relu")
    assert fitting_weights(problem) == "mnist-mlp-relu", "a file that is dropped there is found"
    ship("quadratic", "mnist-mlp-sigmoid")
    assert fitting_weights(make_problem("quadratic")) == "quadratic"
    ship("mnist-mlp-relu-rescale")
    with pytest.raises(MissingData, match="no weights are shipped"):
        fitting_weights(problem)


def test_weights_by_name_file_and_network(ship, tmp_path, monkeypatch):
    ship("digits-mlp-sigmoid", "mnist-mlp-sigmoid")
    assert list(shipped_weights()) == ["digits-mlp-sigmoid", "mnist-mlp-sigmoid"]
    named = choose_weights("digits-mlp-sigmoid")
    assert (named.name, named.card["seed"]) == ("digits-mlp-sigmoid", 0)
    assert choose_weights().name == "mnist-mlp-sigmoid"
    assert_same(choose_weights(network(5)).network, network(5))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    save_weights("digits-mlp-sigmoid", network(7))
    assert choose_weights("digits-mlp-sigmoid").sha256 == named.sha256
    for file in ("./digits-mlp-sigmoid", Path("digits-mlp-sigmoid"), str(elsewhere / "digits-mlp-sigmoid")):
        assert_same(choose_weights(file).network, network(7))
    with pytest.raises(
        BadArgument, match="no weights 'digits-mpl-sigmoid': there is no such file, and shipped are dig"
    ):
        choose_weights("digits-mpl-sigmoid")
    with pytest.raises(BadArgument, match="weights cannot be read from gone: No such file"):
        choose_weights(Path("gone"))


@pytest.mark.parametrize("name", list(shipped_weights()))
def test_weights_that_ship(name):
    path = shipped_weights()[name]
    assert path.stat().st_size < 100_000
    _, card = load_weights(path)
    assert {"problem", "recipe", "seed", "command", "losses"} <= set(card)
    assert name.startswith(card["problem"]["name"])
