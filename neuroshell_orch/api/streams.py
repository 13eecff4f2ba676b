"""Responses that last: an answer while it is written, events, a lease, for as long as the connection is open.

Owns how pieces reach the connection, the noticing that the other side is gone, and what becomes of a reader that falls
behind: what it has not taken lies here, up to a bound, so that the model that writes is not held up and others get
their turn; beyond the bound its connection ends. Must not know what is sent. Starlette's own class would import
anyio's event loop support on the first answer of every daemon, which costs 14 to 28 ms.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import msgspec
from starlette.responses import Response

from neuroshell_orch.sd import journal

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.types import Receive, Scope, Send

HELD: Final = 4 << 20
"""Bytes that one reader may be behind: 20,000 tokens of a chat, more than most contexts have."""
HELD_IN_ALL: Final = 64 << 20
"""Bytes that all readers together may be behind."""
_CHUNK: Final = 1 << 16


class Behind:
    """What all readers together have not taken yet."""

    total = 0


class TooFarBehindError(Exception):
    """The reader takes too little: its response is not finished, which ends its connection."""


class Stream(Response):
    """Sends what ``pieces`` yields until it ends or the client is gone; closes it in either case.

    With ``hold`` a slow reader does not slow down ``pieces``; without it they wait for each other.
    """

    def __init__(
        self,
        pieces: AsyncGenerator[bytes, None],
        media_type: str,
        headers: dict[str, str] | None = None,
        *,
        hold: bool = True,
    ) -> None:
        self.status_code = 200
        self.media_type = media_type
        self.background = None
        self.init_headers(headers)
        self._pieces = pieces
        self._hold = hold
        self._held: bytearray = bytearray()
        self._news = asyncio.Event()
        self._ended = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Serve one request whose body was read."""
        work = [self._gather(), self._deliver(send)] if self._hold else [self._pass_on(send)]
        tasks = [asyncio.ensure_future(one) for one in work]
        gone = asyncio.ensure_future(_gone(receive))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            waited = {gone, *tasks}
            while gone in waited and len(waited) > 1:
                done, waited = await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()  # a defect in what is sent must not look like an end
        except TooFarBehindError:
            journal.log(journal.INFO, "A client took too little of its answer, and its connection was ended.")
        finally:
            for task in (gone, *tasks):
                task.cancel()
            await asyncio.gather(gone, *tasks, return_exceptions=True)
            self._release(len(self._held))
            await self._pieces.aclose()

    async def _pass_on(self, send: Send) -> None:
        async for piece in self._pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _gather(self) -> None:
        async for piece in self._pieces:
            self._held += piece
            Behind.total += len(piece)
            self._news.set()
            if len(self._held) > HELD or Behind.total > HELD_IN_ALL:
                raise TooFarBehindError
        self._ended = True
        self._news.set()

    async def _deliver(self, send: Send) -> None:
        while not self._ended or self._held:
            await self._news.wait()
            self._news.clear()
            while self._held:
                taken = bytes(self._held[:_CHUNK])
                await send({"type": "http.response.body", "body": taken, "more_body": True})
                del self._held[: len(taken)]
                self._release(len(taken))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _release(self, size: int) -> None:
        Behind.total -= size


class EventStream(Stream):
    """Server-sent events: what ``events`` yields, each as JSON."""

    def __init__(self, events: AsyncGenerator[object, None]) -> None:
        super().__init__(_frames(events), "text/event-stream", {"Cache-Control": "no-store"}, hold=False)
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request whose body was read."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()


async def _frames(events: AsyncGenerator[object, None]) -> AsyncGenerator[bytes, None]:
    yield b": open\n\n"
    async for event in events:
        yield b"data: " + msgspec.json.encode(event) + b"\n\n"
    yield b"data: [DONE]\n\n"


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
