"""A catalogue with one tiny model and a place it can be fetched from, without a network."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path

from tests.models.tiny import TINY, write_tiny

WHEEL = "tiny_model-1.0-py3-none-any.whl"
MEMBER = "tiny_model/tiny.gguf"


def stock(config: Path, folder: Path, *, broken: bool = False) -> dict[str, str]:
    """Put the model ``tiny`` into the catalogue of ``config`` and its wheel into ``folder``; the environment for it."""
    gguf = write_tiny(folder / "source.gguf", TINY["qwen2"]).read_bytes()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(MEMBER, gguf)
    wheel = packed.getvalue()
    shelf = folder / "shelf"
    shelf.mkdir()
    (shelf / WHEEL).write_bytes(wheel[:-1] + b"x" if broken else wheel)
    described = {
        "name": "tiny",
        "description": "random weights",
        "licence": "CC0-1.0",
        "runtime": "genai",
    }
    package = {
        "project": "tiny-model",
        "version": "1.0",
        "filename": WHEEL,
        "size": len(wheel),
        "sha256": hashlib.sha256(wheel).hexdigest(),
    }
    member = {"path": MEMBER, "size": len(gguf), "sha256": hashlib.sha256(gguf).hexdigest()}
    text = _lines(described) + "[package]\n" + _lines(package) + "[member]\n" + _lines(member)
    (config / "catalogue.d").mkdir(parents=True, exist_ok=True)
    (config / "catalogue.d" / "tiny.toml").write_text(text)
    return {"PIP_FIND_LINKS": str(shelf), "PIP_NO_INDEX": "1"}


def _lines(values: dict[str, object]) -> str:
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
