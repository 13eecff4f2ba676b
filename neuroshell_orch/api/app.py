"""The ASGI application: every route under one roof.

Owns the list of conventions and the handlers for what none of them expected. Must not know how any route works.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from neuroshell_orch.api import embeddings, oip, ollama, openai, openapi, orch
from neuroshell_orch.api.access import narrow, narrowed
from neuroshell_orch.api.guard import Guard
from neuroshell_orch.api.limits import Bounds, Seats
from neuroshell_orch.api.named import Named
from neuroshell_orch.api.oip_state import State
from neuroshell_orch.api.problems import on_crash, on_http_error, on_orch_error
from neuroshell_orch.api.requests import ClientGone
from neuroshell_orch.api.table import Table
from neuroshell_orch.config.paths import runtime_dir
from neuroshell_orch.errors import OrchError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from starlette.requests import Request
    from starlette.routing import BaseRoute
    from starlette.types import ASGIApp, Receive, Scope, Send

    from neuroshell_orch.api.idempotency import Idempotent
    from neuroshell_orch.service import Service

CLIENT_CLOSED_REQUEST: Final = 499
_SWEEP_AFTER: Final = 2.0
"""Seconds after the start: whoever woke the daemon is served first."""


async def _on_client_gone(_request: Request, _error: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)  # nobody reads it


routes = [*orch.routes, *openai.routes, *embeddings.routes, *oip.routes, *ollama.routes, *openapi.routes]


def build(service: Service) -> ASGIApp:
    """The application over ``service``, with all that stands before a route."""
    seats: Counter[str] = Counter()

    def some(models: frozenset[str]) -> ASGIApp:
        return keys.around(Seats(_routed(narrow(service, models), narrowed(routes)), seats))

    keys = Keys(runtime_dir() / "answers")
    keys.sweep_soon(service.configuration.settings.keep_answers_sec)
    whole = keys.around(Seats(_routed(service, routes), seats))
    guard = Guard(whole, some, lambda: service.configuration.settings.allow_origins)
    return Named(Bounds(guard, lambda: service.configuration.settings))


class Keys:
    """What requests with an Idempotency-Key go through; others pay nothing for it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._idempotent: Idempotent | None = None

    def _needed(self) -> Idempotent:
        if self._idempotent is None:
            from neuroshell_orch.api.idempotency import Idempotent  # noqa: PLC0415 - hardly any request has a key

            self._idempotent = Idempotent(self._folder)
        return self._idempotent

    def around(self, app: ASGIApp) -> ASGIApp:
        """``app`` behind it."""

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            if any(name == b"idempotency-key" for name, _value in scope["headers"]):
                await self._needed().serve(app, scope, receive, send)
            else:
                await app(scope, receive, send)

        return serve

    def sweep_soon(self, keep: float) -> None:
        """What an earlier daemon kept does not lie about for ever."""
        if self._folder.is_dir():
            asyncio.get_running_loop().call_later(_SWEEP_AFTER, lambda: self._needed().sweep(keep))


def _routed(service: Service, routes: Sequence[BaseRoute]) -> Starlette:
    app = Starlette(
        exception_handlers={
            OrchError: on_orch_error,
            HTTPException: on_http_error,
            ClientGone: _on_client_gone,
            ClientDisconnect: _on_client_gone,
            Exception: on_crash,
        },
    )
    app.router = Table(routes)
    app.state.service = service
    app.state.oip = State()
    return app
