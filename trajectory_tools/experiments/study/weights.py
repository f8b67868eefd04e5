"""Where the weights of the study's learned optimizers are: with the package, or where the user says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from trajectory_tools.errors import BadArgument, MissingData
from trajectory_tools.experiments.study.design import MetaTrained, StudyFigure

__all__ = ["find_weights"]


def find_weights(figure: StudyFigure, data: str, given: Path | None) -> Mapping[MetaTrained, str]:
    """What the optimizer ``l2o`` is to be told for each of the figure's learned optimizers: a name, or a file.

    ``given`` is a folder with files that are called as shipped weights are; or, where the figure has one learned
    optimizer, a file. What the folder does not have is taken from the shipped ones.

    Raises ``MissingData`` where weights are neither there nor shipped, with the command that makes them;
    ``BadArgument`` for a path that does not exist or does not suffice.
    """
    needed = figure.weights()
    if given is not None and not given.exists():
        raise BadArgument(f"there are no weights at {given}; give a file, or a folder that holds some")
    if given is not None and not needed:
        raise BadArgument(f"{figure.name} has no learned optimizer; leave --weights out")
    if given is not None and given.is_file():
        if len(needed) > 1:
            names = ", ".join(f"{weights.name(data)}.safetensors" for weights in needed)
            raise BadArgument(f"{figure.name} needs {len(needed)} weights, found one file; give a folder with {names}")
        return {needed[0]: str(given)}
    from trajectory_tools.l2o.choice import shipped_weights

    shipped = shipped_weights() if needed else {}
    found = {}
    for weights in needed:
        name = weights.name(data)
        own = None if given is None else given / f"{name}.safetensors"
        if own is not None and own.exists():
            found[weights] = str(own)
        elif name in shipped:
            found[weights] = name
        else:
            raise MissingData(
                f"{figure.name} needs the weights {name}, found neither shipped ones of that name"
                f" nor {own or 'a folder with --weights'}; make them with `{weights.command(data)}` and give their"
                " folder with --weights"
            )
    return found
