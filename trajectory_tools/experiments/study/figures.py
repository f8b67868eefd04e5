"""The figures: their settings, the values read off the paper's plots, and the claims with their tolerances.

All of it was written down before our numbers were looked at, and is not to be changed when a claim does not hold. The
paper's baselines are SGD with momentum 0.9, Adam and Lion, tuned; its networks have 20 hidden units unless said. Its
plots of deviations are running means; what a number is the mean of stands in its column.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trajectory_tools.experiments.probing import Probing
from trajectory_tools.experiments.study.claims import Claim, Number, larger, meet, ordered, smallest, vanishes
from trajectory_tools.experiments.study.design import Column, Curve, MetaTrained, Setting, StudyFigure
from trajectory_tools.experiments.study.reading import Reading

__all__ = ["FIGURES"]

SOBOTKA = (
    "Sobotka, Šimánek & Vašata 2023, Investigation into the Training Dynamics of Learned Optimizers, arXiv 2312.07174"
)
ANDRYCHOWICZ = "Andrychowicz et al. 2016, Learning to learn by gradient descent by gradient descent, arXiv 1606.04474"

LEAKY: Mapping[str, Any] = {"activation": "leaky_relu"}
BATCH_NORM: Mapping[str, Any] = {"activation": "relu", "batch_norm": True}

SGD, ADAM, LION = Curve("SGD", "sgd", {"momentum": 0.9}), Curve("Adam", "adam"), Curve("Lion", "lion")
PLAIN = Curve("plain SGD", "sgd")
"""The control, which the paper does not have: it keeps every symmetry but for rounding."""

INVISIBLE = 0.02
"""What is "≈ 0" on a plot's linear axis: at most this part of its highest curve."""
ROUNDING = 1e-4


def l2o(activation: str = "sigmoid", *, batch_norm: bool = False) -> Curve:
    """The learned optimizer that was meta-trained, unregularized, on this network."""
    return Curve("L2O", "l2o", weights=MetaTrained(activation, batch_norm))


def deviation(symmetry: str, first: int, last: int) -> Reading:
    """The paper's quantity: the absolute value of the constraint, summed with sign over the units."""
    return Reading("symmetry", "deviation", first, last, "update", symmetry)


def share(symmetry: str, first: int, last: int) -> Reading:
    """The part of the squared update that lies along the symmetry, which large steps alone do not raise."""
    return Reading("symmetry", "share", first, last, "update", symmetry)


def loss(first: int, last: int) -> Reading:
    """The training loss, before each step."""
    return Reading("loss", "loss", first, last)


def both_at(name: str, left: str, right: str) -> tuple[Number, Number]:
    """The numbers of two curves in one column."""
    return Number(left, name), Number(right, name)


AT_10, AT_100 = "deviation at 10", "deviation at 100"

