"""What is said of one route: its purpose, its types, its problems, an example.

Owns the record that the tables of routes are made of (``openapi_v1``, ``openapi_v2``, ``openapi_ollama``,
``openapi_orch``), and the groups of problems that many routes have in common. Must not know OpenAPI:
``openapi_document`` does.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

ALWAYS: Final = frozenset(
    {
        *("unauthorized", "not-allowed", "headers-too-large", "request-timeout", "too-many-connections"),
        *("service-stopping", "internal"),
    }
)
"""What any request may be told."""
NAMED: Final = frozenset({"model-unknown"})
"""Where a model is named."""
BODY: Final = frozenset({"bad-request", "body-too-large", "json-too-deep"})
"""Where a body is read."""
LOAD: Final = frozenset(
    {
        *("file-missing", "model-invalid", "unsupported", "queue-full", "leased", "load-failed", "load-timeout"),
        *("over-budget", "worker-died", "timed-out", "cancelled"),
    }
)
"""Where a model is loaded."""
ASK: Final = LOAD | NAMED | BODY | {"no-model", "empty-prompt", "prompt-too-long", "answer-failed", "too-many-streams"}
"""Where a model is asked."""
REPLAYED: Final = frozenset({"key-reused"})
"""Where an Idempotency-Key is understood."""
CONFIG: Final = frozenset({"config-invalid", "write-failed", "no-space"})
"""Where the configuration is written or read anew."""


class Items(NamedTuple):
    """An answer that comes in pieces: its media type, and the type of one piece."""

    media: str
    of: Any


class Operation(NamedTuple):
    """One method of one route."""

    method: str
    path: str
    summary: str
    answer: Any = None
    """The type of the answer in JSON. None: it has no body in JSON."""
    body: Any = None
    """The type of the request."""
    problems: frozenset[str] = frozenset()
    """Besides those that any request may have."""
    note: str = ""
    stream: Items | None = None
    plain: str = ""
    """An answer that is this very text."""
    raw: str = ""
    """What stands in the binary form of request and answer, where there is one."""
    optional: bool = False
    """The request may be without its body."""
    never: bool = False
    """It always refuses."""
    replays: bool = False
    """``Idempotency-Key`` is understood."""
    example: Any = None
    """A request's body that works."""
