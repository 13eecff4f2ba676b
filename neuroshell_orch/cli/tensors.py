"""Tensors on the command line: ``name=@x.npy`` and ``name=1,2,3`` into the protocol's bytes, and back to arrays.

Owns the forms a value can have and the table of data types. Numbers travel raw, so that NaN and large arrays do; BF16,
for which numpy has no type, is 32-bit numbers here. Imports numpy: only for ``infer``. Must not know how a request is
sent.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from neuroshell_orch.errors import OrchError

TYPES: Final[dict[str, str]] = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
    "BF16": "float32",
}
"""The protocol's data types and numpy's. BYTES stands apart: its elements are texts."""

_NAMES: Final = {numpy: protocol for protocol, numpy in TYPES.items() if protocol != "BF16"}
_LENGTH: Final = struct.Struct("<I")

FORMS: Final = "Write name=@file.npy, name=1,2,3, name=[[1,2],[3,4]] or, with a type, name:FP32=1,2,3."

Array = np.ndarray[Any, np.dtype[Any]]


class Given(NamedTuple):
    """An input as it was written; ``kind`` is empty where no type was."""

    name: str
    kind: str
    array: Array


class Tensor(NamedTuple):
    """An input as it is sent: the protocol's JSON, and the bytes behind it."""

    head: dict[str, Any]
    data: bytes | memoryview


def parse(text: str) -> Given:
    """One input."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise OrchError("bad-request", f"{text[:60]!r} is not an input.", FORMS)
    front, colon, last = name.rpartition(":")
    kind = last.upper() if colon and last.upper() in (*TYPES, "BYTES") else ""
    name = front if kind else name
    array = _file(value[1:]) if value.startswith("@") else _literal(name, value)
    return Given(name, kind, _cast(name, array, kind) if kind else array)


def tensor(given: Given, declared: dict[str, str]) -> Tensor:
    """The input as it is sent; ``declared`` holds the types that the model asks for, where they are known."""
    kind = given.kind or declared.get(given.name, "") or _type_of(given.array)
    data = _pack(kind, _cast(given.name, given.array, kind))
    head = {"name": given.name, "shape": list(given.array.shape), "datatype": kind}
    return Tensor({**head, "parameters": {"binary_data_size": len(data)}}, data)


def _pack(kind: str, array: Array) -> bytes | memoryview:
    if kind == "BYTES":
        texts = [text.encode("utf-8", "surrogatepass") for text in array.ravel().tolist()]
        return b"".join(_LENGTH.pack(len(text)) + text for text in texts)
    flat = np.ascontiguousarray(array, np.dtype(TYPES[kind]).newbyteorder("<")).reshape(-1)
    if kind == "BF16":  # the upper half of the 32 bits, rounded to the nearest, ties to even
        words = flat.view("<u4")
        rounded = ((words.astype(np.uint64) + 0x7FFF + (words >> 16 & 1)) >> 16).astype("<u2")
        flat = np.where(np.isnan(flat), words >> 16 | 0x40, rounded).astype("<u2")
    return flat.view(np.uint8).data


def _file(path: str) -> Array:
    try:
        loaded = np.load(Path(path).expanduser(), allow_pickle=False)
    except FileNotFoundError as error:
        raise OrchError("file-missing", f"{path} does not exist.", "Save an array with numpy.save first.") from error
    except (OSError, ValueError, EOFError) as error:
        raise OrchError("bad-request", f"{path} is not an array that numpy.save wrote.", FORMS) from error
    if not isinstance(loaded, np.ndarray):
        loaded.close()
        raise OrchError("bad-request", f"{path} holds several arrays.", "Save the one you mean as a .npy file.")
    return loaded


def _literal(name: str, value: str) -> Array:
    try:
        nested = value.lstrip().startswith("[")
        found = np.array(json.loads(value) if nested else [_element(part) for part in value.split(",")])
    except ValueError as error:
        raise OrchError("bad-request", f"The value of {name} is not a tensor: {error}.", FORMS) from error
    # 64-bit whole numbers and 32-bit others are what models mostly want, where they do not say it themselves
    return found.astype(np.float32) if found.dtype == np.float64 else found


def _element(text: str) -> bool | int | float | str:
    text = text.strip()
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.lower(), text)


def _type_of(array: Array) -> str:
    """The protocol's name of an array's type."""
    if array.dtype.kind in "US":
        return "BYTES"
    return _NAMES.get(array.dtype.name, array.dtype.name)


def _cast(name: str, array: Array, kind: str) -> Array:
    if kind == "BYTES":
        return array.astype(str)
    if kind not in TYPES:
        raise OrchError("unsupported", f"{name} has the type {kind}, which has no place in a request.", FORMS)
    try:
        return array.astype(TYPES[kind], casting="unsafe")
    except (ValueError, OverflowError) as error:
        raise OrchError("bad-request", f"The value of {name} does not fit {kind}: {error}.", FORMS) from error


def arrays(outputs: list[dict[str, Any]], behind: memoryview) -> dict[str, Array]:
    """The outputs by name, from the protocol's JSON and the bytes behind it."""
    found, at = {}, 0
    for output in outputs:
        size = (output.get("parameters") or {}).get("binary_data_size")
        data = output.get("data") if size is None else behind[at : at + size]
        found[str(output.get("name"))] = _array(output, data)
        at += size or 0
    return found


def _array(output: dict[str, Any], data: Any) -> Array:  # noqa: ANN401 - a list, or raw bytes
    kind = output.get("datatype", "")
    if kind != "BYTES" and kind not in TYPES:
        raise OrchError(
            "unsupported", f"The output {output.get('name')} has the type {kind}.", "numpy has no such type."
        )
    raw = isinstance(data, memoryview)
    values = _unpack(kind, data) if raw else np.array(data, dtype=TYPES.get(kind, str))
    return values.reshape(output.get("shape", [-1]))


def _unpack(kind: str, data: memoryview) -> Array:
    if kind == "BF16":
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    if kind != "BYTES":
        return np.frombuffer(data, np.dtype(TYPES[kind]).newbyteorder("<"))
    texts, at = [], 0
    while at < len(data):
        (size,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        texts.append(str(data[at : at + size], "utf-8", "replace"))
        at += size
    return np.array(texts, dtype=str)


def plain(found: Array) -> list[Any]:
    """The values for JSON, which has no number for NaN and the infinities: they are the protocol's words."""
    values = found.ravel().tolist()
    if found.dtype.kind != "f" or np.isfinite(found).all():
        return list(values)
    words = {math.inf: "Infinity", -math.inf: "-Infinity"}
    return [item if math.isfinite(item) else words.get(item, "NaN") for item in values]


def summary(found: Array) -> tuple[str, str, str]:
    """Type, shape and a glance at the values."""
    shape = "x".join(map(str, found.shape)) or "scalar"
    flat = found.ravel()
    values = ", ".join(f"{item:.4g}" if found.dtype.kind == "f" else str(item) for item in flat[:6].tolist())
    return found.dtype.name if found.dtype.kind != "U" else "text", shape, values + (", …" if flat.size > 6 else "")