FIGURE_4 = StudyFigure(
    "fig4",
    "Symmetry breaking by a learned optimizer and by others",
    f"{SOBOTKA}, figure 4",
    "The deviation of each optimizer's updates from the constraint that the symmetry puts on gradients: of rescaling"
    " for leaky ReLU, of scaling for ReLU behind batch normalization. Learning rates are tuned. SGD has momentum 0.9,"
    " as in the paper; plain SGD has none, and is the control.",
    (
        Setting(
            "leaky-relu",
            "leaky ReLU",
            LEAKY,
            (l2o("leaky_relu"), LION, ADAM, SGD, PLAIN),
            (
                Column(AT_100, deviation("rescale", 91, 100), {"L2O": "51", "Lion": "13", "Adam": "1", "SGD": "0"}),
                Column("share at 100", share("rescale", 91, 100)),
                Column("loss at 100", loss(91, 100)),
            ),
            (
                larger(*both_at(AT_100, "L2O", "Lion"), factor=2),
                larger(*both_at(AT_100, "Lion", "Adam"), factor=2),
                larger(*both_at(AT_100, "Adam", "SGD")),
                vanishes(*both_at(AT_100, "SGD", "L2O"), below=INVISIBLE),
                vanishes(*both_at(AT_100, "plain SGD", "L2O"), below=ROUNDING),
            ),
            symmetry="rescale",
        ),
        Setting(
            "batch-norm",
            "ReLU, batch norm",
            BATCH_NORM,
            (l2o("relu", batch_norm=True), LION, ADAM, SGD, PLAIN),
            (
                Column(AT_10, deviation("scale", 8, 12), {"L2O": "52", "Adam": "25", "SGD": "0"}),
                Column(AT_100, deviation("scale", 91, 100), {"L2O": "14", "Lion": "68", "Adam": "9", "SGD": "0"}),
                Column("share at 100", share("scale", 91, 100)),
                Column("loss at 100", loss(91, 100)),
            ),
            (
                larger(*both_at(AT_10, "L2O", "Adam"), factor=1.5),
                larger(Number("L2O", AT_10), Number("L2O", AT_100), factor=2),
                larger(Number("Adam", AT_10), Number("Adam", AT_100), factor=1.5),
                larger(*both_at(AT_100, "Lion", "L2O"), factor=2),
                larger(*both_at(AT_100, "L2O", "Adam")),
                larger(*both_at(AT_100, "Adam", "SGD")),
                vanishes(*both_at(AT_100, "SGD", "Lion"), below=INVISIBLE),
                vanishes(*both_at(AT_100, "plain SGD", "Lion"), below=ROUNDING),
            ),
            symmetry="scale",
        ),
    ),
    iterations=100,
    shows=("deviation", "share", "loss"),
)

BETAS = (0.0, 0.1, 0.5, 1.0)


def regularized(
    key: str, title: str, options: Mapping[str, Any], symmetry: str, columns: tuple[Column, ...], *claims: Claim
) -> Setting:
    """Learned optimizers that were meta-trained with β times the deviation added to the loss, for each β."""
    network = (str(options["activation"]), bool(options.get("batch_norm", False)))
    curves = (
        Curve(f"β = {beta:g}", "l2o", weights=MetaTrained(*network, symmetry if beta else "none", beta))
        for beta in BETAS
    )
    beside = (
        Column("deviation over 200", deviation(symmetry, 1, 200)),
        Column("share over 200", share(symmetry, 1, 200)),
    )
    return Setting(key, title, options, tuple(curves), (*columns, *beside), claims, symmetry=symmetry)


LOSS_100, LOSS_200 = "loss at 100", "loss at 200"

FIGURE_5 = StudyFigure(
    "fig5",
    "Learned optimizers that were regularized against symmetry breaking",
    f"{SOBOTKA}, figure 5",
    "The training loss under learned optimizers that were meta-trained with β times the deviation added to the"
    " meta-loss: of rescaling on leaky ReLU, of scaling on ReLU behind batch normalization.",
    (
        regularized(
            "leaky-relu",
            "leaky ReLU",
            LEAKY,
            "rescale",
            (
                Column(
                    LOSS_200,
                    loss(191, 200),
                    {"β = 1": "0.75", "β = 0.5": "0.4-0.45", "β = 0.1": "0.3-0.35", "β = 0": "0.3-0.35"},
                ),
            ),
            larger(*both_at(LOSS_200, "β = 1", "β = 0"), factor=1.5),
            larger(*both_at(LOSS_200, "β = 1", "β = 0.5"), factor=1.2),
            larger(*both_at(LOSS_200, "β = 0.5", "β = 0"), factor=1.1),
            meet(both_at(LOSS_200, "β = 0.1", "β = 0"), within=0.2),
        ),
        regularized(
            "batch-norm",
            "ReLU, batch norm",
            BATCH_NORM,
            "scale",
            (Column(LOSS_100, loss(91, 100)), Column(LOSS_200, loss(191, 200))),
            meet([Number(f"β = {beta:g}", LOSS_100) for beta in BETAS], within=0.25, paper="all meet by about 100"),
        ),
    ),
    iterations=200,
    shows=("loss", "deviation", "share"),
    save=("param", "update"),
    at=tuple(range(1, 201, 3)),
)

