"""When this service should be started again though nobody connects: a transient timer of the user's systemd.

Owns the one timer that a service may have: it is named as the service is, and each appointment replaces the one
before. It goes by the wall clock: what came due while the machine slept is seen to when it wakes. It never wakes
the machine. Must not know what is due.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from dbus_fast import Variant

from neuroshell_orch.workers.manager import BusError
from neuroshell_orch.workers.unit import unit_path

if TYPE_CHECKING:
    from neuroshell_orch.workers.manager import Manager

_UNIT: Final = "org.freedesktop.systemd1.Unit"
_LEAST: Final = 2.0
"""Seconds from now: a calendar knows whole seconds, and one that is past already never comes."""
_TRIES: Final = 20
"""How often it is looked whether the timer before is gone, every 10 ms."""


async def appoint(manager: Manager, service: str, at: float) -> bool:
    """Have ``service`` started at ``at`` (Unix seconds). False where systemd does not want that."""
    timer = f"{service.removesuffix('.service')}.timer"
    properties = [
        ("Description", Variant("s", "A local AI model is wanted soon")),
        ("TimersCalendar", Variant("a(ss)", [["OnCalendar", when(max(at, time.time() + _LEAST))]])),
        ("AccuracyUSec", Variant("t", 1_000_000)),
        ("RemainAfterElapse", Variant("b", False)),
    ]
    body = [timer, "fail", [[name, value] for name, value in properties], []]
    if not await _cleared(manager, timer):
        return False
    for _ in range(_TRIES):
        try:
            await manager.call("StartTransientUnit", "ssa(sv)a(sa(sv))", body)
        except BusError as error:
            if not error.name.endswith(".UnitExists"):
                return False
            await asyncio.sleep(0.01)
        else:
            return True
    return False


def when(at: float) -> str:
    """``at`` as systemd's calendars are written; in UTC, which no change of the clocks touches."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))


async def _cleared(manager: Manager, timer: str) -> bool:
    """Whether ``timer`` is free: one of ours is stopped, one of the user's own is left alone."""
    try:
        known = await manager.properties(unit_path(timer), _UNIT)
        if known.get("LoadState") == "not-found":
            return True
        if not known.get("Transient"):
            return False
        await manager.call("StopUnit", "ss", [timer, "replace"])
    except BusError as error:
        return error.name.endswith((".NoSuchUnit", ".UnknownObject"))
    return True
