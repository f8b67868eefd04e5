from typing import Any

VERSION: int

def take(
    addresses: list[int],
    pieces: Any,
    width: int,
    minus: Any,
    divisor: float,
    into: Any,
    picks: Any,
    chosen: Any,
    numbers: Any,
    n_threads: int,
) -> None: ...
