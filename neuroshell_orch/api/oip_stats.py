"""How often each tensor model was asked through ``/v2``, and how long the parts of it took.

Owns the counts since the daemon started, in the shape of the statistics extension: counts, nanoseconds, and the
instant of the last inference in milliseconds. One request is one inference: nothing is batched. Must not know HTTP.
"""

from __future__ import annotations

import time
from typing import Any, Final

PARTS: Final = ("queue", "compute_input", "compute_infer", "compute_output")


class Watch:
    """The times of one request. ``lap`` ends the part that is running and begins the next one."""

    def __init__(self) -> None:
        self.began = self._at = time.monotonic_ns()
        self.parts: dict[str, int] = {}

    def lap(self, part: str) -> None:
        """What ran until now was ``part``."""
        now = time.monotonic_ns()
        self.parts[part] = self.parts.get(part, 0) + now - self._at
        self._at = now

    def total(self) -> int:
        """Nanoseconds since the request came."""
        return time.monotonic_ns() - self.began


class Statistics:
    """Counts by model."""

    def __init__(self) -> None:
        self._times: dict[str, dict[str, list[int]]] = {}
        self._last: dict[str, int] = {}

    def succeeded(self, model: str, watch: Watch) -> None:
        """An answer is ready to be sent."""
        self._add(model, "success", watch.total())
        for part in PARTS:
            self._add(model, part, watch.parts.get(part, 0))
        self._last[model] = time.time_ns() // 1_000_000

    def failed(self, model: str, watch: Watch) -> None:
        """The request ended with an error."""
        self._add(model, "fail", watch.total())

    def _add(self, model: str, what: str, nanoseconds: int) -> None:
        entry = self._times.setdefault(model, {}).setdefault(what, [0, 0])
        entry[0] += 1
        entry[1] += nanoseconds

    def of(self, model: str) -> dict[str, Any]:
        """The protocol's statistics of one model."""
        times = self._times.get(model, {})
        shown = ("success", "fail", *PARTS, "cache_hit", "cache_miss")
        entries = {what: times.get(what, [0, 0]) for what in shown}
        count = entries["success"][0]
        return {
            "name": model,
            "version": "1",
            "last_inference": self._last.get(model, 0),
            "inference_count": count,
            "execution_count": count,
            "inference_stats": {what: {"count": n, "ns": ns} for what, (n, ns) in entries.items()},
            "batch_stats": [],
            "memory_usage": [],
        }
