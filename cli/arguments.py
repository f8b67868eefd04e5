"""Arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["Force", "Json", "RunFolders", "SkipDamaged"]

RunFolders = Annotated[
    list[Path],
    typer.Argument(metavar="RUN...", help="Run folders, or folders that hold runs.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace what is there.")]
SkipDamaged = Annotated[
    bool, typer.Option("--skip-damaged", help="Check every part first and go on without the damaged ones.")
]
