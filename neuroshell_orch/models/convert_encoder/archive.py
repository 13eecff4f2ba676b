"""A model's folder that comes as a ZIP file: the files that conversion reads, unpacked within bounds.

Owns which names are taken and how much may come out. Nothing else of the archive is written anywhere, and no name of it
is used as a path as it stands.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Final

from neuroshell_orch.errors import OrchError

_CHUNK: Final = 1 << 20
_SMALL: Final = 64 << 20
"""Bytes of a description or a tokenizer."""
_LARGE: Final = 64 << 30
"""Bytes of the weights."""
_MAX_MEMBERS: Final = 4096
_DEPTH: Final = 2


def unpack(archive: Path, folder: Path) -> None:
    """The JSON files and the weights of ``archive`` into ``folder``. Raises ``model-invalid``."""
    try:
        with zipfile.ZipFile(archive) as opened:
            members = opened.infolist()
            if len(members) > _MAX_MEMBERS:
                raise _invalid(archive, "it holds too many files")
            for member in members:
                _unpack_one(archive, opened, member, folder)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise _invalid(archive, f"it cannot be unpacked ({type(error).__name__})") from error
    except FileExistsError:
        raise _invalid(archive, "it holds a file twice") from None
    except FileNotFoundError:
        raise OrchError("file-missing", f"{archive} does not exist.", "") from None


def _unpack_one(archive: Path, opened: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path) -> None:
    path = PurePosixPath(member.filename)
    if member.is_dir() or path.suffix not in {".json", ".safetensors"}:
        return
    if path.is_absolute() or ".." in path.parts or len(path.parts) > _DEPTH or "\0" in member.filename:
        raise _invalid(archive, "a file in it would lie outside of the folder")
    limit = _LARGE if path.suffix == ".safetensors" else _SMALL
    if member.file_size > limit:
        raise _invalid(archive, "a file in it is too large")
    target = folder.joinpath(*path.parts)
    target.parent.mkdir(exist_ok=True)
    left = limit
    with opened.open(member) as source, target.open("xb") as written:
        while block := source.read(_CHUNK):
            left -= len(block)
            if left < 0:
                raise _invalid(archive, "a file in it is larger than it says")
            written.write(block)


def _invalid(archive: Path, what: str) -> OrchError:
    return OrchError("model-invalid", f"{archive}: {what}.", "Fetch it again, or unpack it yourself.")
