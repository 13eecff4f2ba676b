"""``/api/embed``, and ``/api/embeddings`` as older clients call it: texts as vectors.

Owns the fields of those requests. Must not know how a text becomes a vector.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from neuroshell_orch.api.ollama_names import registered
from neuroshell_orch.api.requests import read_json
from neuroshell_orch.errors import OrchError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from neuroshell_orch.service import Service

MAX_TEXTS = 16 << 20
"""Bytes of a request."""


class EmbedBody(msgspec.Struct):
    """Body of POST /api/embed."""

    model: str | None = None
    input: str | list[str] = ""
    truncate: bool | None = None
    dimensions: int | None = None
    keep_alive: int | float | str | None = None
    options: dict[str, Any] | None = None


class OldBody(msgspec.Struct):
    """Body of POST /api/embeddings."""

    model: str | None = None
    prompt: str = ""
    keep_alive: int | float | str | None = None
    options: dict[str, Any] | None = None


async def embed(request: Request) -> Response:
    """POST /api/embed."""
    body = await read_json(request, EmbedBody, MAX_TEXTS)
    raise _no_encoder(request, body.model)


async def embeddings(request: Request) -> Response:
    """POST /api/embeddings."""
    body = await read_json(request, OldBody, MAX_TEXTS)
    raise _no_encoder(request, body.model)


def _no_encoder(request: Request, name: str | None) -> OrchError:
    service: Service = request.app.state.service
    model = registered(service, name)
    return OrchError("unsupported", f"Model {model} makes no embeddings.", "Only encoder models do.")
