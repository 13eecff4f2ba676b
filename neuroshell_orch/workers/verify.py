"""Whether an unload gave back what it should: looked at before, and again until it is back or declared lost.

Owns what is looked at, and the sentences about a loss. The kernel says what a process takes (PSS) and what its unit's
control group is charged with; the driver says what a process holds of an accelerator. A process that is gone has given
its own memory back; its group may live on with a process that was left in it, and a driver may be late, or never let
go. Must not know why something is unloaded, nor decide by it.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

import msgspec

from neuroshell_orch.api.schema import Freed, Memory
from neuroshell_orch.workers.memory import cgroup_file, count_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from neuroshell_orch.workers.process import Worker

GONE_SECONDS: Final = 5.0
"""What is not back so long after it should be is lost."""
POLL_SECONDS: Final = 0.02
ASK_SECONDS: Final = 1.0
"""How long the driver may take for an answer. One that hangs must not keep a process alive."""
MOST: Final = 9, 10
"""This part of what should come back is enough: pages that others share too, count only in part."""
LITTLE: Final = 1 << 20
"""Bytes of a control group that are no loss: the kernel's own books on it, which it closes when it likes."""


async def no_driver(_pid: int) -> dict[str, int]:
    """Where there is no accelerator, no process holds any of it."""
    return {}


class Before(msgspec.Struct, frozen=True):
    """What a worker took before it was told to end."""

    pid: int
    memory: Memory | None
    group: Path | None
    """The file that counts what its unit is charged with."""
    driver: dict[str, int]
    began: float

    @property
    def beyond(self) -> bool:
        """Whether something may be left behind when the process is gone."""
        return self.group is not None or bool(self.driver)


async def look(worker: Worker, driver: Callable[[int], Awaitable[dict[str, int]]]) -> Before:
    """What ``worker`` takes now."""
    pid, memory = worker.pid, worker.memory()
    held = {} if pid is None else await _asked(driver, pid) or {}
    group = cgroup_file(pid, worker.unit) if pid is not None and worker.unit is not None else None
    return Before(pid or 0, memory, group, held, time.monotonic())


async def see_back(before: Before, driver: Callable[[int], Awaitable[dict[str, int]]]) -> Freed | None:
    """Wait until what the process took beyond itself is back or lost, once the process is gone."""
    end = time.monotonic() + GONE_SECONDS
    while True:
        group = (count_of(before.group) or 0) if before.group is not None else 0
        answer = await _asked(driver, before.pid) if before.driver else {}
        held = before.driver if answer is None else answer  # who does not answer has not said that it let go
        if group <= LITTLE and not any(held.values()):
            return freed(before, None)
        if time.monotonic() >= end:
            return freed(before, None, _lost(group, held), group, sum(held.values()))
        await asyncio.sleep(POLL_SECONDS)


def freed(before: Before, after: Memory | None, lost: str = "", group: int = 0, vram: int = 0) -> Freed | None:
    """The report; None where nobody could look before. ``after`` is None once the process is gone."""
    if before.memory is None:
        return None
    return Freed(
        before=before.memory.pss,
        after=0 if after is None else after.pss,
        seconds=time.monotonic() - before.began,
        expected=before.memory.pss,
        lost=lost,
        cgroup_before=before.memory.cgroup,
        cgroup_after=None if before.memory.cgroup is None else group,
        vram_before=sum(before.driver.values()),
        vram_after=vram,
    )


def enough(promised: int, before: int) -> int:
    """How many of ``promised`` bytes must be back to be no loss."""
    part, whole = MOST
    return min(promised, before) * part // whole


def size(amount: int) -> str:
    """Bytes for people."""
    return f"{amount / 1048576:.0f} MiB"


def _lost(group: int, held: dict[str, int]) -> str:
    found = [
        f"the driver still counts {size(taken)} of {name} for a process that is gone" for name, taken in held.items()
    ]
    if group > LITTLE:
        found.append(f"the control group of its unit is still charged with {size(group)}: is a process left in it?")
    return "; ".join(found)


async def _asked(driver: Callable[[int], Awaitable[dict[str, int]]], pid: int) -> dict[str, int] | None:
    try:
        async with asyncio.timeout(ASK_SECONDS):
            return await driver(pid)
    except TimeoutError:
        return None
