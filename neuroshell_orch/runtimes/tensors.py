"""Tensors between the wire and numpy, checked against what a model declares.

Owns the table of data types (Open Inference Protocol, onnxruntime, numpy) and every sentence about an input that
does not fit. Must not import a runtime. BF16 has no numpy type: it travels as its 16 bits.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeAlias

import numpy as np

from neuroshell_orch.errors import OrchError
from neuroshell_orch.workers.protocol import Tensor, TensorInfo

if TYPE_CHECKING:
    from collections.abc import Sequence

Array: TypeAlias = "np.ndarray[Any, Any]"

ORT_TYPES: Final = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(bfloat16)": "BF16",
    "tensor(string)": "BYTES",
}
"""onnxruntime's name of a type → the protocol's."""

NUMPY_TYPES: Final = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BF16": np.dtype("<u2"),
    "BYTES": np.dtype(object),
}

_LENGTH: Final = struct.Struct("<I")


def check_inputs(
    tensors: Sequence[Tensor],
    declared: Sequence[TensorInfo],
    optional: Sequence[str] = (),
    unranked: Sequence[str] = (),
) -> None:
    """Raise OrchError naming the first input that is unknown, missing, given twice or of the wrong type or shape.

    The inputs in ``unranked`` may have any shape.
    """
    known = {info.name: info for info in declared}
    seen: set[str] = set()
    for tensor in tensors:
        if tensor.name not in known:
            raise OrchError(
                "bad-request",
                f"The model has no input {tensor.name!r}.",
                f"Its inputs are: {', '.join(map(describe, declared)) or 'none'}.",
            )
        if tensor.name in seen:
            _refuse(tensor.name, "is given twice", known[tensor.name])
        seen.add(tensor.name)
        _check_one(tensor, known[tensor.name], any_shape=tensor.name in unranked)
    for info in declared:
        if info.name not in seen and info.name not in optional:
            _refuse(info.name, "is missing", info)


def describe(info: TensorInfo) -> str:
    """``name FP32 [-1, 3]``."""
    return f"{info.name} {info.datatype} {info.shape}"


def _check_one(tensor: Tensor, info: TensorInfo, *, any_shape: bool) -> None:
    if tensor.datatype != info.datatype:
        _refuse(tensor.name, f"has the type {tensor.datatype}", info)
    if any_shape and all(have >= 0 for have in tensor.shape):
        return
    if len(tensor.shape) != len(info.shape):
        _refuse(tensor.name, f"has the shape {tensor.shape}", info)
    for have, want in zip(tensor.shape, info.shape, strict=True):
        if have < 0 or (want >= 0 and have != want):
            _refuse(tensor.name, f"has the shape {tensor.shape}", info)


def _refuse(name: str, what: str, info: TensorInfo) -> NoReturn:
    raise OrchError(
        "bad-request", f"The input {name!r} {what}.", f"The model takes {describe(info)}; -1 stands for any number."
    )


def to_numpy(tensor: Tensor) -> Array:
    """The array that ``tensor`` describes; read-only where it lies in the frame. Raises OrchError."""
    dtype = NUMPY_TYPES.get(tensor.datatype)
    if dtype is None or any(size < 0 for size in tensor.shape):
        raise OrchError(
            "bad-request",
            f"The input {tensor.name!r} has the type {tensor.datatype!r} and the shape {tensor.shape}.",
            f"The types are: {', '.join(NUMPY_TYPES)}; no size is negative.",
        )
    count = math.prod(tensor.shape)
    if tensor.datatype == "BYTES":
        return _strings(tensor, count)
    if len(tensor.data) != count * dtype.itemsize:
        raise OrchError(
            "bad-request",
            f"The input {tensor.name!r} has {len(tensor.data)} bytes of data.",
            f"{tensor.datatype} {tensor.shape} takes {count * dtype.itemsize}.",
        )
    if tensor.datatype == "BOOL" and (np.frombuffer(tensor.data, np.uint8) > 1).any():
        raise OrchError("bad-request", f"The input {tensor.name!r} is BOOL and has bytes other than 0 and 1.", "")
    return np.frombuffer(tensor.data, dtype).reshape(tensor.shape)


def _strings(tensor: Tensor, count: int) -> Array:
    texts: list[str] = []
    data, at = tensor.data, 0
    try:
        while at < len(data) and len(texts) < count:
            (size,) = _LENGTH.unpack_from(data, at)
            at += _LENGTH.size
            if size > len(data) - at:
                break
            texts.append(data[at : at + size].decode("utf-8"))
            at += size
    except (struct.error, UnicodeDecodeError):
        at = -1
    if at != len(data) or len(texts) != count:
        raise OrchError(
            "bad-request",
            f"The input {tensor.name!r} does not hold {count} strings.",
            "Each is a 4-byte little-endian length and that many bytes of UTF-8.",
        )
    array = np.empty(count, dtype=object)
    array[:] = texts
    return array.reshape(tensor.shape)


def from_numpy(name: str, datatype: str, array: Array) -> Tensor:
    """The tensor that describes ``array``."""
    if datatype == "BYTES":
        parts = [str(text).encode("utf-8", "surrogateescape") for text in array.ravel()]
        data = b"".join(_LENGTH.pack(len(part)) + part for part in parts)
    else:
        data = np.ascontiguousarray(array, NUMPY_TYPES[datatype]).tobytes()
    return Tensor(name=name, datatype=datatype, shape=[int(size) for size in array.shape], data=data)
