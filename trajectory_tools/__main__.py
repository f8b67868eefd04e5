"""``python -m trajectory_tools``: the command line, for launchers that start modules (``torchrun -m``)."""

from __future__ import annotations

from trajectory_tools.cli.main import main

if __name__ == "__main__":
    main()
