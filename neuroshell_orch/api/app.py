"""The ASGI application: every route under one roof.

Owns the list of conventions and the handlers for what none of them expected. Must not know how any route works.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from neuroshell_orch.api import embeddings, oip, ollama, openai, orch
from neuroshell_orch.api.guard import Guard
from neuroshell_orch.api.oip_state import State
from neuroshell_orch.api.problems import on_crash, on_http_error, on_orch_error
from neuroshell_orch.api.requests import ClientGone
from neuroshell_orch.errors import OrchError

if TYPE_CHECKING:
    from starlette.requests import Request

    from neuroshell_orch.service import Service

CLIENT_CLOSED_REQUEST = 499


async def _on_client_gone(_request: Request, _error: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)  # nobody reads it


def build(service: Service) -> Starlette:
    """The application over ``service``."""
    app = Starlette(
        routes=[*orch.routes, *openai.routes, *embeddings.routes, *oip.routes, *ollama.routes],
        exception_handlers={
            OrchError: on_orch_error,
            HTTPException: on_http_error,
            ClientGone: _on_client_gone,
            ClientDisconnect: _on_client_gone,
            Exception: on_crash,
        },
    )
    app.add_middleware(Guard)
    app.state.service = service
    app.state.oip = State()
    return app
