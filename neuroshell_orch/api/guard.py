"""Who may call over TCP: programs of this machine that know the token, and no web page.

Owns the bearer token of the opt-in loopback port, and the checks of Host and Origin that keep a browser's pages and
DNS rebinding out. A unix socket needs none of it: only its owner can open it. Must not know what a request is for.
"""

from __future__ import annotations

import hmac
import os
import secrets
from typing import TYPE_CHECKING, Final

from neuroshell_orch.api.problems import problem_response
from neuroshell_orch.config.paths import state_dir
from neuroshell_orch.config.write import write_file
from neuroshell_orch.errors import OrchError

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.types import ASGIApp, Receive, Scope, Send

LOCAL_NAMES: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})


def token_path() -> Path:
    """The file that holds the token; only its owner can read it."""
    return state_dir() / "http-token"


def read_token() -> str:
    """The token, made on first use. Raises OrchError when it can be neither read nor written."""
    path = token_path()
    try:
        return path.read_text("ascii").strip()
    except FileNotFoundError:
        before = os.umask(0o077)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, secrets.token_urlsafe(32) + "\n", exclusive=True)
            path.chmod(0o600)
        finally:
            os.umask(before)
        return path.read_text("ascii").strip()


class Guard:
    """ASGI middleware. Requests over a unix socket pass; others need the token and an honest Host."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        # uvicorn gives a port only for TCP: a unix socket's server is its path.
        if scope["type"] == "http" and scope.get("server") is not None and scope["server"][1] is not None:
            error = _objection(dict(scope["headers"]))
            if error is not None:
                await problem_response(scope["path"], error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _objection(headers: dict[bytes, bytes]) -> OrchError | None:
    host = headers.get(b"host", b"").decode("latin-1").lower()
    name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
    if name not in LOCAL_NAMES:
        return OrchError("not-allowed", "The Host header does not name this machine.", "Use http://127.0.0.1:11430.")
    if b"origin" in headers:
        return OrchError("not-allowed", "Requests from web pages are not taken.", "Call it from a program instead.")
    token = read_token()
    scheme, _, given = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), token.encode()):
        hint = f"Send 'Authorization: Bearer …' with the token in {token_path()}, or use the unix socket."
        return OrchError("not-allowed", "The token is missing or wrong.", hint)
    return None
