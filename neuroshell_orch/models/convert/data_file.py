"""The file of weights beside ``model.onnx``: every tensor starts on a page, so that it can be mapped and given back.

Owns offsets and padding, and hands out the ONNX description of each tensor it wrote. The same bytes may be described
twice under different shapes: that is how an embedding matrix is kept once for two operators. Knows no operator.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

ALIGNMENT: Final = 4096


class DataFile:
    """Tensors written one after the other; ``initializers`` describes them."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._stream = stream
        self._name = name
        self._at = 0
        self.initializers: dict[str, TensorProto] = {}

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._at

    def add(self, name: str, *parts: NDArray[np.generic]) -> str:
        """Writes one tensor, given as parts that lie one below the other, and returns its name."""
        if name in self.initializers:
            return name
        padding = -self._at % ALIGNMENT
        self._stream.write(bytes(padding))
        offset = self._at + padding
        length = 0
        for part in parts:
            length += self._stream.write(np.ascontiguousarray(part).data)
        self._at = offset + length
        shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
        data_type = helper.np_dtype_to_tensor_dtype(parts[0].dtype)
        self.initializers[name] = _describe(name, data_type, shape, self._name, offset, length)
        return name

    def alias(self, name: str, of: str, shape: tuple[int, ...]) -> str:
        """Another name and shape for bytes that were already written."""
        if name not in self.initializers:
            tensor = TensorProto()
            tensor.CopyFrom(self.initializers[of])
            tensor.name = name
            del tensor.dims[:]
            tensor.dims.extend(shape)
            self.initializers[name] = tensor
        return name


def open_data_file(folder: Path, name: str) -> BinaryIO:
    """A new file for the weights in ``folder``."""
    return (folder / name).open("xb", buffering=1 << 20)


def _describe(
    name: str, data_type: int, shape: tuple[int, ...], location: str, offset: int, length: int
) -> TensorProto:
    tensor = TensorProto(name=name, data_type=data_type, dims=shape, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return tensor
