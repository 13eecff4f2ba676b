"""Tensors on the command line: ``name=@x.npy`` and ``name=1,2,3`` into the protocol's JSON, and back to arrays.

Owns the forms a value can have and the table of data types. Imports numpy: only for ``infer``. Must not know how a
request is sent.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

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
}
"""The protocol's data types and numpy's. BYTES stands apart: its elements are texts."""

_NAMES: Final = {numpy: protocol for protocol, numpy in TYPES.items()}

FORMS: Final = "Write name=@file.npy, name=1,2,3, name=[[1,2],[3,4]] or, with a type, name:FP32=1,2,3."

Array = np.ndarray[Any, np.dtype[Any]]


def parse(text: str, declared: dict[str, str]) -> dict[str, Any]:
    """One input as the protocol's JSON; ``declared`` holds the types that the model asks for, where they are known."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise OrchError("bad-request", f"{text[:60]!r} is not an input.", FORMS)
    front, colon, last = name.rpartition(":")
    kind = last.upper() if colon and last.upper() in (*TYPES, "BYTES") else ""
    name = front if kind else name
    array = _file(value[1:]) if value.startswith("@") else _literal(name, value)
    return tensor(name, _cast(name, array, kind or declared.get(name, "") or _type_of(array)))


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


def tensor(name: str, array: Array) -> dict[str, Any]:
    """An array as the protocol's JSON."""
    return {"name": name, "shape": list(array.shape), "datatype": _type_of(array), "data": array.ravel().tolist()}


def array(output: dict[str, Any]) -> Array:
    """An output of the protocol's JSON as an array."""
    kind = output.get("datatype", "")
    data = output.get("data")
    if kind != "BYTES" and kind not in TYPES:
        raise OrchError(
            "unsupported", f"The output {output.get('name')} has the type {kind}.", "numpy has no such type."
        )
    return np.array(data, dtype=TYPES.get(kind, str)).reshape(output.get("shape", [-1]))


def summary(found: Array) -> tuple[str, str, str]:
    """Type, shape and a glance at the values."""
    shape = "x".join(map(str, found.shape)) or "scalar"
    flat = found.ravel()
    values = ", ".join(f"{item:.4g}" if found.dtype.kind == "f" else str(item) for item in flat[:6].tolist())
    return found.dtype.name if found.dtype.kind != "U" else "text", shape, values + (", …" if flat.size > 6 else "")
