"""Thrift's compact protocol, in which Parquet's metadata is written: structs as they are, whatever their fields mean.

Source: "Thrift Compact protocol encoding", doc/specs/thrift-compact-protocol.md of Apache Thrift. Maps, sets and
floating-point numbers, which Parquet's metadata does not have, are refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ["BINARY", "I32", "I64", "LIST", "STRUCT", "Struct", "decode", "encode", "varint"]

TRUE, FALSE, BYTE, I16, I32, I64, BINARY, LIST, STRUCT = 1, 2, 3, 4, 5, 6, 8, 9, 12
STOP = 0

Struct = dict[int, tuple[int, Any]]
"""Field number → (type, value). A list's value is (type of its elements, elements)."""


def encode(struct: Struct) -> bytes:
    """The struct's bytes; its fields stand in the order of their numbers."""
    out = bytearray()
    _put_struct(out, struct)
    return bytes(out)


def decode(data: bytes) -> Struct:
    """The struct that these bytes begin with; ``ValueError`` where they are none."""
    return _Reader(data).struct()


def varint(number: int) -> bytes:
    """A number ≥ 0, seven bits a byte, the lowest first (ULEB128)."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def _put_struct(out: bytearray, struct: Struct) -> None:
    before = 0
    for number, (kind, value) in sorted(struct.items()):
        if number - before <= 15:
            out.append(number - before << 4 | kind)
        else:
            out.append(kind)
            out += _zigzag(number)
        if kind not in (TRUE, FALSE):  # the type is their value
            _put(out, kind, value)
        before = number
    out.append(STOP)


def _put(out: bytearray, kind: int, value: Any) -> None:
    if kind in (TRUE, FALSE, BYTE):
        out.append(value)
    elif kind in (I16, I32, I64):
        out += _zigzag(value)
    elif kind == BINARY:
        out += varint(len(value)) + value
    elif kind == LIST:
        _put_list(out, *value)
    else:
        _put_struct(out, value)


def _put_list(out: bytearray, kind: int, elements: Iterable[Any]) -> None:
    elements = list(elements)
    if len(elements) < 15:
        out.append(len(elements) << 4 | kind)
    else:
        out.append(0xF0 | kind)
        out += varint(len(elements))
    for element in elements:
        _put(out, kind, element)


def _zigzag(number: int) -> bytes:
    return varint(number << 1 if number >= 0 else (-number << 1) - 1)


class _Reader:
    """Reads on from where it is."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def struct(self) -> Struct:
        found: Struct = {}
        number = 0
        while (head := self._byte()) != STOP:
            kind = head & 15
            number = number + (head >> 4) if head >> 4 else self._zigzag()
            found[number] = (kind, kind == TRUE if kind in (TRUE, FALSE) else self._value(kind))
        return found

    def _value(self, kind: int) -> Any:
        if kind in (TRUE, FALSE, BYTE):
            return self._byte()
        if kind in (I16, I32, I64):
            return self._zigzag()
        if kind == BINARY:
            return self._bytes(self._varint())
        if kind == LIST:
            head = self._byte()
            size = head >> 4 if head >> 4 < 15 else self._varint()
            return head & 15, [self._value(head & 15) for _ in range(size)]
        if kind == STRUCT:
            return self.struct()
        raise ValueError(f"a value of the Thrift type {kind} cannot be read")

    def _zigzag(self) -> int:
        number = self._varint()
        return number >> 1 ^ -(number & 1)

    def _varint(self) -> int:
        number = shift = 0
        while (byte := self._byte()) > 127:
            number |= (byte & 127) << shift
            shift += 7
        return number | byte << shift

    def _byte(self) -> int:
        return self._bytes(1)[0]

    def _bytes(self, size: int) -> bytes:
        self._at += size
        if self._at > len(self._data):
            raise ValueError("the Thrift struct is cut short")
        return self._data[self._at - size : self._at]