MIXES = {"Lion": 1.0, "λ = 0.5": 0.5, "λ = 0.25": 0.25, "λ = 0.1": 0.1, "SGD": 0.0}
TRANSLATION, TRAINING = "deviation at 200", "mean loss over 200"

FIGURE_7 = StudyFigure(
    "fig7",
    "Lion-SGD: how far it breaks the symmetry, and how fast it trains",
    f"{SOBOTKA}, figure 7",
    "Lion-SGD, whose update is λ times Lion's and 1 − λ times SGD's (λ = 1 is Lion, λ = 0 SGD), on two hidden layers of"
    " 100 sigmoid units: SGD with learning rate 0.5 and momentum 0.9, Lion with learning rate 0.005. As in the paper,"
    " the tensors of every tenth iteration are looked at, and the deviation at 200 is the mean over the 100 iterations"
    " up to there.",
    (
        Setting(
            "sigmoid",
            "sigmoid, 100-100",
            {"hidden": (100, 100)},
            tuple(
                Curve(label, "lion-sgd", {"lr": 0.5, "momentum": 0.9, "lion_lr": 0.005, "mix": mix})
                for label, mix in MIXES.items()
            ),
            (
                Column(
                    TRANSLATION,
                    deviation("translation", 101, 200),
                    {"Lion": "0.40", "λ = 0.5": "0.35", "λ = 0.25": "0.16", "λ = 0.1": "0.07", "SGD": "0"},
                ),
                Column("share at 200", share("translation", 101, 200)),
                Column(TRAINING, loss(1, 200)),
                Column(LOSS_200, loss(191, 200)),
            ),
            (
                *ordered(list(MIXES), TRANSLATION),
                vanishes(*both_at(TRANSLATION, "SGD", "Lion"), below=ROUNDING),
                *ordered(list(MIXES)[::-1], TRAINING, paper="a larger λ trains faster"),
            ),
            symmetry="translation",
        ),
    ),
    iterations=200,
    shows=("deviation", "share", "loss"),
    at=(1, *range(10, 201, 10)),
)

ALPHA_START, ALPHA_END, NULL_END, SECOND_NULL_END = (
    "α at start",
    "α at end",
    "Gaussian null at end",
    "second null at end",
)
GRADIENT_START, GRADIENT_END, GRADIENT_NULL_END = (
    "gradients' α at start",
    "gradients' α at end",
    "gradients' null at end",
)
LARGEST_START, LARGEST_END = "λ_max at start", "λ_max at end"
NOT_CLAIMED = "the paper has no null"
AGREE = 0.05
"""Part by which an α and its null may differ and still say the same: the paper reads differences from 10 % on."""


def noise(metric: str, quantity: str, kind: str, *, end: bool) -> Reading:
    """The mean over the probes of the first, or of the last, hundred iterations."""
    return Reading(metric, quantity, *((900, 1000) if end else (1, 100)), kind)


NOISY = (l2o("leaky_relu"), ADAM, SGD, LION)
EVERYONES = [curve.label for curve in NOISY]

