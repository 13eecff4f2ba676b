"""Memory over time: the same three asks in each mode, and what all processes take meanwhile.

Owns the script of asks and the sampling. The series go to the chart, their means into the table.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from tests.bench import ask
from tests.bench.kernel import memory
from tests.bench.registry import Finding, Row, benchmark
from tests.bench.world import PROMPT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.bench.orchestrator import Orchestrator
    from tests.bench.world import World

ASKS = (0.5, 1.5, 6.0)
"""Seconds into the run: two close to each other, one after a while."""
LENGTH = 9.0
PAUSE = 0.1
KEYS = {
    "dynamic": {},
    "timeout": {"IdleSec": "1500ms"},
    "dummy-swap": {"IdleSec": "1500ms"},
    "hibernate": {"IdleSec": "1500ms", "ForgetSec": "1h"},
    "persistent": {},
}
MEBIBYTE = 1 << 20


@benchmark(40, "over-time", "Memory over time: asks at " + ", ".join(f"{at:g}" for at in ASKS) + " s", "none")
def measure(world: World) -> Iterator[Finding]:
    """A row for each mode."""
    for mode, keys in KEYS.items():
        service = world.orchestrator(f"time-{mode}", mode=mode, **keys).arm()
        ask.raw(service, PROMPT, 8)
        service.unload()
        series = watch(service, LENGTH)
        world.series[mode] = series
        mean = sum(size for _, size in series) / len(series)
        yield Row(f"{mode}: all processes, PSS, mean", "MiB", [mean])
        world.close(service)


def watch(service: Orchestrator, length: float) -> list[tuple[float, float]]:
    """Seconds and MiB while the asks are made."""
    began, series = time.monotonic(), []

    def look() -> None:
        while (now := time.monotonic() - began) < length:
            total = memory(service.pid).plus(service.worker_memory())
            series.append((now, total.pss / MEBIBYTE))
            time.sleep(PAUSE)

    thread = threading.Thread(target=look)
    thread.start()
    for at in ASKS:
        if at < length:
            time.sleep(max(0.0, began + at - time.monotonic()))
            ask.raw(service, PROMPT, 8)
    thread.join()
    return series
