"""Counts the parameters in the head of an ONNX file, and in how many bits they are kept.

Owns a small reader of the wire format of Protocol Buffers that skips what it does not look for: data of weights is
jumped over, numbers of nodes and tensors are bounded. Quantised matrices are counted by what they stand for, not by
their bytes; scales, zero points and tables of rotary angles are no parameters. Raises nothing: what cannot be read
counts as nothing.
"""

from __future__ import annotations

import mmap
from collections import Counter
from math import prod
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MOST_FIELDS: Final = 2_000_000
"""A bound on the work that a strange file can make."""
_MOST_DIMENSIONS: Final = 16
BLOCK: Final = 32
_AUGMENTED: Final = ".augmented"
"""How the names of inputs end that our converter has appended the mean of each block to."""
_BITS: Final = {1: 32, 10: 16, 16: 16, 11: 64, 2: 8, 3: 8, 17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4}
"""Bits of one element by TensorProto.DataType, for those that weights are kept in."""
_NO_PARAMETERS: Final = {"GroupQueryAttention": (5, 6, 7, 8), "RotaryEmbedding": (1, 2, 3)}
"""Inputs that are lengths and tables of angles, by operator."""


class Facts(msgspec.Struct, frozen=True):
    """``bits`` counts parameters by the bits of each."""

    bits: Counter[int] = msgspec.field(default_factory=Counter)

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.bits.total()


class _Node(msgspec.Struct):
    operator: str = ""
    inputs: list[str] = []
    numbers: dict[str, int] = {}


class _Tensor(msgspec.Struct):
    name: str
    elements: int
    bits: int
    """Of one element, 0 where they are no numbers that weights are kept in."""
    place: str
    """Where its data lies; two tensors may be two views of the same."""


class _Fields:
    """The fields of messages in one buffer, as (number, value): an int, or the (start, end) of bytes."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._left = _MOST_FIELDS

    def of(self, start: int, end: int) -> Iterator[tuple[int, int | tuple[int, int]]]:
        at = start
        while at < end:
            self._left -= 1
            key, at = self._varint(at, end)
            kind = key & 7
            if self._left < 0 or kind not in {0, 1, 2, 5}:
                raise ValueError
            if kind == 0:
                value, at = self._varint(at, end)
                yield key >> 3, value
                continue
            size = {1: 8, 5: 4}.get(kind, 0)
            if kind == 2:
                size, at = self._varint(at, end)
            if at + size > end:
                raise ValueError
            if kind == 2:
                yield key >> 3, (at, at + size)
            at += size

    def text(self, span: tuple[int, int]) -> str:
        return self._data[span[0] : min(span[1], span[0] + 1024)].decode("utf-8", "replace")

    def numbers(self, span: tuple[int, int]) -> list[int]:
        """Packed numbers."""
        found: list[int] = []
        at, end = span
        while at < end and len(found) < 64:
            number, at = self._varint(at, end)
            found.append(number)
        return found

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):
            if at >= end:
                raise ValueError
            byte = self._data[at]
            value |= (byte & 127) << shift
            at += 1
            if byte < 128:
                return value, at
        raise ValueError


def read(path: Path) -> Facts:
    """What the graph in ``path`` says."""
    try:
        if not path.is_file():
            return Facts()
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            fields = _Fields(data)
            for number, value in fields.of(0, len(data)):
                if number == 7 and isinstance(value, tuple):
                    return _graph(fields, value)
    except (OSError, ValueError):
        pass
    return Facts()


def _graph(fields: _Fields, span: tuple[int, int]) -> Facts:
    nodes: list[_Node] = []
    tensors: dict[str, _Tensor] = {}
    for number, value in fields.of(*span):
        if isinstance(value, int):
            continue
        if number == 1:
            nodes.append(_node(fields, value))
        elif number == 5:
            tensor = _tensor(fields, value)
            tensors[tensor.name] = tensor
    return _counted(nodes, tensors)


def _node(fields: _Fields, span: tuple[int, int]) -> _Node:
    node = _Node(inputs=[], numbers={})
    for number, value in fields.of(*span):
        if isinstance(value, int):
            continue
        if number == 1:
            node.inputs.append(fields.text(value))
        elif number == 4:
            node.operator = fields.text(value)
        elif number == 5:
            name, whole = "", 0
            for part, inner in fields.of(*value):
                if part == 1 and isinstance(inner, tuple):
                    name = fields.text(inner)
                elif part == 3 and isinstance(inner, int):
                    whole = inner
            node.numbers[name] = whole
    return node


def _tensor(fields: _Fields, span: tuple[int, int]) -> _Tensor:
    name, shape, kind, place = "", [], 0, ""
    for number, value in fields.of(*span):
        if number == 1:
            shape += [value] if isinstance(value, int) else fields.numbers(value)
        elif number == 2 and isinstance(value, int):
            kind = value
        elif number == 8 and isinstance(value, tuple):
            name = fields.text(value)
        elif number == 13 and isinstance(value, tuple):
            key, said = (fields.text(inner) for _part, inner in fields.of(*value) if isinstance(inner, tuple))
            place += f"{key}={said} " if key in {"location", "offset"} else ""
    return _Tensor(name, prod(shape) if len(shape) <= _MOST_DIMENSIONS else 0, _BITS.get(kind, 0), place or name)


def _counted(nodes: list[_Node], tensors: dict[str, _Tensor]) -> Facts:
    matrices: dict[str, tuple[int, int]] = {}
    passed: set[str] = set()
    for node in nodes:
        bits = node.numbers.get("bits") or 4
        if node.operator == "MatMulNBits" and len(node.inputs) > 1:
            width = node.numbers.get("K", 0)
            if node.inputs[0].endswith(_AUGMENTED):
                width = width * BLOCK // (BLOCK + 1)
            matrices[node.inputs[1]] = width * node.numbers.get("N", 0), bits
            passed.update(node.inputs[2:5])
        elif node.operator == "GatherBlockQuantized" and node.inputs:
            table = tensors.get(node.inputs[0])
            if table is not None:
                matrices.setdefault(table.name, (table.elements * max(1, table.bits // bits), bits))
            passed.update(node.inputs[2:4])
        elif node.operator in _NO_PARAMETERS:
            passed.update(node.inputs[at] for at in _NO_PARAMETERS[node.operator] if at < len(node.inputs))
    # A matrix that is the embedding and the output is described twice and lies in one place.
    places = {tensors[name].place: counted for name, counted in matrices.items() if name in tensors}
    for tensor in tensors.values():
        if tensor.name not in passed and tensor.bits and tensor.elements > 1:
            places.setdefault(tensor.place, (tensor.elements, tensor.bits))
    found: Counter[int] = Counter()
    for elements, bits in places.values():
        found[bits] += elements
    return Facts(found)
