"""Bringing a model of one's own in: what ``nsorch model add`` does, step by step.

Owns the order (name, format, conversion, digest, registration) and that a step which fails leaves what was there
before. Must not know how anything is printed but progress, nor how a format is read or converted.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from neuroshell_orch.config.kinds import NAME_FORMS, is_name
from neuroshell_orch.errors import OrchError
from neuroshell_orch.models import registry
from neuroshell_orch.models.bringing import digest_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from neuroshell_orch.config.schema import ModelSettings
    from neuroshell_orch.models.convert import Precision

    Progress = Callable[[str, int, int], None]


def add(name: str, path: Path, precision: Precision, progress: Progress) -> ModelSettings:
    """Register what lies at ``path``: in place, or converted into our own folder (GGUF, safetensors)."""
    from neuroshell_orch.models.formats import identify

    path = path.expanduser().absolute()
    _free(name)
    kind = identify(path)
    folder = registry.folder(name)
    if kind == "gguf":
        from neuroshell_orch.models.convert import convert_gguf

        runtime = "genai"
        convert_gguf(path, folder, precision=precision, progress=progress)
    elif kind == "safetensors":
        from neuroshell_orch.models.convert_encoder import convert_encoder

        runtime = "encoder"
        convert_encoder(path, folder, progress=progress)
    else:
        return registry.add(name, path, kind, digest_of(path, progress))
    try:
        return registry.add(name, folder, runtime, digest_of(folder, progress), source=str(path))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)  # made a moment ago, and nobody knows of it
        raise


def _free(name: str) -> None:
    """Raises OrchError unless ``name`` can be given to a new model; asked before anything takes long."""
    if not is_name(name):
        raise OrchError("bad-request", f"{name[:80]!r} cannot name a model.", f"Use {NAME_FORMS}.")
    if any(model.name == name for model in registry.models()):
        hint = f"Choose another name, or remove it first: nsorch model rm {name}"
        raise OrchError("model-exists", f"There is a model {name} already.", hint)
