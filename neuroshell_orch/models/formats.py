"""Tells what a path really holds: an ONNX model, a runtime's folder, or what converts into one. By content, not name.

Owns the few bytes that are looked at and the sentences for everything that is something else. Opens nothing that could
block or act (FIFOs, devices) and needs neither onnx nor numpy: the CLI asks it before anything is imported.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Final, Literal

from neuroshell_orch import encoders, regular
from neuroshell_orch.errors import OrchError

Format = Literal["onnx", "genai", "encoder", "gguf", "safetensors"]
"""The last two have to be converted: a language model's file, and the folder of an encoder without an ONNX model."""

_EXPECTED: Final = "An ONNX file, a GGUF file, or a folder with genai_config.json or modules.json was expected."
_HEAD: Final = 4096
_CONFIG_LIMIT: Final = 4 << 20
_SIGNATURES: Final = (
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x7fELF", "a program"),
    (b"\x1f\x8b", "a gzip file"),
    (b"%PDF", "a PDF document"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself"),
    (b"#!", "a script"),
)


def identify(path: Path) -> Format:
    """What lies at ``path``. Raises ``file-missing`` or ``model-invalid`` with what it is instead."""
    status = _status(path)
    if stat.S_ISDIR(status.st_mode):
        if not (path / "genai_config.json").exists() and encoders.is_encoder(path):
            return _encoder(path)
        _check_folder(path)
        return "genai"
    head, size = _read(path, _HEAD)
    if head[:4] == b"GGUF":
        if size < 32 or int.from_bytes(head[4:8], "little") not in (2, 3):
            raise _invalid(path, "begins like a GGUF file, but is cut off or of a version that cannot be read")
        return "gguf"
    if _is_onnx(head, size):
        return "onnx"
    raise _invalid(path, f"is {_describe(head)}")


def _status(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except FileNotFoundError:
        what = "is a link to something that does not exist" if path.is_symlink() else "does not exist"
        raise OrchError("file-missing", f"{path} {what}.", _EXPECTED) from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _invalid(path, "is a link that leads back to itself") from None
        if error.errno in (errno.ENOTDIR, errno.ENAMETOOLONG):
            raise OrchError("file-missing", f"{path} does not exist.", _EXPECTED) from None
        raise OrchError(
            "not-allowed", f"{path} cannot be looked at: {error.strerror}.", "Check its permissions."
        ) from None


def _read(path: Path, limit: int) -> tuple[bytes, int]:
    """The first bytes and the size of a regular file that is not empty."""
    try:
        descriptor, status = regular.open_file(path)
    except regular.NotRegularError as error:
        raise _invalid(path, f"is {_kind(error.facts.st_mode)}") from None
    except FileNotFoundError:
        raise OrchError("file-missing", f"{path} does not exist.", _EXPECTED) from None
    except OSError as error:
        raise OrchError(
            "not-allowed", f"{path} cannot be opened: {error.strerror}.", "Check its permissions."
        ) from None
    try:
        if status.st_size == 0:
            raise _invalid(path, "is empty")
        return os.read(descriptor, limit), status.st_size
    finally:
        os.close(descriptor)


def _kind(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "a named pipe"
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a socket or a device"


def _check_folder(folder: Path) -> None:
    config = folder / "genai_config.json"
    try:
        text, _ = _read(config, _CONFIG_LIMIT)
    except OrchError as error:
        if error.problem != "file-missing":
            raise
        if (folder / "model.onnx").is_file():
            raise OrchError(
                "model-invalid",
                f"{folder} is a folder without genai_config.json.",
                "To use it as a tensor model, name its ONNX file.",
            ) from None
        raise _invalid(folder, "is a folder without genai_config.json") from None
    try:
        model = json.loads(text)["model"]
        filename = model["decoder"]["filename"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise OrchError(
            "model-invalid",
            f"{config} is not a description of a model: model.decoder.filename was expected.",
            _EXPECTED,
        ) from None
    if not isinstance(filename, str) or not filename or "\0" in filename:
        raise OrchError("model-invalid", f"{config}: model.decoder.filename is not the name of a file.", _EXPECTED)
    target = folder / filename
    inside = target.resolve().is_relative_to(folder.resolve())
    if not inside:
        raise OrchError(
            "model-invalid",
            f"{config}: model.decoder.filename leads out of the folder.",
            "A model's files lie in its own folder.",
        )
    head, size = _read(target, _HEAD)
    if not _is_onnx(head, size):
        raise _invalid(target, f"is {_describe(head)}, where {config} promises an ONNX model")


def _encoder(folder: Path) -> Format:
    found = encoders.read(folder)
    _read(folder / found.tokenizer, 1)
    if not found.graph:
        weights = (folder / found.tokenizer).parent / encoders.WEIGHTS
        _read(weights, 1)
        return "safetensors"
    head, size = _read(folder / found.graph, _HEAD)
    if not _is_onnx(head, size):
        raise _invalid(folder / found.graph, f"is {_describe(head)}, where an ONNX model was expected")
    return "encoder"


def _is_onnx(head: bytes, size: int) -> bool:
    """Whether the bytes read like an ONNX ModelProto: known fields of the right wire types, the IR version first."""
    at, seen_version = 0, False
    for _ in range(64):
        if at >= len(head):
            return seen_version and at < size
        key, at = _varint(head, at)
        field, wire = key >> 3, key & 7
        if wire == 0 and field in (1, 5):  # ir_version, model_version
            value, at = _varint(head, at)
            if at < 0 or (field == 1 and not 1 <= value <= 1000):
                return False
            seen_version = seen_version or field == 1
        elif wire == 2 and field in (2, 3, 4, 6, 7, 8, 14, 20, 25, 26):
            length, at = _varint(head, at)
            if at < 0 or at + length > size:
                return False
            if field == 7:  # the graph; whatever follows it lies behind it
                return seen_version or length > 0
            at += length
        else:
            return False
    return False


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number and the place behind it, -1 where there is none."""
    value = 0
    for shift in range(0, 70, 7):
        if not 0 <= at < len(data):
            return 0, -1
        byte = data[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value, at
    return 0, -1


def _describe(head: bytes) -> str:
    for signature, what in _SIGNATURES:
        if head.startswith(signature):
            return what
    if len(head) > 16 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 30:
        return "a safetensors file, which holds weights but no model"
    try:
        text = head[: max(1, len(head) - 4)].decode()
    except UnicodeDecodeError:
        text = "\0"
    if all(letter.isprintable() or letter.isspace() for letter in text):
        return "a text file"
    return "no model file that is known here, or one that is damaged"


def _invalid(path: Path, what: str) -> OrchError:
    return OrchError("model-invalid", f"{path} {what}.", _EXPECTED)
