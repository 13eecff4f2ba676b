"""The ASGI application: every route under one roof.

Owns the list of conventions and the handlers for what none of them expected. Must not know how any route works.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

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
from neuroshell_orch.errors import OrchError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request
    from starlette.routing import BaseRoute
    from starlette.types import ASGIApp

    from neuroshell_orch.service import Service

CLIENT_CLOSED_REQUEST = 499


async def _on_client_gone(_request: Request, _error: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)  # nobody reads it


routes = [*orch.routes, *openai.routes, *embeddings.routes, *oip.routes, *ollama.routes, *openapi.routes]


def build(service: Service) -> ASGIApp:
    """The application over ``service``, with all that stands before a route."""
    seats: Counter[str] = Counter()

    def some(models: frozenset[str]) -> ASGIApp:
        return Seats(_routed(narrow(service, models), narrowed(routes)), seats)

    whole = Seats(_routed(service, routes), seats)
    guard = Guard(whole, some, lambda: service.configuration.settings.allow_origins)
    return Named(Bounds(guard, lambda: service.configuration.settings))


def _routed(service: Service, routes: Sequence[BaseRoute]) -> Starlette:
    app = Starlette(
        routes=routes,
        exception_handlers={
            OrchError: on_orch_error,
            HTTPException: on_http_error,
            ClientGone: _on_client_gone,
            ClientDisconnect: _on_client_gone,
            Exception: on_crash,
        },
    )
    app.state.service = service
    app.state.oip = State()
    return app
