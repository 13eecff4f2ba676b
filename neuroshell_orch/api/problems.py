"""Errors in the shape of the API that was called: our own, OpenAI's, the Open Inference Protocol's, or Ollama's.

Owns the mapping of one OrchError to a status, headers and a body by the path's prefix. Must not know what went wrong.
"""

from __future__ import annotations

import math
from typing import Any, Final

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from neuroshell_orch.errors import OrchError
from neuroshell_orch.sd import journal

RETRY_SECONDS: Final = "5"

_OPENAI_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}

encode = msgspec.json.encode


def json_response(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """``value`` (structs, lists, plain values) as a JSON response."""
    return Response(encode(value), status, headers, "application/json")


def body_of(path: str, error: OrchError) -> dict[str, Any]:
    """The error as the API behind ``path`` says it."""
    if path.startswith("/v1"):
        kind = "invalid_request_error" if error.kind.status < 500 else "server_error"
        return {
            "error": {
                "message": str(error),
                "type": _OPENAI_TYPES.get(error.kind.status, kind),
                "param": None,
                "code": error.problem,
                "hint": error.hint,
            }
        }
    if path.startswith(("/v2", "/api")):
        return {"error": str(error), "problem": error.problem, "hint": error.hint}
    return {"problem": error.problem, "message": error.message, "hint": error.hint}


def failed_midway(path: str, error: OrchError) -> dict[str, Any]:
    """The error as the end of an answer whose status was sent long ago; the journal hears of it here."""
    priority = journal.WARNING if error.kind.status >= 500 else journal.DEBUG
    journal.log(priority, f"An answer ended in the middle: {error.problem}", problem=error.problem)
    return body_of(path, error)


def problem_response(path: str, error: OrchError) -> Response:
    """The whole response for ``error``."""
    seconds = RETRY_SECONDS if error.retry_after is None else str(max(1, math.ceil(error.retry_after)))
    headers = {"Retry-After": seconds} if error.kind.retryable else None
    return json_response(body_of(path, error), error.kind.status, headers)


async def on_orch_error(request: Request, error: Exception) -> Response:
    """Starlette's handler for our own errors."""
    assert isinstance(error, OrchError)  # noqa: S101 - registered for this type only
    return problem_response(request.url.path, error)


async def on_http_error(request: Request, error: Exception) -> Response:
    """Starlette's handler for routes and methods that do not exist."""
    assert isinstance(error, HTTPException)  # noqa: S101 - likewise
    method, path = request.method, request.url.path
    message = (
        f"There is no {path[:200]} here." if error.status_code == 404 else f"{method} {path[:200]}: {error.detail}."
    )
    problem = OrchError("not-found" if error.status_code == 404 else "bad-request", message, "")
    return json_response(body_of(path, problem), error.status_code, dict(error.headers or {}))


async def on_crash(request: Request, _error: Exception) -> Response:
    """Starlette's handler for defects: the traceback goes to the journal, the client learns only that there is one."""
    error = OrchError("internal", "The service has a defect and could not answer.", "Its journal has the traceback.")
    return json_response(body_of(request.url.path, error), 500)
