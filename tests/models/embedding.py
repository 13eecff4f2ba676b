"""An encoder's vectors, by the runtime in this process."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

from neuroshell_orch.runtimes.encoder import EncoderRuntime
from neuroshell_orch.workers.protocol import Embed, Load


def embedded(folder: Path, texts: list[str]) -> np.ndarray:
    runtime = EncoderRuntime()
    runtime.load(Load("m", "encoder", str(folder)))
    found = runtime.embed(Embed(1, list(texts)), lambda: False)
    return np.frombuffer(found.vectors, "<f4").reshape(len(texts), found.dimensions)
