"""Which data files an ONNX model refers to, read from its bytes.

Owns a walk over the protobuf encoding that visits every place where a tensor can stand, and looks at nothing else;
weights are skipped, not read. Pure; must not open files. (Importing ``onnx`` for this takes longer than loading a
small model, and it would copy the weights.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_TENSOR, _GRAPH, _NODE, _ATTRIBUTE, _SPARSE, _MODEL, _FUNCTION, _TRAINING = range(8)

_CHILDREN: Final[dict[int, dict[int, int]]] = {
    # Kind of message: field number → kind of message found there (onnx.proto).
    _MODEL: {7: _GRAPH, 20: _TRAINING, 25: _FUNCTION},
    _TRAINING: {1: _GRAPH, 2: _GRAPH},
    _FUNCTION: {7: _NODE, 11: _ATTRIBUTE},
    _GRAPH: {1: _NODE, 5: _TENSOR, 15: _SPARSE},
    _NODE: {5: _ATTRIBUTE},
    _ATTRIBUTE: {5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE},
    _SPARSE: {1: _TENSOR, 2: _TENSOR},
}
_EXTERNAL_DATA: Final = 13
_DEPTH: Final = 100
_MORE: Final = 0x80
"""A byte from here on says that the number goes on."""
_SHORT: Final = 64
_KEY: Final = 1 << 3 | 2
_VALUE: Final = 2 << 3 | 2
_FIRST_FIELD: Final = 1 << 3


class MalformedError(ValueError):
    """The bytes are no protobuf message of this shape."""


def external_data(model: memoryview) -> dict[str, int]:
    """For each location named: the first byte behind all that the model wants of it. Raises MalformedError."""
    wanted: dict[str, int] = {}
    pending = [(_MODEL, 0, len(model), 0)]
    seen: set[bytes | None] = set()
    graphs = 0
    while pending:
        kind, at, end, depth = pending.pop()
        if depth > _DEPTH:
            raise MalformedError("it is nested too deeply")
        graphs += kind == _GRAPH
        if kind == _TENSOR:
            _note(model, at, end, wanted)
            continue
        short = bytes(model[at:end]) if kind == _ATTRIBUTE and end - at <= _SHORT else None
        if short in seen:
            continue  # most nodes have the same few attributes, and in this one there was nothing
        found = _found(model, at, end, _CHILDREN[kind], depth + 1)
        if short is not None and not found:
            seen.add(short)
        pending += found
    if not graphs:
        raise MalformedError("it holds no graph")
    return wanted


def _found(
    model: memoryview, at: int, end: int, children: dict[int, int], depth: int
) -> list[tuple[int, int, int, int]]:
    """The messages of interest in the one from ``at`` to ``end``. All lengths of one byte are read here, being most."""
    found: list[tuple[int, int, int, int]] = []
    while at < end:
        tag = model[at]
        at += 1
        if tag >= _MORE:
            tag, at = _varint(model, at - 1, end)
        wire = tag & 7
        if tag < _FIRST_FIELD:
            raise MalformedError("a field has the number 0")
        if wire == 0:
            _value, at = _varint(model, at, end)
        elif wire != 2:
            at += _fixed(wire)
        else:
            size, at = (model[at], at + 1) if at < end and model[at] < _MORE else _varint(model, at, end)
            if size > end - at:
                raise MalformedError("a field is longer than the file")
            if tag >> 3 in children:
                found.append((children[tag >> 3], at, at + size, depth))
            at += size
    if at > end:
        raise MalformedError("it ends in the middle of a field")
    return found


def _note(model: memoryview, at: int, end: int, wanted: dict[str, int]) -> None:
    found = _found(model, at, end, {_EXTERNAL_DATA: 0}, 0)
    entries = dict(_entry(model[first:last]) for _kind, first, last, _depth in found)
    if entries:
        location = entries.get("location", "")
        wanted[location] = max(wanted.get(location, 0), _number(entries, "offset") + _number(entries, "length"))


def _fixed(wire: int) -> int:
    """The bytes of a field of this type. Raises MalformedError where the type is not known."""
    if wire not in (1, 5):
        raise MalformedError(f"a field has the unknown type {wire}")
    return 8 if wire == 1 else 4


def _number(entries: dict[str, str], key: str) -> int:
    text = entries.get(key, "0")
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise MalformedError(f"the {key} of external data is not a number")
    return int(text)


def _entry(message: memoryview) -> tuple[str, str]:
    data = bytes(message)
    size = data[1] if 4 <= len(data) < _MORE else _MORE
    rest = len(data) - 4 - size
    if rest >= 0 and data[0] == _KEY and data[2 + size] == _VALUE and data[3 + size] == rest:
        return data[2 : 2 + size].decode("utf-8", "replace"), data[4 + size :].decode("utf-8", "replace")
    texts = {1: "", 2: ""}  # not as everybody writes it
    for field, payload in _fields(message):
        texts[field] = bytes(payload).decode("utf-8", "replace")
    return texts[1], texts[2]


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The length-delimited fields of a message; all others are skipped."""
    for field, value in items(message):
        if isinstance(value, memoryview):
            yield field, value


def items(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """The length-delimited fields and the whole numbers of a message. Raises MalformedError."""
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at, end)
        field, wire = tag >> 3, tag & 7
        if field == 0:
            raise MalformedError("a field has the number 0")
        if wire == 2:
            size, at = _varint(message, at, end)
            if size > end - at:
                raise MalformedError("a field is longer than the file")
            yield field, message[at : at + size]
            at += size
        elif wire == 0:
            value, at = _varint(message, at, end)
            yield field, value
        else:
            at += _fixed(wire)
    if at > end:
        raise MalformedError("it ends in the middle of a field")


def _varint(message: memoryview, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise MalformedError("a number does not end")
