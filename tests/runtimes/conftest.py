"""Runtimes are tested in this process; like a worker it must not let them phone home."""

from __future__ import annotations

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
