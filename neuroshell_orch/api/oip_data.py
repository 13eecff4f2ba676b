"""Tensors in the JSON of the Open Inference Protocol: to the bytes that workers take, and back.

Owns the datatypes, the sizes of their elements and what JSON does with values that it has no number for: NaN and the
infinities are the texts "NaN", "Infinity" and "-Infinity" (bare words, as some clients write them, are read as well);
FP16 and BF16 are numbers, rounded to nearest on the way in and exact on the way out; BYTES are texts. Little-endian
is the only order there is. Needs no numpy: the daemon would pay for it at every start. Must not know HTTP.
"""

from __future__ import annotations

import array
import json
import math
import struct
import sys
from typing import Annotated, Any, Final

import msgspec

from neuroshell_orch.errors import OrchError
from neuroshell_orch.workers.protocol import Tensor

CODES: Final[dict[str, str]] = {
    "BOOL": "B",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP16": "e",
    "FP32": "f",
    "FP64": "d",
}
"""Datatypes and their codes in ``struct``. BF16 and BYTES are apart."""

SIZES: Final[dict[str, int]] = {name: struct.calcsize(f"<{code}") for name, code in CODES.items()} | {"BF16": 2}
"""Bytes of one element; BYTES has no fixed size."""

FLOATS: Final = frozenset({"FP16", "FP32", "FP64", "BF16"})
_NAMED: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_LENGTH: Final = struct.Struct("<I")
_MAX_DEPTH: Final = 32
_MAX_RANK: Final = 64


class InputTensor(msgspec.Struct):
    """One input of a request: its values are in ``data``, behind the JSON, or in shared memory."""

    name: str
    shape: Annotated[
        list[int], msgspec.Meta(extra_json_schema={"items": {"type": "integer", "minimum": 0}, "maxItems": 64})
    ]
    datatype: Annotated[str, msgspec.Meta(extra_json_schema={"enum": [*SIZES, "BYTES"]})]
    data: Any = msgspec.UNSET
    """The values, flat or in lists of lists."""
    parameters: dict[str, Any] = {}
    """``binary_data_size``, or ``shared_memory_region``, ``shared_memory_offset`` and ``shared_memory_byte_size``."""


def element_count(given: InputTensor) -> int:
    """How many elements the shape means. Raises OrchError that names the input."""
    what = f"Input {given.name[:80]!r}"
    if given.datatype != "BYTES" and given.datatype not in SIZES:
        known = ", ".join([*SIZES, "BYTES"])
        raise OrchError("bad-request", f"{what} has the datatype {given.datatype[:40]!r}.", f"Known ones: {known}.")
    if len(given.shape) > _MAX_RANK:
        raise OrchError("bad-request", f"{what} has more than {_MAX_RANK} dimensions.", "")
    if any(size < 0 for size in given.shape):
        raise OrchError("bad-request", f"{what} has a negative size in its shape {given.shape}.", "")
    return math.prod(given.shape)


def to_tensor(given: InputTensor) -> Tensor:
    """JSON data as a tensor. Raises OrchError that names the input."""
    what = f"Input {given.name[:80]!r}"
    count = element_count(given)
    values: list[Any] = []
    _flatten(given.data, values)
    if len(values) != count:
        raise OrchError("bad-request", f"{what} has {len(values)} values, and its shape {given.shape} means {count}.")
    return Tensor(given.name, given.datatype, given.shape, _pack(what, given.datatype, values))


def _flatten(data: object, into: list[Any], depth: int = 0) -> None:
    if not isinstance(data, list):
        into.append(data)
    elif depth > _MAX_DEPTH:
        raise OrchError("bad-request", f"The data of an input nests deeper than {_MAX_DEPTH} lists.", "Send it flat.")
    elif any(type(item) is list for item in data):
        for item in data:
            _flatten(item, into, depth + 1)
    else:
        into += data


