"""A load that is begun before the runtime itself is imported.

Owns what was begun, until ``genai_open`` asks for the same. The files are checked before a native parser sees them,
here as everywhere. Must stay cheap to import, and must not know requests.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroshell_orch.errors import OrchError
from neuroshell_orch.runtimes import base, devices, files, mappings
from neuroshell_orch.runtimes.genai_native import interface
from neuroshell_orch.runtimes.genai_open import Begun, begin_opening, overlay_of

if TYPE_CHECKING:
    from collections.abc import Mapping


def begin(load: Mapping[str, Any]) -> Begun | None:
    """Begin a Load, given as its frame's fields; None where it is left to the load itself, errors included."""
    import onnxruntime_genai  # noqa: PLC0415 - it was imported by who calls this

    native = interface(onnxruntime_genai)
    if native is None or load.get("parallel", 1) != 1:
        return None
    try:
        folder = Path(os.path.realpath(load["path"]))
        files.check_genai(folder, json.loads((folder / "genai_config.json").read_bytes()))
        device = devices.choose_device(load.get("options", {}))
    except (OrchError, OSError, ValueError, KeyError, TypeError):
        return None
    mappings.remember()
    return begin_opening(native, folder, device, overlay_of(base.usable_threads(load.get("threads", 0))))
