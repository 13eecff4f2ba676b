"""The default model for tests: pulled and converted once, then shared by every test run on this checkout.

Everything lies under ``build/models`` (ignored by git). Several processes may ask at once: ``pull`` holds a lock.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

import neuroshell_orch
from neuroshell_orch.models.catalogue import fetch_gguf, pull

NAME = "smollm2-135m"
ROOT = Path(__file__).resolve().parent.parent / "build" / "models"
CACHE = ROOT / "cache"


@functools.cache
def smollm2_gguf() -> Path:
    """The GGUF file of the default model."""
    return fetch_gguf(NAME, CACHE)


@functools.cache
def smollm2_folder() -> Path:
    """The default model as an onnxruntime-genai folder in 4 bits: ``build/models/REVISION/smollm2-135m``.

    REVISION is a digest of the converter's source, so that a change there makes a new folder.
    """
    return pull(NAME, ROOT / converter_revision(), CACHE)


def converter_revision() -> str:
    """Twelve digits that change with the converter."""
    digest = hashlib.sha256()
    for path in sorted(Path(neuroshell_orch.__file__).parent.glob("models/convert/*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
