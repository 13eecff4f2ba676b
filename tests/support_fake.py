"""Fake models for tests of anything above a worker: real processes, no runtime, any misbehaviour."""

from __future__ import annotations

import json
import os
from pathlib import Path

ROOT = Path(__file__).parents[1]


def fake_environment() -> dict[str, str]:
    """What a worker (or a daemon that starts workers) needs in its environment to know the runtime ``fake``."""
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"NSORCH_RUNTIMES": "fake=tests.workers.fake_runtime", "PYTHONPATH": os.pathsep.join(path)}


def fake_model(path: Path, **knobs: object) -> Path:
    """Write a model file with these knobs (see tests/workers/fake_runtime.py)."""
    path.write_text(json.dumps(knobs))
    return path
