"""A worker that was started before anybody asked, and what becomes of it.

Owns it until a model's first worker is wanted: it is taken where it is exactly what would be started now, and ended
otherwise, before anything else is started. Nobody else sees it: it is no load, and what nobody took within a few
seconds is ended as well. Must not know why it was started.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from neuroshell_orch.sd import journal
from neuroshell_orch.workers.protocol import HEADER, Announce, Load, Loaded, decode_to_worker, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from neuroshell_orch.planning import Order
    from neuroshell_orch.workers.likely import Likely
    from neuroshell_orch.workers.process import Worker

SECONDS: Final = 3.0
"""How long nobody may want it."""


class Taken(NamedTuple):
    """A worker that somebody took: what it ``loads`` already, if it does; ``began`` on the monotonic clock."""

    worker: Worker
    loads: tuple[Load, asyncio.Future[Loaded]] | None
    began: float


class Ahead:
    """One worker, or none any more."""

    def __init__(self, note: Likely, worker: Worker, kind: str, began: float, *, loads: bool) -> None:
        self._note = note
        self._worker: Worker | None = worker
        self._kind = kind
        self._began = began
        self._loading = worker.expect_loaded() if loads else None
        self._timer: asyncio.TimerHandle | None = None
        try:
            wanted: Any = decode_to_worker(note.load[HEADER.size :])
            self._load = wanted if isinstance(wanted, Load) else None
        except msgspec.MsgspecError:
            self._load = None

    @property
    def loads(self) -> bool:
        """Whether it was told to load."""
        return self._loading is not None

    def give_up_later(self, spawn: Callable[[Coroutine[None, None, None]], None]) -> None:
        """End it when nobody has wanted it in time."""
        self._timer = asyncio.get_running_loop().call_later(SECONDS, lambda: spawn(self.drop()))

    async def take(self, model: str, number: int, kind: str, order: Order, load: Load | None) -> Taken | None:
        """The worker, if it is the one that is wanted; if not, there is none afterwards. ``load``: it shall load so."""
        worker = self._worker
        if worker is None:
            return None
        fits = (
            (model, kind, order.memory_max) == (self._note.model, self._kind, self._note.memory_max)
            and self._load is not None
            and self._load.runtime == order.load.runtime
            and not worker.exited.done()
            and (self._loading is None or load == self._load)
        )
        if not fits:
            await self.drop()
            return None
        self._release()
        worker.number = number
        loads = None if self._load is None or self._loading is None else (self._load, self._loading)
        return Taken(worker, loads, self._began)

    async def drop(self) -> None:
        """End it and wait until it is gone."""
        worker = self._release()
        if worker is not None:
            await worker.stop()
            journal.log(journal.DEBUG, f"{self._note.model}: the worker started ahead was not wanted and is gone")

    def _release(self) -> Worker | None:
        worker, self._worker = self._worker, None
        if self._timer is not None:
            self._timer.cancel()
        return worker


def frames(load: Load) -> tuple[bytes, bytes]:
    """What a worker is told ahead for ``load``: to get ready for it, and to do it."""
    return bytes(encode(Announce(runtime=load.runtime, path=load.path))), bytes(encode(load))
