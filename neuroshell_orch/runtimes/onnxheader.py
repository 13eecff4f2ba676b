"""What an ONNX file takes and returns, read from its bytes alone; run as a program it prints that as JSON.

Owns the reading of a graph's declared inputs and outputs, in the order and with the rules of onnxruntime: a weight
that is listed among the inputs may be left out, or, before version 4 of the format, is none. Weights are skipped, not
read. A program of its own, because a file that is cut off while it is mapped kills its reader. Must not import a
runtime, nor ``onnx`` or numpy.
"""

from __future__ import annotations

import json
import mmap
import os
import sys
from pathlib import Path
from typing import Final, NamedTuple

from neuroshell_orch.errors import OrchError
from neuroshell_orch.runtimes import files
from neuroshell_orch.runtimes.onnxfile import MalformedError, items

_NAMES: Final = (
    "FP32 UINT8 INT8 UINT16 INT16 INT32 INT64 BYTES BOOL FP16 FP64 UINT32 UINT64 COMPLEX64 COMPLEX128 BF16 "
    "FP8E4M3FN FP8E4M3FNUZ FP8E5M2 FP8E5M2FNUZ UINT4 INT4 FP4E2M1"
)
DATATYPES: Final = dict(enumerate(_NAMES.split(), 1))
"""Number of a type in ONNX → the protocol's name, or the name to refuse it by."""
_SEPARATE_WEIGHTS: Final = 4
"""The version of the format from which on weights need not be inputs, and those that are can be overridden."""


class Value(NamedTuple):
    """A declared input or output; ``shape`` is None where not even the number of dimensions is declared."""

    name: str
    datatype: str
    shape: list[int] | None


class Header(NamedTuple):
    """What a model declares. The inputs named in ``optional`` have a value of their own; they come last."""

    inputs: list[Value]
    outputs: list[Value]
    optional: list[str]


def read_header(model: memoryview) -> Header:
    """The declarations of a model. Raises MalformedError."""
    version, graph = 0, None
    for field, value in items(model):
        if field == 1 and isinstance(value, int):
            version = value
        elif field == 7 and isinstance(value, memoryview):
            graph = value
    if graph is None:
        raise MalformedError("it holds no graph")
    found: dict[int, list[Value]] = {11: [], 12: []}
    weights: set[str] = set()
    for field, value in items(graph):
        if not isinstance(value, memoryview):
            continue
        if field in found:
            found[field].append(_value(value))
        elif field == 5:
            weights.add(_text(value, 8))
        elif field == 15:
            weights.update(_text(part, 8) for number, part in items(value) if number == 1 and not isinstance(part, int))
    needed = [item for item in found[11] if item.name not in weights]
    optional = [item for item in found[11] if item.name in weights and version >= _SEPARATE_WEIGHTS]
    return Header(needed + optional, found[12], [item.name for item in optional])


def _text(message: memoryview, wanted: int) -> str:
    for field, value in items(message):
        if field == wanted and isinstance(value, memoryview):
            return bytes(value).decode("utf-8", "replace")
    return ""


def _part(message: memoryview | None, wanted: int) -> memoryview | None:
    for field, value in items(message) if message is not None else ():
        if field == wanted and isinstance(value, memoryview):
            return value
    return None


def _value(message: memoryview) -> Value:
    tensor = _part(_part(message, 2), 1)
    datatype = "no tensor"
    for field, value in items(tensor) if tensor is not None else ():
        if field == 1 and isinstance(value, int):
            datatype = DATATYPES.get(value, f"type {value}")
    shape = _part(tensor, 2)
    return Value(_text(message, 1), datatype, None if shape is None else [_size(dim) for dim in _dims(shape)])


def _dims(shape: memoryview) -> list[memoryview]:
    return [value for field, value in items(shape) if field == 1 and isinstance(value, memoryview)]


def _size(dimension: memoryview) -> int:
    for field, value in items(dimension):
        if field == 1 and isinstance(value, int):
            return value if value < 1 << 62 else -1
    return -1


def read_file(path: Path) -> Header:
    """The declarations of the model in ``path``. Raises OrchError."""
    again = "Add or fetch the model again."
    if not path.exists():
        raise OrchError("file-missing", f"There is no {path}.", "Add the model again, or remove it.")
    descriptor = files.open_beneath(path.parent, path.name)
    try:
        if os.fstat(descriptor).st_size == 0:
            raise OrchError("model-invalid", f"{path} is empty.", again)
        return read_header(memoryview(mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)))
    except MalformedError as error:
        message = f"{path} is not an ONNX model, or is cut off: {error}."
        raise OrchError("model-invalid", message, again) from None
    finally:
        os.close(descriptor)


def main() -> None:
    """Print the header of the file named on the command line."""
    try:
        header = read_file(Path(sys.argv[1]).resolve())
    except OrchError as error:
        print(json.dumps({"problem": error.problem, "message": error.message, "hint": error.hint}))  # noqa: T201
        return

    def shown(values: list[Value]) -> list[dict[str, object]]:
        return [{**value._asdict(), "shape": [-1] if value.shape is None else value.shape} for value in values]

    print(json.dumps({"inputs": shown(header.inputs), "outputs": shown(header.outputs)}))  # noqa: T201


if __name__ == "__main__":
    main()
