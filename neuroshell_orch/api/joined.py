"""One answer that several clients may listen to, while it is made and afterwards.

Owns what was said so far: whoever joins is told it from its beginning, streams too, each at its own pace. The answer is
made as long as anybody listens. What gets too long to be told twice is thrown away behind those who listen. Must not
know why there are several, nor where answers are kept.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import msgspec

from neuroshell_orch.api.answers import LARGEST

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Message, Receive, Send

REPLAYED: Final = (b"idempotent-replayed", b"true")
HELD_IN_ALL: Final = 64 << 20
"""Bytes of answers under way that are held for those who may still join."""


class _Held:
    """Bytes of all answers that are being made."""

    total = 0


class Run:
    """One answer while it is made, and those who listen to it."""

    def __init__(self, asked: bytes) -> None:
        self.asked = asked
        self.task: asyncio.Task[None] | None = None
        self.status = 0
        self.head: list[tuple[bytes, bytes]] = []
        self.chunks: list[bytes] = []
        self.whole = True
        """Nothing of it was thrown away."""
        self.complete = False
        self._size = 0
        self._held = 0
        """Bytes of ``chunks`` that count among those of all runs."""
        self._dropped = 0
        """How many chunks were there before the first one of ``chunks``."""
        self._ended = False
        self._heard = 0
        self._at: dict[object, int] = {}
        """How many chunks each listener has taken."""
        self._alone = asyncio.Event()
        self._news = asyncio.Event()
        self._taken = asyncio.Event()

    @classmethod
    def over(cls, asked: bytes, head: list[tuple[bytes, bytes]], body: bytes) -> Run:
        """One that is kept."""
        run = cls(asked)
        run.status, run.head, run.chunks, run.complete, run._ended, run._heard = 200, head, [body], True, True, 1
        return run

    @property
    def left(self) -> bool:
        """All who listened have left before it was complete."""
        return self._alone.is_set()

    async def wait(self) -> None:
        """Until the application has done what it does."""
        if self.task is not None:
            await asyncio.wait({self.task})

    # ---- the side of the application ----

    def source(self, body: bytes) -> Receive:
        """What it receives: the body, and a disconnection when nobody listens any more."""
        unread = [body]

        async def receive() -> Message:
            if unread:
                return {"type": "http.request", "body": unread.pop(), "more_body": False}
            await self._alone.wait()
            return {"type": "http.disconnect"}

        return receive

    def sink(self, keep_it: Callable[[], None]) -> Send:
        """What it sends to. ``keep_it`` is called when the answer is whole and good, before anybody hears its end."""

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.status, self.head = message["status"], list(message["headers"])
            else:
                piece = bytes(message.get("body", b""))
                self.chunks.append(piece)
                self._size += len(piece)
                self._held += len(piece)
                _Held.total += len(piece)
                if not message.get("more_body", False):
                    if self.whole and self._size <= LARGEST and self._good():
                        keep_it()
                    self.complete = True
            self._tell()
            if not self.complete and (self._size > LARGEST or _Held.total > HELD_IN_ALL or not self.whole):
                await self._drop()

        return send

    async def _drop(self) -> None:
        """It is too long to be kept: from here on nothing stays that was taken, and nobody may fall behind."""
        self.whole = False
        there = self._dropped + len(self.chunks)
        while any(at < there for at in self._at.values()):
            self._taken.clear()
            await self._taken.wait()
        self._dropped = there
        self.chunks.clear()
        self._release()

    def _release(self) -> None:
        _Held.total -= self._held
        self._held = 0

    def _good(self) -> bool:
        """Whether it is an answer, and not the news that there is none."""
        if self.status != 200:
            return False
        kind = next((value for key, value in self.head if key == b"content-type"), b"")
        if kind.startswith(b"text/event-stream"):
            return b"".join(self.chunks[-2:]).endswith(b"data: [DONE]\n\n")
        if kind.startswith(b"application/x-ndjson"):
            last = b"".join(self.chunks).rstrip(b"\n").rpartition(b"\n")[2]
            return "error" not in msgspec.json.decode(last or b"{}", type=dict[str, msgspec.Raw])
        return True

    def end(self) -> None:
        """The application has done what it does."""
        self._ended = True
        self._release()
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    # ---- the side of those who listen ----

    async def follow(self, receive: Receive, send: Send) -> None:
        """Tell it to one client from its beginning."""
        me = object()
        self._at[me] = 0
        self._heard += 1
        again = self._heard > 1
        gone = asyncio.ensure_future(_gone(receive))
        telling = asyncio.ensure_future(self._tell_all(me, send, again=again))
        try:
            await asyncio.wait({gone, telling}, return_when=asyncio.FIRST_COMPLETED)
            if telling.done():
                telling.result()
        finally:
            for task in (gone, telling):
                task.cancel()
            await asyncio.gather(gone, telling, return_exceptions=True)
            del self._at[me]
            self._taken.set()
            if not self._at and not self._ended:
                self._alone.set()
            if self.complete or self.left:
                await self.wait()
        if self._ended and self.task is not None:
            self.task.result()  # a defect is one for everybody

    async def _tell_all(self, me: object, send: Send, *, again: bool) -> None:
        started = False
        while True:
            news = self._news
            if self.status and not started:
                started = True
                head = [*self.head, REPLAYED] if again else self.head
                await send({"type": "http.response.start", "status": self.status, "headers": head})
            while self._at[me] < self._dropped + len(self.chunks):
                piece = self.chunks[self._at[me] - self._dropped]
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                self._at[me] += 1
                self._taken.set()
            if self.complete:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                return
            if self._ended:
                return
            await news.wait()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
