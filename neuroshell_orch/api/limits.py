"""The bounds that hold for one request: the settings in force, who is asking, how deep its JSON lies, how many streams.

Owns the notes that a connection makes in a request's scope, the answer where the connection itself refuses, and the
count of streams by client. A client is a token on the loopback port and a process on the unix socket, whose owner has
no other name. Must not know sockets (``connection`` does) nor what a request is for.
"""

from __future__ import annotations

import re
from collections import Counter
from contextvars import ContextVar
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from neuroshell_orch.api.problems import problem_response
from neuroshell_orch.config.schema import Settings
from neuroshell_orch.config.values import format_size
from neuroshell_orch.errors import OrchError

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

REFUSED: Final = "nsorch.refused"
"""In a scope: the OrchError for which its connection refuses the request, or takes no more of it."""
CLIENT: Final = "nsorch.client"
"""In a scope: who asks. Nobody sees it but us."""
PROCESS: Final = "nsorch.process"
"""In a scope: the process at the other end of the unix socket and its user, as the kernel knows them; else None."""
PRESENCE: Final = "nsorch.presence"
"""In a scope: the Presence of whoever asks, where its connection tells it."""
_SEATS: Final = "nsorch.seats"
_SEAT: Final = "nsorch.seat"
_DRAINED: Final = 1 << 20
"""Bytes of a refused request that are read, so that a client which only writes first still hears why."""

IN_FORCE: Final[ContextVar[Settings]] = ContextVar("settings in force", default=Settings())  # noqa: B039 - frozen

_SHORT: Final = 1 << 16
_TEXTS: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
"""JSON's strings; one that does not end is one as well, so that this takes time in proportion to the text only."""
_STEPS: Final = bytes(1 if chr(byte) in "[{" else 255 for byte in range(256))
_NO_BRACKETS: Final = bytes(byte for byte in range(256) if chr(byte) not in "[]{}")


class Presence:
    """Whether a client is still there, and what is to happen in the instant in which it leaves."""

    def __init__(self) -> None:
        self.gone = False
        self.on_leaving: Callable[[], object] | None = None

    def leave(self) -> None:
        """It is not."""
        self.gone = True
        if self.on_leaving is not None:
            self.on_leaving()


class Bounds:
    """ASGI middleware: makes the settings known to whatever serves the request, and answers for its connection."""

    def __init__(self, app: ASGIApp, settings: Callable[[], Settings]) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        IN_FORCE.set(self._settings())
        refusal = scope.get(REFUSED)
        if refusal is None:
            await self._app(scope, receive, send)
            return
        size, more = 0, True
        while more and size < _DRAINED:
            message = await receive()
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
        response = problem_response(scope["path"], refusal)
        response.headers["Connection"] = "close"
        await response(scope, receive, send)


class Seats:
    """ASGI middleware around routes: counts streams, and gives a seat back when its request is over."""

    def __init__(self, app: ASGIApp, taken: Counter[str]) -> None:
        self._app = app
        self._taken = taken

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        scope[_SEATS] = self._taken
        try:
            await self._app(scope, receive, send)
        finally:
            client = scope.pop(_SEAT, None)
            if client is not None:
                self._taken[client] -= 1
                if not self._taken[client]:
                    del self._taken[client]


def take_seat(request: Request) -> None:
    """Count the answer to ``request`` as a stream. Raises OrchError when its client reads enough of them already."""
    scope = request.scope
    taken, client = scope.get(_SEATS, Counter()), scope.get(CLIENT, "")
    most = IN_FORCE.get().max_streams
    if taken[client] >= most:
        whose = client or "this client"
        message = f"{whose[0].upper()}{whose[1:]} reads {most} streams already, and no more are given at once."
        raise OrchError("too-many-streams", message, "Wait for one to end, or raise MaxStreams= in nsorch.conf.")
    taken[client] += 1
    scope[_SEAT] = client


def too_large(limit: int, key: str) -> OrchError:
    """For a body of more than ``limit`` bytes; ``key`` is the setting that says so, where there is one."""
    size = format_size(limit)
    hint = f"Send less at once, or raise {key}= in nsorch.conf." if key else "Send less at once."
    unit = "iB" if size[-1].isalpha() else " bytes"
    return OrchError("body-too-large", f"The body is longer than {size}{unit}.", hint)


def check_depth(text: bytes | memoryview) -> None:
    """Raises OrchError where arrays and objects of this JSON lie deeper in each other than is allowed."""
    most = IN_FORCE.get().max_json_depth
    if len(text) <= _SHORT:
        text = bytes(text)  # brackets are counted faster than they are paired
    if isinstance(text, bytes) and text.count(b"[") + text.count(b"{") <= most:
        return
    brackets = _TEXTS.sub(b"", text).translate(_STEPS, _NO_BRACKETS)
    if max(accumulate(1 if step == 1 else -1 for step in brackets), default=0) > most:
        message = f"The body is not taken: its JSON nests deeper than {most}."
        raise OrchError("json-too-deep", message, "Send it flatter, or raise MaxJSONDepth= in nsorch.conf.")
