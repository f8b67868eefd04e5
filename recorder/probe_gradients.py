"""The gradients of a probe: of mini-batches, as the loop computes them, and of single samples, vectorized."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_iter, tree_unflatten

from trajectory_tools.errors import BadArgument
from trajectory_tools.recorder.flat_space import Gradients
from trajectory_tools.store.parts import first_line

__all__ = [
    "LossFunction",
    "batch_gradients",
    "check_single_samples",
    "concatenated",
    "leading_size",
    "sample_gradients",
]

LossFunction = Callable[[Any], Tensor]
"""From a mini-batch to its 0-d loss, at the parameters as they are."""

SAMPLES_CHUNK = 2**22
"""Elements of the gradients that are computed at a time."""


def batch_gradients(
    loss_fn: LossFunction,
    batches: Iterable[Any],
    parameters: Sequence[Tensor],
    *,
    prepare: Callable[[], object] | None = None,
) -> Generator[Gradients, None, None]:
    """The gradient of each mini-batch's loss, by ``backward``, as ``prepare`` leaves it; to be closed by who asks.

    Nothing but the ``grad`` of these parameters, which must be None before and is None after, is added to, and no hook
    on them steps an optimizer until then. Raises ``BadArgument`` where ``loss_fn`` gives no loss to go backward from,
    or does more than to compute it.
    """
    leaves = [parameter for parameter in parameters if parameter.requires_grad]
    found = (leaf._post_accumulate_grad_hooks for leaf in leaves)
    hooks = [(mapping, dict(mapping)) for mapping in found if mapping]
    try:
        for mapping, _ in hooks:  # where there are any they step an optimizer
            mapping.clear()
        for batch in batches:
            with torch.enable_grad():
                loss = checked_loss(loss_fn(batch))
                if any(leaf.grad is not None for leaf in leaves):
                    raise BadArgument("loss_fn goes backward itself; let it return the loss, from which the probe does")
                if not loss.requires_grad:
                    raise BadArgument(
                        "loss_fn returns a loss that no parameter has a gradient of; compute it from the model's"
                        " output, without torch.no_grad(), detach() or item()"
                    )
                loss.backward(inputs=leaves)  # type: ignore[no-untyped-call]
                if prepare is not None:
                    prepare()
            gradients = [parameter.grad for parameter in parameters]
            for parameter in parameters:
                parameter.grad = None
            del batch, loss  # or their memory would be held while the next ones are made
            yield gradients
    finally:
        for mapping, content in hooks:
            mapping.update(content)
        for parameter in parameters:
            parameter.grad = None


def sample_gradients(
    loss_fn: LossFunction, batch: Any, model: nn.Module, parameters: Sequence[Tensor]
) -> Iterator[tuple[Gradients, int]]:
    """The gradients of the single samples of a batch, some at a time: for each parameter (n, *shape), and n.

    ``loss_fn`` is given batches of one sample, by ``torch.func.vmap``. Raises ``BadArgument`` for a model or a loss
    that this cannot be done for.
    """
    wrapped = _Loss(model, loss_fn)
    names: dict[Tensor, str] = {parameter: name for name, parameter in wrapped.named_parameters()}
    check_single_samples(model)
    if any(parameter not in names for parameter in parameters if parameter.requires_grad):
        raise BadArgument(
            "the gradients of single samples need every parameter of the optimizer in the model; give the module that"
            " holds them all, as model="
        )
    values = {names[parameter]: parameter.detach() for parameter in parameters if parameter.requires_grad}
    leaves, spec = tree_flatten(batch)
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.ndim > 0]

    def loss(values: dict[str, Tensor], sample: Sequence[Tensor]) -> Tensor:
        alone = dict(zip(places, sample, strict=True))
        given = [alone[i].unsqueeze(0) if i in alone else leaf for i, leaf in enumerate(leaves)]
        return checked_loss(torch.func.functional_call(wrapped, values, (tree_unflatten(given, spec),)))

    gradient = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0), randomness="different")
    n_values = sum(parameter.numel() for parameter in parameters)
    chunk = max(1, SAMPLES_CHUNK // max(n_values, 1))
    for start in range(0, len(leaves[places[0]]), chunk):
        part = [leaves[i][start : start + chunk] for i in places]
        try:
            found = gradient(values, part)
        except BadArgument:
            raise
        except (RuntimeError, ValueError, NotImplementedError) as error:
            raise BadArgument(
                f"the gradients of single samples are computed by torch.func.vmap, which this model or loss_fn does not"
                f" allow ({first_line(error)}); probe batches of one sample each instead"
            ) from error
        yield [found[names[p]].detach() if p.requires_grad else None for p in parameters], len(part[0])


class _Loss(nn.Module):
    """The loss as a module's forward pass, so that ``functional_call`` puts other values in the model's place."""

    def __init__(self, model: nn.Module, loss_fn: LossFunction) -> None:
        super().__init__()
        self.model = model
        self._loss_fn = loss_fn

    def forward(self, batch: Any) -> Tensor:
        """The loss of a batch."""
        return self._loss_fn(batch)


def check_single_samples(model: nn.Module) -> None:
    """Raise ``BadArgument`` where a single sample has no gradient of its own."""
    for name, part in model.named_modules():
        # The base class of all kinds, which torch names with an underscore.
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and (part.training or part.running_mean is None):
            raise BadArgument(
                f"a single sample has no gradient of its own here: {name or 'the model'} normalizes over the mini-batch"
                f" ({type(part).__name__}); probe mini-batches, or normalize each sample (GroupNorm, LayerNorm)"
            )


def checked_loss(loss: Any) -> Tensor:
    """The loss as a 0-d tensor; ``BadArgument`` where it is none."""
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        found = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise BadArgument(f"loss_fn returns the loss of a mini-batch, a tensor with one element, found {found}")
    return loss.reshape(()) if loss.ndim else loss


def leading_size(batch: Any) -> int | None:
    """The number of samples in a mini-batch: the length of its first tensor; None where there is none."""
    if type(batch) in (list, tuple) and batch and isinstance(batch[0], Tensor) and batch[0].ndim:
        return len(batch[0])  # the usual case, much faster
    tensors = (leaf for leaf in tree_iter(batch) if isinstance(leaf, Tensor) and leaf.ndim > 0)
    return next((len(tensor) for tensor in tensors), None)


def concatenated(batches: Sequence[Any], n_samples: int) -> Any:
    """The first samples of these mini-batches, as one; ``BadArgument`` where they hold fewer."""
    sizes = [leading_size(batch) for batch in batches]
    there = sum(size or 0 for size in sizes)
    if there < n_samples:
        raise BadArgument(
            f"the mini-batches hold {there:,} samples, and {n_samples:,} were to be probed; give more of them"
        )
    flat = [tree_flatten(batch) for batch in batches]
    spec = flat[0][1]
    columns = zip(*(leaves for leaves, _ in flat), strict=True)
    joined = [
        torch.cat(column)[:n_samples] if isinstance(column[0], Tensor) and column[0].ndim else column[0]
        for column in columns
    ]
    return tree_unflatten(joined, spec)
