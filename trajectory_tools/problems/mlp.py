"""Multi-layer perceptrons that classify small images, and the symmetries that their architecture has."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

from trajectory_tools.data import ImageData, load_digits, load_images
from trajectory_tools.errors import BadArgument
from trajectory_tools.options import POSITIVE, option
from trajectory_tools.problems.base import Optimizee, Problem, streams
from trajectory_tools.symmetry.groups import Axis, SymmetryGroup, rescale, scale, translation

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["ACTIVATIONS", "MLP", "DigitsMLP", "FashionMnistMLP", "MnistMLP"]

ACTIVATIONS = {"sigmoid": "Sigmoid", "relu": "ReLU", "leaky_relu": "LeakyReLU", "tanh": "Tanh"}
HOMOGENEOUS = ("relu", "leaky_relu")
N_CLASSES = 10


@dataclass(frozen=True, kw_only=True)
class MLP(Problem):
    """Mean cross-entropy on mini-batches of images, of Linear, [batch normalization], activation, ..., Linear.

    The defaults (20 sigmoid units, mini-batches of 128) are those of Andrychowicz et al. 2016 (arXiv 1606.04474,
    section 3.2). Weights start as torch's ``nn.Linear`` does. Every epoch is a new permutation of the training images,
    without replacement; its last, incomplete mini-batch is left out. Parameters are named as in ``nn.Sequential``
    ("0.weight", "0.bias", "2.weight", ...). Batch normalization has γ and β but no running statistics, so that the
    loss depends on nothing but the parameters and the mini-batch.
    """

    hidden: tuple[int, ...] = option((20,), "sizes of the hidden layers", valid=POSITIVE)
    activation: str = option("sigmoid", "between the layers", choices=ACTIVATIONS)
    batch_norm: bool = option(False, "batch normalization in front of each activation")
    batch_size: int = option(128, "images in a mini-batch", valid=POSITIVE)

    @abstractmethod
    def images(self) -> ImageData:
        """The data set."""

    def start(self, seed: int) -> Optimizee:
        """The perceptron of this seed; raises ``BadArgument`` for a batch size that the data cannot give."""
        import torch
        from torch.nn.functional import cross_entropy

        inputs, labels, data = _training_set(self)
        fewest = 2 if self.batch_norm else 1
        if not fewest <= self.batch_size <= len(inputs):
            why = " (batch normalization needs at least 2)" if self.batch_norm else ""
            self.refuse("batch_size", self.batch_size, f"give a whole number from {fewest} to {len(inputs)}{why}")
        weights_seed, batches_seed, draws_seed = streams(seed, 3)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(weights_seed)
            model = self._model(inputs.shape[1])
        generator = torch.Generator().manual_seed(batches_seed)

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            while True:
                order = torch.randperm(len(inputs), generator=generator)
                for end in range(self.batch_size, len(inputs) + 1, self.batch_size):
                    batch = order[end - self.batch_size : end]
                    yield inputs.index_select(0, batch), labels.index_select(0, batch)

        draws = torch.Generator().manual_seed(draws_seed)

        def draw(size: int | None) -> tuple[Tensor, Tensor]:
            if size is not None and size > len(inputs):
                raise BadArgument(
                    f"{size:,} single samples are more than the {len(inputs):,} that there are; take fewer"
                )
            drawn = torch.randperm(len(inputs), generator=draws)[: size or self.batch_size]
            return inputs.index_select(0, drawn), labels.index_select(0, drawn)

        def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
            x, y = batch
            return cross_entropy(model(x), y)

        shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
        symmetries = tuple(group.checked(shapes) for group in self.symmetries())
        return Optimizee(model, batches(), loss, symmetries, data, draw, self.batch_size)

    def symmetries(self) -> tuple[SymmetryGroup, ...]:
        """Every exact symmetry of the three kinds, first layer first, softmax's last.

        - scale, of a linear layer's weight and bias, where batch normalization follows (exact but for its eps);
        - rescale between what feeds a positively homogeneous activation (a linear layer, or batch normalization's γ
          and β) and the next linear layer's weight. Across batch normalization, from one linear layer to the next, it
          does not hold: there a factor in front has no effect, while one behind has;
        - translation of the last layer, in front of softmax.

        A bias in front of batch normalization has no effect at all, so the scale group also holds for the weight alone
        and for the bias alone; it is declared once.
        """
        stride = 3 if self.batch_norm else 2
        last = stride * len(self.hidden)
        groups: list[SymmetryGroup] = []
        for layer in range(0, last, stride):
            if self.batch_norm:
                groups.append(scale(_layer(layer)))
            if self.activation in HOMOGENEOUS:
                groups.append(rescale(_layer(layer + stride - 2), [(f"{layer + stride}.weight", 1)]))
        return (*groups, translation(_layer(last)))

    def _model(self, n_inputs: int) -> nn.Sequential:
        from torch import nn

        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise((n_inputs, *self.hidden)):
            layers.append(nn.Linear(fan_in, fan_out))
            if self.batch_norm:
                layers.append(nn.BatchNorm1d(fan_out, track_running_stats=False))
            layers.append(getattr(nn, ACTIVATIONS[self.activation])())
        return nn.Sequential(*layers, nn.Linear((n_inputs, *self.hidden)[-1], N_CLASSES))


@dataclass(frozen=True, kw_only=True)
class DigitsMLP(MLP):
    """Scikit-learn's digits, 8×8 pixels: 64-20-10; needs no download."""

    name: ClassVar[str] = "digits-mlp"

    def images(self) -> ImageData:
        """The digits."""
        return load_digits()


@dataclass(frozen=True, kw_only=True)
class MnistMLP(MLP):
    """MNIST, 28×28 pixels: 784-20-10."""

    name: ClassVar[str] = "mnist-mlp"
    data_dir: str = option("~/.cache/trajectory-tools", "folder that holds, or is to hold, the data set")
    download: bool = option(False, "fetch the data set with torchvision where it is not there")

    def images(self) -> ImageData:
        """MNIST from ``data_dir``."""
        return load_images("MNIST", self.data_dir, download=self.download)


@dataclass(frozen=True, kw_only=True)
class FashionMnistMLP(MnistMLP):
    """Fashion-MNIST, 28×28 pixels: 784-20-10."""

    name: ClassVar[str] = "fashion-mnist-mlp"

    def images(self) -> ImageData:
        """Fashion-MNIST from ``data_dir``."""
        return load_images("FashionMNIST", self.data_dir, download=self.download)


def _layer(index: int) -> list[Axis]:
    return [(f"{index}.weight", 0), (f"{index}.bias", 0)]


@lru_cache(maxsize=1)  # tuning starts one problem 30 times
def _training_set(problem: MLP) -> tuple[Tensor, Tensor, str]:
    import torch

    images = problem.images()
    return torch.from_numpy(images.train_inputs), torch.from_numpy(images.train_labels), images.description
