"""Whether the files of a model are what they claim and lie where they may, before a native parser sees them.

Owns the opening of files below a model's folder and the list of data files that an ONNX model refers to. A model
file can name any path as its weights, and onnxruntime follows hard links and has followed more; so each file must be
a regular file with one name, reached from the model's folder without ``..``, links or an absolute path. Must not
import a runtime, nor ``onnx`` (it would cost more than the load).
"""

from __future__ import annotations

import mmap
import os
import stat
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final, TypeAlias

from neuroshell_orch.errors import OrchError
from neuroshell_orch.runtimes.onnxfile import MalformedError, external_data

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TypeGuard

Stamps: TypeAlias = "list[tuple[str | int, ...]]"

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_AGAIN: Final = "Add or fetch the model again."


def open_beneath(folder: Path, relative: str) -> int:
    """A descriptor of the regular file ``relative`` below ``folder``, with the rules of openat2's RESOLVE_BENEATH.

    Raises OrchError ``model-invalid``, or ``file-missing`` where there is nothing.
    """
    parts = PurePosixPath(relative).parts
    if not parts or relative.startswith("/") or ".." in parts or "\0" in relative:
        raise _escapes(folder, relative, "it leaves the model's folder")
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        try:
            following = os.open(part, _FILE if last else _DIRECTORY, dir_fd=descriptor)
        except FileNotFoundError:
            raise OrchError("file-missing", f"The model's file {relative!r} is not in {folder}.", _AGAIN) from None
        except OSError as error:
            raise _escapes(folder, relative, f"it cannot be opened as a plain file ({error.strerror})") from None
        finally:
            os.close(descriptor)
        descriptor = following
    facts = os.fstat(descriptor)
    if not stat.S_ISREG(facts.st_mode):
        os.close(descriptor)
        raise _escapes(folder, relative, "it is not a regular file")
    if facts.st_nlink != 1:
        os.close(descriptor)
        raise _escapes(folder, relative, "it has more than one name (a hard link)")
    return descriptor


def check_onnx(path: Path) -> list[Path]:
    """Check one ONNX file and every data file that it names; the data files. Raises OrchError."""
    folder = path.parent
    descriptor = open_beneath(folder, path.name)
    try:
        size = os.fstat(descriptor).st_size
        if size == 0:
            raise OrchError("model-invalid", f"{path} is empty.", _AGAIN)
        wanted, problem = _wanted(mmap.mmap(descriptor, 0, prot=mmap.PROT_READ))
    finally:
        os.close(descriptor)
    if problem:
        raise OrchError("model-invalid", f"{path} is not an ONNX model, or is cut off: {problem}.", _AGAIN)
    for location, end in wanted.items():
        data = open_beneath(folder, location)
        have = os.fstat(data).st_size
        os.close(data)
        if have < end:
            raise OrchError(
                "model-invalid",
                f"{folder / location} has {have} bytes and the model needs {end}: it is cut off.",
                _AGAIN,
            )
    return [folder / location for location in wanted]


def _wanted(content: mmap.mmap) -> tuple[dict[str, int], str]:
    """The data that a model wants, or what is wrong with it. The map is freed with the last view of it, on return."""
    try:
        return external_data(memoryview(content)), ""
    except MalformedError as error:
        return {}, str(error)


def check_genai(folder: Path, config: object) -> list[Path]:
    """Check every file that a genai configuration names; the data files of its graphs. Raises OrchError.

    ``config`` is what the folder's own configuration says. What this process has checked is not read again while
    nothing of it has changed: a parked worker did that already, and so did a load that was begun early.
    """
    known = _Checked.last
    if known is None or known.folder != folder or known.stamps != stamps(folder, known.files):
        known = _Checked.last = _Checked(folder, config)
    return list(known.data)


class _Checked:
    """What was checked, and how it was then."""

    last: _Checked | None = None

    def __init__(self, folder: Path, config: object) -> None:
        before = stamps(folder)
        self.folder = folder
        self.data = _check_genai(folder, config)
        self.files = [*self.data, *(folder / setting[1] for setting in _settings(config) if _names_file(setting))]
        self.stamps = stamps(folder, self.files)
        if stamps(folder) != before:
            self.folder = Path()  # it changed meanwhile: to be checked again


def stamps(folder: Path, files: Iterable[Path] = ()) -> Stamps:
    """What changes when ``folder``, an entry of it, or one of ``files`` does."""
    return [(str(path), *_stamp(path)) for path in (*sorted(folder.iterdir()), *files)]


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        facts = path.stat()
    except OSError:
        return ()
    identity = (facts.st_mode, facts.st_dev, facts.st_ino, facts.st_nlink)
    return (*identity, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)


def _check_genai(folder: Path, config: object) -> list[Path]:
    data: list[Path] = []
    for path in folder.iterdir():
        # The tokenizer's files are opened by name, whatever they are; a pipe would never end.
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise _escapes(folder, path.name, "it is not a regular file")
    for setting in _settings(config):
        if setting[0] == "custom_ops_library":
            raise OrchError(
                "model-invalid",
                f"{folder / 'genai_config.json'} names a library of code to load ({setting[0]}).",
                "A model may not bring code along. Remove the setting if the model works without it.",
            )
        if _names_file(setting):
            os.close(open_beneath(folder, setting[1]))
            data += check_onnx(folder / setting[1])
    return data


def _names_file(setting: tuple[str, object]) -> TypeGuard[tuple[str, str]]:
    return setting[0] == "filename" and isinstance(setting[1], str)


def _settings(config: object) -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    pending: list[object] = [config]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            found += value.items()
            pending += value.values()
        elif isinstance(value, list):
            pending += value
    return found


def _escapes(folder: Path, relative: str, why: str) -> OrchError:
    return OrchError(
        "model-invalid",
        f"The model in {folder} refers to the file {relative!r}, which is refused: {why}.",
        "Every file of a model must be a plain file of its own inside the model's folder; copy it there.",
    )
