"""``/api``: Ollama's convention, for the programs that people already have.

Owns the routes and the two answers that every client begins with. Each group of routes is a module of its own that is
loaded when it is first called: whoever never speaks this convention pays nothing for it. Must not know how anything is
done.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from starlette.responses import PlainTextResponse
from starlette.routing import Route

from neuroshell_orch import __version__
from neuroshell_orch.api.problems import json_response
from neuroshell_orch.errors import OrchError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.responses import Response

SPEAKS: Final = "0.12.11"
"""The version of Ollama whose interface this is: clients compare it before they use what is new."""
_PACKAGE: Final = "neuroshell_orch.api"


async def root(_request: Request) -> Response:
    """GET and HEAD /: clients look here whether anybody serves this convention, and for these very words."""
    return PlainTextResponse("Ollama is running")


async def version(_request: Request) -> Response:
    """GET /api/version."""
    return json_response({"version": SPEAKS, "nsorch": __version__})


async def _no_making(_request: Request) -> Response:
    hint = "Register a GGUF file or a folder with `nsorch model add NAME PATH`; /api/pull fetches from the catalogue."
    raise OrchError("unsupported", "Models are not made from Modelfiles or blobs here.", hint)


async def _no_pushing(_request: Request) -> Response:
    raise OrchError("unsupported", "Models are not pushed anywhere: they stay on this machine.", "")


def _later(module: str, name: str) -> Callable[[Request], Awaitable[Response]]:
    """The handler ``name`` of ``module``, found at its first call."""

    async def handle(request: Request) -> Response:
        handler: Any = getattr(import_module(f"{_PACKAGE}.{module}"), name)
        response: Response = await handler(request)
        return response

    return handle


routes = [
    Route("/", root),
    Route("/api/version", version),
    Route("/api/generate", _later("ollama_chat", "generate"), methods=["POST"]),
    Route("/api/chat", _later("ollama_chat", "chat"), methods=["POST"]),
    Route("/api/embed", _later("ollama_embed", "embed"), methods=["POST"]),
    Route("/api/embeddings", _later("ollama_embed", "embeddings"), methods=["POST"]),
    Route("/api/tags", _later("ollama_models", "tags")),
    Route("/api/ps", _later("ollama_models", "ps")),
    Route("/api/show", _later("ollama_models", "show"), methods=["POST"]),
    Route("/api/copy", _later("ollama_models", "copy"), methods=["POST"]),
    Route("/api/delete", _later("ollama_models", "delete"), methods=["DELETE"]),
    Route("/api/pull", _later("ollama_pull", "pull"), methods=["POST"]),
    Route("/api/create", _no_making, methods=["POST"]),
    Route("/api/blobs/{digest}", _no_making, methods=["POST", "HEAD"]),
    Route("/api/push", _no_pushing, methods=["POST"]),
]
