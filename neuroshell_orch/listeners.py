"""Whoever listens to what happens: transitions as they are made, to any number of slow or fast listeners.

Owns the queues, which are bounded: a listener that does not keep up is told so and dropped. Listening keeps nobody
awake: before the daemon leaves, each listener hears ``exit``. Must not know who listens, nor how it is sent.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from neuroshell_orch.api.schema import Happened

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

HELD: Final = 256
"""Events that wait for a listener at the most."""


class Listeners:
    """All listeners; ``changed`` is called when one comes or goes."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._queues: set[asyncio.Queue[Happened]] = set()
        self.count = 0

    async def listen(self) -> AsyncGenerator[object, None]:
        """Everything from now on; ends after ``exit`` or ``dropped``."""
        queue: asyncio.Queue[Happened] = asyncio.Queue()
        self._queues.add(queue)
        self._counted(1)
        try:
            while True:
                event = await queue.get()
                yield event
                if event.kind != "transition":
                    return
        finally:
            self._queues.discard(queue)
            self._counted(-1)

    def tell(self, event: Happened) -> None:
        """Pass it on. Who has too many waiting hears that it is dropped, and nothing more."""
        for queue in list(self._queues):
            if queue.qsize() >= HELD:
                self._queues.discard(queue)
                queue.put_nowait(Happened("dropped", time.time(), reason=f"{HELD} events were waiting to be read"))
            else:
                queue.put_nowait(event)

    def close(self, reason: str) -> None:
        """The daemon leaves."""
        for queue in self._queues:
            queue.put_nowait(Happened("exit", time.time(), reason=reason))
        self._queues.clear()

    def _counted(self, change: int) -> None:
        self.count += change
        self._changed()