FIGURE_8 = StudyFigure(
    "fig8",
    "The noise of the updates: its tail index and its largest variance",
    f"{SOBOTKA}, figure 8",
    "What 64 mini-batches would make each optimizer do at the same weights and state, every 50 iterations: the tail"
    " index α of updates and gradients by the paper's estimator (Mohammadi 2014, all coordinates in one row), and"
    " λ_max, the largest eigenvalue of the updates' covariance. Beside each α stands what the same estimator says of"
    " Gaussian noise of the same covariance. The second null is what it says of the updates that the same optimizer"
    " makes, at the same state, of Gaussian gradients of the gradients' covariance: an α that agrees with it says"
    " nothing of heavy tails.",
    (
        Setting(
            "leaky-relu",
            "leaky ReLU",
            LEAKY,
            NOISY,
            (
                Column(
                    ALPHA_START,
                    noise("tail_index", "pooled_block", "update", end=False),
                    {"L2O": "0.81-0.85", "Adam": "0.68", "SGD": "0.61"},
                ),
                Column(
                    ALPHA_END,
                    noise("tail_index", "pooled_block", "update", end=True),
                    {"L2O": "0.81-0.85", "Adam": "0.635", "SGD": "0.565"},
                ),
                Column(NULL_END, noise("tail_index", "pooled_block_null", "update", end=True)),
                Column(SECOND_NULL_END, noise("tail_index", "pooled_block_surrogate", "update", end=True)),
                Column(
                    GRADIENT_START,
                    noise("tail_index", "pooled_block", "grad", end=False),
                    dict.fromkeys(EVERYONES, "0.59"),
                ),
                Column(
                    GRADIENT_END,
                    noise("tail_index", "pooled_block", "grad", end=True),
                    dict.fromkeys(EVERYONES, "0.54-0.555"),
                ),
                Column(GRADIENT_NULL_END, noise("tail_index", "pooled_block_null", "grad", end=True)),
                Column(
                    LARGEST_START,
                    noise("covariance", "paper_eigenvalue", "update", end=False),
                    {"L2O": "1e-1", "Lion": "6e-3", "Adam": "2e-2", "SGD": "3e-4"},
                ),
                Column(
                    LARGEST_END,
                    noise("covariance", "paper_eigenvalue", "update", end=True),
                    {"L2O": "3e-2", "Lion": "6e-3", "Adam": "3e-4", "SGD": "3e-4"},
                ),
                Column("loss at end", loss(901, 1000)),
            ),
            (
                larger(*both_at(ALPHA_START, "L2O", "Adam"), factor=1.1),
                larger(*both_at(ALPHA_START, "Adam", "SGD"), factor=1.05),
                larger(*both_at(ALPHA_END, "L2O", "Adam"), factor=1.1),
                larger(*both_at(ALPHA_END, "Adam", "SGD"), factor=1.05),
                larger(Number("L2O", ALPHA_END), Number("L2O", GRADIENT_END), factor=1.1),
                meet([Number(label, GRADIENT_END) for label in EVERYONES], within=0.1),
                larger(*both_at(LARGEST_END, "L2O", "Lion"), factor=2),
                larger(*both_at(LARGEST_END, "Lion", "Adam"), factor=2),
                larger(Number("L2O", LARGEST_START), Number("L2O", LARGEST_END), factor=1.5),
                larger(Number("Adam", LARGEST_START), Number("Adam", LARGEST_END), factor=5),
                meet([Number("Lion", LARGEST_START), Number("Lion", LARGEST_END)], within=1.0),
                *(
                    meet(
                        [Number(label, GRADIENT_END), Number(label, GRADIENT_NULL_END)], within=AGREE, paper=NOT_CLAIMED
                    )
                    for label in EVERYONES
                ),
                *(
                    meet([Number(label, ALPHA_END), Number(label, SECOND_NULL_END)], within=AGREE, paper=NOT_CLAIMED)
                    for label in EVERYONES
                ),
            ),
        ),
    ),
    iterations=1000,
    shows=("noise",),
    save=(),
    probing=Probing(at=(0, *range(49, 1000, 50)), batches=64, surrogates=64),
)

MOMENTS = {1: "0.08", 5: "0.30", 10: "0.23", 30: "0.17", 100: "0.15", 500: "0.15"}
"""Iteration → the learned optimizer's largest |u| in the paper."""
RATE = "learning rate"

