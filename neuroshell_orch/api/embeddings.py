"""OpenAI's embeddings: the route.

What is behind it is imported by the first request, since most daemons start for a chat.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.routing import Route

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response


async def embeddings(request: Request) -> Response:
    """POST /v1/embeddings."""
    from neuroshell_orch.api.embeddings_answer import answer  # noqa: PLC0415 - see above

    return await answer(request)


routes = [Route("/v1/embeddings", embeddings, methods=["POST"])]
