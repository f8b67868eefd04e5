"""What a step costs under the tools that people use, in the same run and on the same model; what is not there is said.

``python benchmarks/bench_against_others.py [--quick] [--model 784-20-10|resnet18]``; ``uv pip install --group bench``
brings the others. Ours records every coordinate of param, grad and update; the others write histograms of them
(TensorBoard: of parameters and gradients; wandb: ``watch(log="all")``; Cockpit: its economy preset) or save them
(torch.save, with the optimizer's state in place of the update).
"""

from __future__ import annotations

import argparse

from models import MODELS
from pairs import machine, ratio, report
from tools import TOOLS, added_memory, quietly, waits

STEPS = {"784-20-10": {"ours": 1000, "others": 60}, "resnet18": {"ours": 8, "others": 8}}


def cost(model: str, tool: str, steps: int, pairs: int) -> object:
    """The ratio of step times, or why there is none."""
    training = MODELS[model]()  # Cockpit extends the model that it measures, so each tool has one of its own
    with quietly() as folder:
        try:
            return ratio(
                lambda: TOOLS[tool](training, folder, steps),
                lambda: training.train(steps),
                pairs=pairs,
            )
        except ImportError as error:
            return f"not installed ({error.name})"
        except Exception as error:
            return f"fails: {type(error).__name__}: {str(error).splitlines()[0][:80]}"


def measure(model: str, quick: bool) -> None:
    """The table of one model."""
    training = MODELS[model]()
    print(f"{model}, {training.n_values:,} parameters, Adam; {machine()}", flush=True)
    for tool in TOOLS:
        is_ours = tool.startswith("ours")
        steps = STEPS[model]["ours" if is_ours else "others"] // (3 if quick else 1)
        found = cost(model, tool, steps, pairs=2 if quick else 3)
        memory = added_memory(model, tool, steps)
        report(f"{tool} / unrecorded step ({steps} steps; memory {memory})", found, "below the others'" * is_ours)
    for what, options in (("stats", {"save": []}), ("everything", {})):
        with quietly() as folder:
            found = waits(training, folder, STEPS[model]["ours"], **options)
        report(f"what a step waits for the recorder, {what}", found, "99 % below 1 ms (784-20-10)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--model", choices=list(MODELS))
    given = parser.parse_args()
    for model in [given.model] if given.model else MODELS:
        measure(model, given.quick)


if __name__ == "__main__":
    main()