FIGURE_9 = StudyFigure(
    "fig9",
    "Sizes of the updates",
    f"{SOBOTKA}, figure 9",
    "How large the elements of the updates are at iterations 1, 5, 10, 30, 100 and 500, on 20 sigmoid units. Learning"
    " rates are tuned; SGD has momentum 0.9.",
    (
        Setting(
            "sigmoid",
            "sigmoid",
            {},
            (l2o(), LION, ADAM, SGD),
            (
                *(
                    Column(f"max |u| at {i}", Reading("histogram", "max", i, i, "update"), {"L2O": value})
                    for i, value in MOMENTS.items()
                ),
                Column(RATE, Reading("loss", "lr", 1, 1)),
            ),
            (
                meet(
                    [*(Number("Lion", f"max |u| at {i}") for i in MOMENTS), Number("Lion", RATE)],
                    within=1e-3,
                    together="max |u| at all six and learning rate",
                    paper="exactly its learning rate",
                ),
                larger(Number("L2O", "max |u| at 5"), Number("L2O", "max |u| at 1"), factor=2),
                larger(Number("L2O", "max |u| at 5"), Number("L2O", "max |u| at 100"), factor=1.5),
                meet([Number("L2O", "max |u| at 100"), Number("L2O", "max |u| at 500")], within=0.25),
                *(
                    larger(*both_at("max |u| at 5", "L2O", other), paper="L2O starts with the largest")
                    for other in ("Lion", "Adam", "SGD")
                ),
            ),
        ),
    ),
    iterations=500,
    shows=("histogram",),
    save=("update",),
    at=tuple(MOMENTS),
)

BASELINES = (
    Curve("momentum SGD", "sgd", {"momentum": 0.9}),
    Curve("NAG", "sgd", {"momentum": 0.9, "nesterov": True}),
    Curve("RMSprop", "rmsprop"),
    ADAM,
    LION,
)
OTHERS = tuple(curve.label for curve in BASELINES)
MEAN = "mean loss over 100"


def learning_curve(key: str, title: str, options: Mapping[str, Any], *claims: Claim, problem: str = "mlp") -> Setting:
    """L2O, meta-trained on 20 sigmoid units, against what people made, on one problem."""
    columns = (Column(MEAN, loss(1, 100)), Column(LOSS_100, loss(91, 100)))
    return Setting(key, title, options, (l2o(), *BASELINES), columns, claims, problem=problem)


GENERALIZES = "it generalizes"

LEARNING_CURVES = StudyFigure(
    "learning-curves",
    "Does the learned optimizer optimize?",
    f"after {ANDRYCHOWICZ}, section 3.2",
    "The training loss under the learned optimizer, meta-trained on 20 sigmoid units, and under five others, each with"
    " the learning rate that is best on the very problem it is shown on; seeds that no meta-training, selection or"
    " tuning has seen.",
    (
        learning_curve("own", "20 sigmoid units", {}, smallest("L2O", OTHERS, MEAN, paper="L2O is the lowest")),
        learning_curve("units-40", "40 units", {"hidden": (40,)}, smallest("L2O", OTHERS, MEAN, paper=GENERALIZES)),
        learning_curve(
            "two-layers", "two layers", {"hidden": (20, 20)}, smallest("L2O", OTHERS, MEAN, paper=GENERALIZES)
        ),
        learning_curve(
            "relu",
            "ReLU",
            {"activation": "relu"},
            larger(*both_at(MEAN, "L2O", "Adam"), paper="it does not generalize"),
        ),
        learning_curve("quadratic", "10-d quadratic", {"size": 10}, problem="quadratic"),
    ),
    iterations=100,
    shows=("loss",),
    save=(),
    seeds=10,
)

FIGURES: Mapping[str, StudyFigure] = {
    figure.name: figure for figure in (FIGURE_4, FIGURE_5, FIGURE_7, FIGURE_8, FIGURE_9, LEARNING_CURVES)
}
