"""A name for every request: taken from ``X-Request-Id`` or given, sent back, and said in the journal.

Owns the outermost layer of the application, so that errors and refusals have the name as well, and so has each line of
the journal that is said on behalf of a request. The journal hears of failures; of all requests only at LogLevel=debug.
Never given a body. Must not know routes or who may call.
"""

from __future__ import annotations

import itertools
import os
import re
import time
from typing import TYPE_CHECKING, Final

from neuroshell_orch.sd import journal

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER: Final = b"x-request-id"
_TAKEN: Final = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
"""What a client may call its request; anything else gets a name of ours, since it is written into headers and logs."""
_PREFIXES: Final = frozenset({"v1", "v2", "api", "orch"})


class Named:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._prefix = os.urandom(6).hex()
        self._numbers = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        name = next((value for key, value in scope["headers"] if key == HEADER), b"")
        if _TAKEN.fullmatch(name) is None:
            name = f"{self._prefix}-{next(self._numbers):x}".encode()
        began, status = time.monotonic(), 499
        journal.REQUEST.set(name.decode())

        async def tagged(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], (HEADER, name)]}
            await send(message)

        try:
            await self._app(scope, receive, tagged)
        finally:
            priority = journal.WARNING if status >= 500 else journal.DEBUG
            if journal.hears(priority):
                path, took = _shown(scope, status), time.monotonic() - began
                journal.log(priority, f"{scope['method']} {path}: {status} after {took:.3f} s", status=status)


def _shown(scope: Scope, status: int) -> str:
    """The path without anything that only the client knows the meaning of."""
    path: str = scope["path"]
    if "endpoint" not in scope:  # there is none, or the request was answered before anybody looked
        prefix = path.split("/")[1] if "/" in path else ""
        return f"/{prefix}/…" if status != 404 and prefix in _PREFIXES else "(no such path)"
    for key, value in scope.get("path_params", {}).items():
        path = path.replace(str(value), f"{{{key}}}")
    return path
