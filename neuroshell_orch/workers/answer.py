"""One answer on its way from a worker to whoever asked.

Owns the pieces that have arrived and nobody has taken yet. An answer that nobody reads fast enough is held: its worker
writes no more of it, and goes on with others. One that is cancelled throws away what still comes. So what lies here is
bounded either way. Must not know frames or processes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final, Self

from neuroshell_orch.workers.protocol import Done, Piece

if TYPE_CHECKING:
    from collections.abc import Callable

    from neuroshell_orch.errors import OrchError

HIGH: Final = 512
"""Pieces that may lie unread before the answer is held."""
LOW: Final = 64
"""Unread pieces at which it may go on."""


class Answer:
    """An asynchronous iterator over Pieces and one last Done. Close it (``contextlib.aclosing``) when leaving early."""

    def __init__(self, job: int, cancel: Callable[[int], None], hold: Callable[[int, bool], None]) -> None:
        self.job = job
        self._cancel = cancel
        self._hold = hold
        self._unread: deque[Piece | Done] = deque()
        self._error: OrchError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._cancelled = False
        self._complete = False
        self._full = False

    @property
    def full(self) -> bool:
        """Whether it is held."""
        return self._full

    @property
    def complete(self) -> bool:
        """Whether the worker is through with it."""
        return self._complete

    # ---- the worker's side ----

    def push(self, item: Piece | Done) -> None:
        """Add what the worker sent."""
        if self._complete:
            return
        if type(item) is Done:
            self._complete = True
        elif self._cancelled:
            return
        self._unread.append(item)
        if not self._full and len(self._unread) >= HIGH:
            self._set_full(not self._cancelled and not self._complete)
        self._wake()

    def fail(self, error: OrchError) -> None:
        """End it with ``error``, raised once after what had arrived before."""
        if not self._complete:
            self._complete = True
            self._error = error
            self._wake()

    def discard(self) -> None:
        """The job is cancelled: what still comes is thrown away, only its end counts."""
        self._cancelled = True
        self._set_full(False)

    # ---- the reader's side ----

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Piece | Done:
        while not self._unread:
            if self._complete:
                error, self._error = self._error, None
                if error is not None:
                    raise error
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        item = self._unread.popleft()
        if self._full and len(self._unread) <= LOW:
            self._set_full(False)
        return item

    async def aclose(self) -> None:
        """Stop reading: cancels the job unless it has ended. Returns at once; the worker may take a moment longer."""
        self._unread.clear()
        self._error = None
        if not self._complete:
            self._cancel(self.job)

    def _set_full(self, full: bool) -> None:
        if full != self._full:
            self._full = full
            self._hold(self.job, full)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
