"""Reads a GGUF file that nobody vouches for: the header, the fields and the table of tensors, with every bound checked.

Owns the container format only: what a field means for a model is ``architecture``'s, what a block holds is
``weights``'s. A count, a length or an offset that the file cannot hold ends in ``model-invalid`` naming the field;
nothing is allocated before it was compared with the file's size. Data is read tensor by tensor, never as a whole, and
never mapped: a file that shrinks meanwhile is an error here, not a SIGBUS.
"""

from __future__ import annotations

import os
import struct
from math import prod
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, NamedTuple, NoReturn, Self

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

from neuroshell_orch import regular
from neuroshell_orch.errors import OrchError

Value = bool | int | float | str | list["Value"]

MAX_FIELDS: Final = 4096
MAX_TENSORS: Final = 65536
MAX_DIMENSIONS: Final = 4
MAX_ITEMS: Final = 4 << 20
MAX_NAME: Final = 1024
_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")
_STRING: Final = 8
_ARRAY: Final = 9
_SCALARS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


class TensorEntry(NamedTuple):
    """One tensor: ``shape`` as numpy counts (rows first), its block type, and where its bytes lie in the file."""

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    offset: int
    nbytes: int


class GgufFile:
    """An open GGUF file: ``fields`` and ``tensors``. Close it, or use it in a ``with``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = _open(path)
        self._size = os.fstat(self._file.fileno()).st_size
        self._at = 0
        self.fields: dict[str, Value] = {}
        self.tensors: dict[str, TensorEntry] = {}
        try:
            self._read_header()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file. What was read stays valid."""
        self._file.close()

    def data(self, entry: TensorEntry, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
        """The raw blocks of rows ``start`` to ``stop``: one row of bytes per row of the tensor."""
        rows = prod(entry.shape[:-1])
        stop = rows if stop is None else min(stop, rows)
        row_bytes = entry.nbytes // rows
        self._file.seek(entry.offset + start * row_bytes)
        raw = self._file.read((stop - start) * row_bytes)
        if len(raw) < (stop - start) * row_bytes:
            self.invalid(f"tensor {entry.name!r}", "could not be read to its end: the file shrank meanwhile")
        return np.frombuffer(raw, dtype=np.uint8).reshape(stop - start, row_bytes)

    def invalid(self, where: str, what: str) -> NoReturn:
        """Refuses the file: ``where`` names the field or tensor, ``what`` says what is wrong with it."""
        raise OrchError(
            "model-invalid",
            f"{self.path}: {where}: {what}.",
            "The file is damaged or not a GGUF model: fetch it again and compare its checksum.",
        )

    # ---- reading ---------------------------------------------------------------------------------------------

    def _take(self, count: int, where: str) -> bytes:
        """The next ``count`` bytes of the header, which must be there."""
        raw = b"" if count > self._size - self._at else self._file.read(count)
        if len(raw) < count:
            self.invalid(where, f"needs {count} bytes at offset {self._at}, the file has {self._size}")
        self._at += count
        return raw

    def _number(self, code: struct.Struct, where: str) -> int:
        value: int = code.unpack(self._take(code.size, where))[0]
        return value

    def _string(self, where: str, limit: int | None = None) -> str:
        length = self._number(_U64, where)
        if limit is not None and length > limit:
            self.invalid(where, f"is {length} bytes long, at most {limit} are allowed")
        try:
            return self._take(length, where).decode()
        except UnicodeDecodeError:
            self.invalid(where, "is not UTF-8 text")

    def _value(self, kind: int, where: str) -> Value:
        if kind == _STRING:
            return self._string(where)
        if kind == _ARRAY:
            return self._array(where)
        if kind not in _SCALARS:
            self.invalid(where, f"has the unknown value type {kind}")
        code = struct.Struct("<" + _SCALARS[kind])
        value: Value = code.unpack(self._take(code.size, where))[0]
        return value

    def _array(self, where: str) -> list[Value]:
        kind, count = self._number(_U32, where), self._number(_U64, where)
        if count > MAX_ITEMS:
            self.invalid(where, f"claims {count} items, at most {MAX_ITEMS} are allowed")
        if kind == _STRING:
            return [self._string(where) for _ in range(count)]
        if kind not in _SCALARS:
            self.invalid(where, f"is an array of the unknown or nested type {kind}")
        code = struct.Struct(f"<{count}{_SCALARS[kind]}")
        return list(code.unpack(self._take(code.size, where)))

    def _read_header(self) -> None:
        if self._take(4, "magic") != b"GGUF":
            self.invalid("magic", "the file does not begin with 'GGUF'")
        version = self._number(_U32, "version")
        if version not in (2, 3):
            self.invalid("version", f"is {version}; versions 2 and 3, little-endian, can be read")
        tensors, fields = self._number(_U64, "tensor_count"), self._number(_U64, "kv_count")
        if tensors > MAX_TENSORS:
            self.invalid("tensor_count", f"is {tensors}, at most {MAX_TENSORS} are allowed")
        if fields > MAX_FIELDS:
            self.invalid("kv_count", f"is {fields}, at most {MAX_FIELDS} are allowed")
        for number in range(fields):
            key = self._string(f"field {number}'s name", MAX_NAME)
            if key in self.fields:
                self.invalid(key, "appears twice")
            self.fields[key] = self._value(self._number(_U32, key), key)
        entries = [self._read_entry(number) for number in range(tensors)]
        self._place(entries)

    def _read_entry(self, number: int) -> TensorEntry:
        name = self._string(f"tensor {number}'s name", MAX_NAME)
        where = f"tensor {name!r}"
        dimensions = self._number(_U32, where)
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            self.invalid(where, f"has {dimensions} dimensions, 1 to {MAX_DIMENSIONS} are allowed")
        shape = tuple(reversed([self._number(_U64, where) for _ in range(dimensions)]))
        code = self._number(_U32, where)
        try:
            kind = GGMLQuantizationType(code)
        except ValueError:
            self.invalid(where, f"has the unknown block type {code}")
        block, block_bytes = GGML_QUANT_SIZES[kind]
        if shape[-1] % block:
            self.invalid(where, f"has rows of {shape[-1]} values, not a multiple of {kind.name}'s block of {block}")
        return TensorEntry(name, shape, kind, self._number(_U64, where), prod(shape) // block * block_bytes)

    def _place(self, entries: list[TensorEntry]) -> None:
        alignment = self.fields.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 20 or alignment & (alignment - 1):
            self.invalid("general.alignment", f"is {alignment}, a power of two up to 1048576 was expected")
        base = -(-self._at // alignment) * alignment
        for entry in entries:
            where = f"tensor {entry.name!r}"
            if entry.name in self.tensors:
                self.invalid(where, "appears twice")
            if entry.nbytes == 0:
                self.invalid(where, "is empty")
            if entry.offset % alignment:
                self.invalid(where, f"lies at offset {entry.offset}, not a multiple of {alignment}")
            if base + entry.offset + entry.nbytes > self._size:
                self.invalid(where, f"ends at byte {base + entry.offset + entry.nbytes}, the file has {self._size}")
            self.tensors[entry.name] = entry._replace(offset=base + entry.offset)


def _open(path: Path) -> BinaryIO:
    """Opens a regular, non-empty file without ever blocking on a FIFO or a device."""
    try:
        descriptor, facts = regular.open_file(path)
        stream = open(descriptor, "rb", buffering=1 << 20)  # noqa: PTH123, SIM115 - a descriptor, closed by close()
    except regular.NotRegularError:
        raise _nothing_in_it(path) from None
    except FileNotFoundError:
        raise OrchError("file-missing", f"{path}: there is no such file.", "Check the path.") from None
    except OSError as error:
        raise OrchError("model-invalid", f"{path}: cannot be opened: {error.strerror}.", "Check the path.") from None
    if facts.st_size == 0:
        stream.close()
        raise _nothing_in_it(path)
    return stream


def _nothing_in_it(path: Path) -> OrchError:
    return OrchError("model-invalid", f"{path}: is not a file with something in it.", "Name a GGUF file.")
