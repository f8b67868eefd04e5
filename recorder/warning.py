"""What the recorder warns of, such that a warning never ends the training."""

from __future__ import annotations

import sys
import warnings

__all__ = ["warn"]


def warn(message: str) -> None:
    """One ``RuntimeWarning``; where that would be an error (``python -W error``) it is printed, and nothing stops."""
    try:
        warnings.warn(message, RuntimeWarning, stacklevel=3)
    except RuntimeWarning:
        print(f"RuntimeWarning: {message}", file=sys.stderr)