def _pack(what: str, datatype: str, values: list[Any]) -> bytes:
    kinds = set(map(type, values))
    if datatype == "BYTES":
        return _pack_bytes(what, kinds, values)
    if datatype in FLOATS and str in kinds and all(value in _NAMED for value in values if type(value) is str):
        values = [_NAMED[value] if type(value) is str else value for value in values]
        kinds.discard(str)
    allowed = {int, float} if datatype in FLOATS else {int, bool} if datatype == "BOOL" else {int}
    if kinds - {int, float, bool}:
        hint = 'NaN and the infinities are "NaN", "Infinity" and "-Infinity".' if datatype in FLOATS else ""
        raise OrchError("bad-request", f"{what} has values that are not numbers.", hint)
    if kinds - allowed:
        wrong = "fractions" if float in kinds else "true or false"
        raise OrchError("bad-request", f"{what} has {wrong} among its values, and its datatype is {datatype}.", "")
    unfit = f"{what} has values that do not fit {datatype}."
    if datatype == "BOOL" and any(value not in {0, 1} for value in values):
        raise OrchError("bad-request", unfit, "")
    try:
        if datatype == "BF16":
            return _pack_bf16(values)
        return struct.pack(f"<{len(values)}{CODES[datatype]}", *values)
    except (struct.error, OverflowError):
        raise OrchError("bad-request", unfit, "") from None


def _pack_bf16(values: list[float]) -> bytes:
    words = struct.unpack(f"<{len(values)}I", struct.pack(f"<{len(values)}f", *values))
    rounded = [
        word >> 16 | 0x40 if word & 0x7FFFFFFF > 0x7F800000 else (word + 0x7FFF + (word >> 16 & 1)) >> 16
        for word in words
    ]
    for word, half in zip(words, rounded, strict=True):
        if half & 0x7FFF == 0x7F80 and word & 0x7FFFFFFF != 0x7F800000:
            raise OverflowError
    return struct.pack(f"<{len(rounded)}H", *rounded)


def _pack_bytes(what: str, kinds: set[type], values: list[Any]) -> bytes:
    if kinds - {str}:
        raise OrchError("bad-request", f"{what} is BYTES and has values that are not strings.", "")
    encoded = [value.encode("utf-8", "surrogatepass") for value in values]
    return b"".join(_LENGTH.pack(len(item)) + item for item in encoded)


def from_tensor(tensor: Tensor) -> dict[str, Any]:
    """A tensor as the protocol's JSON. Raises OrchError where JSON cannot carry it."""
    head = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
    if tensor.datatype == "BYTES":
        return {**head, "data": _unpack_bytes(tensor)}
    values = _numbers(tensor)
    if tensor.datatype == "BOOL":
        values = [bool(value) for value in values]
    elif tensor.datatype in FLOATS and not all(map(math.isfinite, values)):
        values = [value if math.isfinite(value) else _name_of(value) for value in values]
    return {**head, "data": values}


def _numbers(tensor: Tensor) -> list[Any]:
    if tensor.datatype == "FP16":
        return list(struct.unpack(f"<{len(tensor.data) // 2}e", tensor.data))
    if tensor.datatype == "BF16":
        words = struct.unpack(f"<{len(tensor.data) // 2}H", tensor.data)
        return list(struct.unpack(f"<{len(words)}f", struct.pack(f"<{len(words)}I", *(word << 16 for word in words))))
    numbers = array.array(CODES[tensor.datatype], tensor.data)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()


def _name_of(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _unpack_bytes(tensor: Tensor) -> list[str]:
    values, at = [], 0
    while at < len(tensor.data):
        (size,) = _LENGTH.unpack_from(tensor.data, at)
        at += _LENGTH.size
        try:
            values.append(tensor.data[at : at + size].decode())
        except UnicodeDecodeError:
            message = f"Output {tensor.name} holds bytes that are not text."
            raise OrchError("unsupported", message, "Ask for it with binary_data.") from None
        at += size
    return values


def decode_bare_words(text: bytes) -> object:
    """JSON with NaN and infinities as bare words, which the standard has not. Raises ValueError, RecursionError."""
    return json.loads(text)
