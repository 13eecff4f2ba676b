"""The front desk: one ask from its arrival to its end, for every API.

Owns the promise that an ask which was dispatched ends exactly once, whether its answer was read to the end, failed, or
its client went away in the middle; then the worker is told to stop and what it still says is thrown away. Tokens go
from the worker's socket to whoever iterates, past the engine. Must not know HTTP.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from neuroshell_orch.core.messages import NO_OPTIONS, AskOptions
from neuroshell_orch.core.warmth import Warmth
from neuroshell_orch.errors import OrchError
from neuroshell_orch.workers.protocol import Done, Embed, Embedded, Generate, Infer, Outputs, Piece

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine

    from neuroshell_orch.engine import Engine
    from neuroshell_orch.workers.answer import Answer
    from neuroshell_orch.workers.pool import Pool


class Desk:
    """Asks on their way through the engine and the pool."""

    def __init__(self, engine: Engine, pool: Pool, arriving: Callable[[str], None]) -> None:
        self._engine = engine
        self._pool = pool
        self._arriving = arriving
        """Hears the model's name before each ask."""
        self._lingering: set[asyncio.Task[None]] = set()

    async def generate(
        self, model: str, request: Generate, options: AskOptions = NO_OPTIONS
    ) -> AsyncGenerator[Piece | Done, None]:
        """The answer, piece by piece, and one Done. Close it to cancel. ``request.job`` is filled in here."""
        self._arriving(model)
        name, number = await self._engine.ask(model, options)
        try:
            worker = self._pool.worker(number)
            answer = worker.generate(msgspec.structs.replace(request, job=worker.next_job()))
        except BaseException:
            self._engine.finished(name)
            raise
        try:
            async for item in answer:
                yield item
        finally:
            if answer.complete:
                self._pool.note(model, number, Warmth.HOT)
                self._engine.finished(name)
            else:
                self._engine.cancel(name, lambda: worker.cancel(answer.job))
                self._linger(self._drain(name, answer))

    async def infer(
        self,
        model: str,
        request: Infer,
        options: AskOptions = NO_OPTIONS,
        on_turn: Callable[[], None] = lambda: None,
    ) -> Outputs:
        """The outputs of a tensor model; ``on_turn`` is called when the waiting is over. Raises OrchError."""
        outputs: Outputs = await self._whole(model, request, options, on_turn)
        return outputs

    async def embed(self, model: str, request: Embed, options: AskOptions = NO_OPTIONS) -> Embedded:
        """The vectors of an encoder. Raises OrchError."""
        embedded: Embedded = await self._whole(model, request, options)
        return embedded

    async def _whole(
        self,
        model: str,
        request: Infer | Embed,
        options: AskOptions,
        on_turn: Callable[[], None] = lambda: None,
    ) -> Any:  # noqa: ANN401 - Outputs or Embedded
        """The one answer of a job, whose cancellation is passed on and seen to its end."""
        self._arriving(model)
        name, number = await self._engine.ask(model, options)
        try:
            on_turn()
            worker = self._pool.worker(number)
            job = worker.next_job()
            running = worker.begin(msgspec.structs.replace(request, job=job))
        except BaseException:
            self._engine.finished(name)
            raise
        try:
            answer = await running
        except asyncio.CancelledError:
            if running.done() and not running.cancelled():
                running.exception()  # it came in the same instant, and nobody is left who could be told
            self._engine.cancel(name, lambda: worker.cancel(job))
            self._linger(self._see_out(name, worker.ending(job)))
            raise
        except OrchError:
            self._engine.finished(name)
            raise
        self._pool.note(model, number, Warmth.HOT)
        self._engine.finished(name)
        return answer

    async def close(self) -> None:
        """Wait for the ends of answers whose clients are gone."""
        if self._lingering:
            await asyncio.wait(self._lingering)

    def _linger(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._lingering.add(task)
        task.add_done_callback(self._lingering.discard)

    async def _drain(self, name: str, answer: Answer) -> None:
        with suppress(OrchError):  # nobody is left who could be told
            async for _item in answer:
                pass
        self._engine.finished(name)

    async def _see_out(self, name: str, end: asyncio.Future[Any]) -> None:
        with suppress(OrchError):  # likewise
            await end
        self._engine.finished(name)
