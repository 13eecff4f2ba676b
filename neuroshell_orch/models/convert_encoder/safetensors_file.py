"""Reads a safetensors file that nobody vouches for: its table of tensors, with every bound checked, and their values.

Owns the container: eight bytes of length, a JSON table, the data. It is simple enough to be read here, so that no
package has to be. Values come as float32, tensor by tensor, and are read, never mapped: a file that shrinks meanwhile
is an error here, not a SIGBUS. Must not know what a tensor means.
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, NoReturn, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from neuroshell_orch import regular
from neuroshell_orch.errors import OrchError

Floats = NDArray[np.float32]

MAX_HEADER: Final = 32 << 20
MAX_TENSORS: Final = 65536
MAX_DIMENSIONS: Final = 4
_SIZES: Final = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


class _Described(msgspec.Struct):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


class Entry(NamedTuple):
    """One tensor: its type, its shape, and where its bytes begin in the file."""

    kind: str
    shape: tuple[int, ...]
    offset: int
    size: int


class SafetensorsFile:
    """An open file: ``tensors`` by name. Close it, or use it in a ``with``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tensors: dict[str, Entry] = {}
        try:
            descriptor, facts = regular.open_file(path)
        except regular.NotRegularError:
            self.invalid("the file", "is not a regular file")
        except FileNotFoundError:
            raise OrchError("file-missing", f"{path} does not exist.", "Name the model's whole folder.") from None
        except OSError as error:
            raise OrchError("not-allowed", f"{path} cannot be opened: {error.strerror}.", "") from None
        self._file = open(descriptor, "rb")  # noqa: PTH123, SIM115 - a descriptor, closed by close()
        try:
            self._read_table(facts.st_size)
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

    def floats(self, name: str) -> Floats:
        """The values of a tensor. Raises OrchError where they are no finite floating-point numbers."""
        entry = self.tensors[name]
        self._file.seek(entry.offset)
        raw = self._file.read(entry.size)
        if len(raw) < entry.size:
            self.invalid(f"tensor {name!r}", "could not be read to its end: the file shrank meanwhile")
        values: NDArray[Any]
        if entry.kind == "F32":
            values = np.frombuffer(raw, "<f4")
        elif entry.kind == "F16":
            values = np.frombuffer(raw, "<f2").astype(np.float32)
        elif entry.kind == "BF16":
            values = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            self.invalid(f"tensor {name!r}", f"is of the type {entry.kind}; F32, F16 or BF16 was expected")
        if not np.isfinite(values).all():
            self.invalid(f"tensor {name!r}", "holds values that are not finite")
        return values.reshape(entry.shape)

    def invalid(self, where: str, what: str) -> NoReturn:
        """Refuses the file: ``where`` names the tensor, ``what`` says what is wrong with it."""
        raise OrchError(
            "model-invalid",
            f"{self.path}: {where}: {what}.",
            "The file is damaged or not what it claims to be: fetch it again and compare its checksum.",
        )

    def _read_table(self, size: int) -> None:
        head = self._file.read(8)
        length = int.from_bytes(head, "little")
        if len(head) < 8 or length > min(MAX_HEADER, size - 8):
            self.invalid("the header", f"does not fit into a file of {size} bytes")
        try:
            found = msgspec.json.decode(self._file.read(length), type=dict[str, msgspec.Raw])
            found.pop("__metadata__", None)
            table = {name: msgspec.json.decode(raw, type=_Described) for name, raw in found.items()}
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.invalid("the header", "is not a table of tensors")
        if len(table) > MAX_TENSORS:
            self.invalid("the header", f"names more than {MAX_TENSORS} tensors")
        base = 8 + length
        for name, described in table.items():
            self.tensors[name] = self._entry(name, described, base, size)

    def _entry(self, name: str, described: _Described, base: int, size: int) -> Entry:
        where = f"tensor {name[:200]!r}"
        width = _SIZES.get(described.dtype)
        if width is None:
            self.invalid(where, "is of a type that is not known")
        shape = tuple(described.shape)
        if len(shape) > MAX_DIMENSIONS or any(not 0 <= side <= 1 << 40 for side in shape):
            self.invalid(where, "has a shape that cannot be")
        start, end = described.data_offsets
        if not 0 <= start <= end <= size - base or end - start != prod(shape) * width:
            self.invalid(where, "does not lie within the file, or not in the size of its shape")
        return Entry(described.dtype, shape, base + start, end - start)
