from typing import Any

VERSION: int

def take(
    addresses: list[int],
    pieces: Any,
    first: int,
    last: int,
    width: int,
    minus: Any,
    divisor: float,
    into: Any,
    numbers: Any,
) -> None: ...
