"""``/openapi.json``: the description of every route, made when somebody first asks for it.

Owns the route and the copy that is kept. What makes it is imported then: no daemon starts for it.
"""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING

from starlette.responses import Response
from starlette.routing import Route

if TYPE_CHECKING:
    from starlette.requests import Request


async def openapi(_request: Request) -> Response:
    """GET /openapi.json."""
    return Response(await asyncio.to_thread(_encoded), media_type="application/json")


@functools.cache
def _encoded() -> bytes:
    import msgspec  # noqa: PLC0415 - with the rest

    from neuroshell_orch.api.openapi_document import document  # noqa: PLC0415 - see above

    return msgspec.json.encode(document())


routes = [Route("/openapi.json", openapi)]
