"""Files of the learned optimizer's weights: safetensors with a card, and torch checkpoints of the same shape."""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from trajectory_tools.errors import BadArgument, OutputExists, TrajectoryError, UnsupportedFormat
from trajectory_tools.l2o.network import OUTPUT_SCALE, CoordinatewiseLSTM
from trajectory_tools.store.files import move_without_replacing, sync

__all__ = ["CARD_VERSION", "load_weights", "network_from", "save_weights", "sha256"]

CARD_VERSION = 1
CARD = "card"
"""The entry of the safetensors header that holds the card, as JSON."""
FIRST = "recurs.weight_ih"


def save_weights(
    path: str | Path,
    network: CoordinatewiseLSTM,
    card: Mapping[str, Any] | None = None,
    *,
    if_exists: Literal["error", "replace"] = "error",
) -> None:
    """Write the network's weights as safetensors, with a card that says where they come from.

    The file appears under its name as a whole or not at all, also after a kill; the same network and card give the same
    bytes. To the card are added ``format`` (its version), ``preprocess``, ``hidden`` and ``output_scale``. In it, NaN
    and ±Inf, which JSON does not have, become null, and what JSON does not know its text.

    Raises ``OutputExists``, ``BadArgument`` for weights that are not finite, ``TrajectoryError`` where the file cannot
    be written (what was there before stays).
    """
    path = Path(path)
    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    _refuse_nonfinite("the network", state)
    settings = {"preprocess": network.preprocess, "hidden": network.hidden, "output_scale": network.output_scale}
    text = json.dumps(_plain({**(card or {}), "format": CARD_VERSION, **settings}), ensure_ascii=False)
    replace = if_exists == "replace"
    taken = OutputExists(f"{path} is there already; choose another output, or replace it (--force)")
    if not replace and path.exists():
        raise taken
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(save(state, {CARD: text}))
            sync(temporary)
            if replace:
                temporary.replace(path)
                sync(path.parent)
            else:
                move_without_replacing(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        if not replace and path.exists():  # another process was faster
            raise taken from error
        raise TrajectoryError(f"{path} cannot be written: {error.strerror or error}; choose another output") from error


def load_weights(path: str | Path) -> tuple[CoordinatewiseLSTM, dict[str, Any]]:
    """The network in a file, and its card: empty where the file has none.

    Reads safetensors, and torch checkpoints of a state dict with the keys ``recurs.*``, ``recurs2.*`` and ``output.*``,
    also below one more key or behind a prefix (``{"state_dict": {"module.recurs.weight_ih": ...}}``). A checkpoint is
    read with ``weights_only=True``: nothing in it is run. The output scale is the card's, 0.1 without one. The network
    is float64 where the file is, float32 otherwise.

    Raises ``BadArgument``, in one sentence, for a file that is missing, is no such file, would run code, or whose
    weights are of another shape or not finite; ``UnsupportedFormat`` for a card from a later version.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise BadArgument(f"weights cannot be read from {path}: {error.strerror or error}; give a file") from error
    is_torch = start[8:] != b"{" and start.startswith((b"PK\x03\x04", b"\x80"))
    state, card = (_read_torch(path), {}) if is_torch else _read_safetensors(path)
    scale = card.get("output_scale", OUTPUT_SCALE)
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale < math.inf:
        raise BadArgument(f"the output scale in {path} is {scale!r}; it is a number above 0")
    return network_from(state, output_scale=float(scale), where=str(path)), card


def network_from(
    state: Mapping[str, Any], *, output_scale: float = OUTPUT_SCALE, where: str = "the state dict"
) -> CoordinatewiseLSTM:
    """The network of two ``nn.LSTMCell``, ``recurs`` and ``recurs2``, and an ``nn.Linear``, ``output``: a state dict.

    The sizes tell whether it preprocesses, and its hidden units. The way back needs no function: the ``state_dict()``
    of the network has the keys of the three modules.

    Args:
        state: the tensors by name; where each name begins with the same prefix, it is taken off.
        output_scale: what the output is multiplied by, which the tensors do not tell.
        where: what errors call it.

    >>> from torch.nn import Linear, LSTMCell, ModuleDict
    >>> cells = ModuleDict({"recurs": LSTMCell(2, 20), "recurs2": LSTMCell(20, 20), "output": Linear(20, 1)})
    >>> network = network_from(cells.state_dict())
    >>> cells.load_state_dict(network.state_dict())
    <All keys matched successfully>
    """
    prefix = next((str(key).removesuffix(FIRST) for key in state if str(key).endswith(FIRST)), None)
    if prefix is None:
        raise _no_weights(where, state)
    found = {str(key).removeprefix(prefix): value for key, value in state.items() if str(key).startswith(prefix)}
    network = _network_like(where, found[FIRST], output_scale)
    needed = network.state_dict()
    if missing := [name for name in needed if name not in found]:
        raise BadArgument(f"the weights in {where} lack {', '.join(missing)}; needed are {', '.join(needed)}")
    if more := [name for name in found if name not in needed]:
        raise BadArgument(f"the weights in {where} are of another network: it also has {', '.join(more[:4])}")
    for name, value in found.items():
        shape = tuple(needed[name].shape)
        if not isinstance(value, Tensor) or not value.is_floating_point() or tuple(value.shape) != shape:
            raise BadArgument(
                f"the weights in {where} are of another shape: {name} is {_described(value)}, needed {shape}"
            )
    _refuse_nonfinite(where, found)
    if any(value.dtype == torch.float64 for value in found.values()):
        network.double()
    network.load_state_dict(found)
    return network.requires_grad_(False)


def sha256(network: CoordinatewiseLSTM) -> str:
    """What tells one network from another: of its numbers, names, shapes and settings; the same in whichever file."""
    digest = hashlib.sha256(f"preprocess {network.preprocess}, output scale {network.output_scale!r}".encode())
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        card = json.loads(metadata.get(CARD, "{}"))
        if not isinstance(card, dict):
            raise ValueError(f"the card is {card!r}")
    except (SafetensorError, OSError, ValueError) as error:
        raise BadArgument(f"{path} holds no weights: it is neither safetensors nor a torch checkpoint") from error
    version = card.get("format", CARD_VERSION)
    if not isinstance(version, int) or version > CARD_VERSION:
        raise UnsupportedFormat(
            f"the card of {path} has format {version!r}, this version reads up to {CARD_VERSION};"
            " upgrade trajectory-tools"
        )
    return state, card


def _read_torch(path: Path) -> Mapping[str, Any]:
    try:
        with warnings.catch_warnings(action="ignore"):  # about the pickle's version
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise BadArgument(
            f"{path} is refused: it is a pickle of more than tensors, and loading it could run code;"
            " save the network's state_dict() alone"
        ) from error
    except Exception as error:  # a damaged file can raise anything
        raise BadArgument(f"{path} holds no weights: it is a damaged torch checkpoint, or none") from error
    for mapping in _mappings(found):
        if any(str(key).endswith(FIRST) for key in mapping):
            return mapping
    raise _no_weights(str(path), found)


def _mappings(found: object) -> Iterator[Mapping[str, Any]]:
    """The mapping itself, and those one key below."""
    if isinstance(found, Mapping):
        yield found
        yield from (value for value in found.values() if isinstance(value, Mapping))


def _no_weights(where: str, found: object) -> BadArgument:
    keys = ", ".join(map(str, list(found)[:4])) if isinstance(found, Mapping) else type(found).__name__
    return BadArgument(
        f"{where} holds no weights of the learned optimizer: found {keys or 'nothing'}, needed recurs.*, recurs2.* and"
        " output.*"
    )


def _network_like(where: str, first: object, output_scale: float) -> CoordinatewiseLSTM:
    """A network of the sizes that its first tensor has."""
    shape = tuple(first.shape) if isinstance(first, Tensor) else ()
    if len(shape) != 2 or shape[0] < 4 or shape[0] % 4 or shape[1] not in (1, 2):
        raise BadArgument(
            f"the weights in {where} are of another shape: {FIRST} is {_described(first)},"
            " needed (4 · hidden, 2), or (4 · hidden, 1) without preprocessing"
        )
    with torch.random.fork_rng(devices=[]):  # what it starts with is replaced
        return CoordinatewiseLSTM(preprocess=shape[1] == 2, hidden=shape[0] // 4, output_scale=output_scale)


def _refuse_nonfinite(where: str, state: Mapping[str, Tensor]) -> None:
    for name, value in state.items():
        if bad := int((~value.isfinite()).sum()):
            raise BadArgument(f"the weights in {where} are not finite: {bad} of {value.numel()} values of {name}")


def _described(value: object) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"{tuple(value.shape)}" + ("" if value.is_floating_point() else f" of {value.dtype}")


def _plain(value: Any) -> Any:
    """The value as JSON has it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value if isinstance(value, str | int) or value is None else str(value)
