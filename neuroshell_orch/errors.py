"""The one error type that people see: a problem code, a sentence, a hint.

Owns the table of problem codes with the HTTP status and the exit code each one maps to, so that the API and
the CLI can never disagree. Knows nothing about HTTP, systemd or models: imports nothing of ours.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Kind(NamedTuple):
    """How one problem code is shown: HTTP status, process exit code, and whether trying again can help."""

    status: int
    exit_code: int
    retryable: bool = False


EXIT_FAILURE: Final = 1
EXIT_USAGE: Final = 2
EXIT_NOT_FOUND: Final = 3
EXIT_BAD_INPUT: Final = 4
EXIT_UNAVAILABLE: Final = 5
EXIT_MODEL_FAILED: Final = 6
EXIT_BUSY: Final = 7
EXIT_CANCELLED: Final = 130

PROBLEMS: Final[dict[str, Kind]] = {
    # The request or a file is wrong; the same request will fail again.
    "bad-request": Kind(400, EXIT_BAD_INPUT),
    "empty-prompt": Kind(400, EXIT_BAD_INPUT),
    "prompt-too-long": Kind(400, EXIT_BAD_INPUT),
    "unsupported": Kind(400, EXIT_BAD_INPUT),
    "body-too-large": Kind(413, EXIT_BAD_INPUT),
    "json-too-deep": Kind(400, EXIT_BAD_INPUT),
    "headers-too-large": Kind(431, EXIT_BAD_INPUT),
    "key-reused": Kind(422, EXIT_BAD_INPUT),
    "config-invalid": Kind(400, EXIT_BAD_INPUT),
    "model-invalid": Kind(422, EXIT_BAD_INPUT),
    "model-exists": Kind(409, EXIT_BAD_INPUT),
    "token-exists": Kind(409, EXIT_BAD_INPUT),
    # Something named does not exist.
    "not-found": Kind(404, EXIT_NOT_FOUND),
    "no-model": Kind(404, EXIT_NOT_FOUND),
    "model-unknown": Kind(404, EXIT_NOT_FOUND),
    "mode-unknown": Kind(404, EXIT_NOT_FOUND),
    "file-missing": Kind(404, EXIT_NOT_FOUND),
    # The service, not the request.
    "not-allowed": Kind(403, EXIT_UNAVAILABLE),
    "unauthorized": Kind(401, EXIT_UNAVAILABLE),
    "service-unreachable": Kind(503, EXIT_UNAVAILABLE, retryable=True),
    "service-stopping": Kind(503, EXIT_UNAVAILABLE, retryable=True),
    "download-failed": Kind(502, EXIT_UNAVAILABLE, retryable=True),
    "not-ready": Kind(409, EXIT_UNAVAILABLE),
    "request-timeout": Kind(408, EXIT_UNAVAILABLE, retryable=True),
    "queue-full": Kind(429, EXIT_BUSY, retryable=True),
    "too-many-streams": Kind(429, EXIT_BUSY, retryable=True),
    "too-many-connections": Kind(429, EXIT_BUSY, retryable=True),
    "leased": Kind(503, EXIT_BUSY, retryable=True),
    # The model or its worker.
    "load-failed": Kind(503, EXIT_MODEL_FAILED, retryable=True),
    "load-timeout": Kind(503, EXIT_MODEL_FAILED, retryable=True),
    "over-budget": Kind(507, EXIT_MODEL_FAILED),
    "timed-out": Kind(408, EXIT_MODEL_FAILED, retryable=True),
    "worker-died": Kind(503, EXIT_MODEL_FAILED, retryable=True),
    "answer-failed": Kind(500, EXIT_MODEL_FAILED),
    "cancelled": Kind(499, EXIT_CANCELLED),
    "write-failed": Kind(500, EXIT_FAILURE, retryable=True),
    "no-space": Kind(507, EXIT_FAILURE, retryable=True),
    "internal": Kind(500, EXIT_FAILURE),
}


class OrchError(Exception):
    """Something went wrong that a person can act on.

    ``problem`` is a key of PROBLEMS, ``message`` says what was wrong and where, ``hint`` what to do about it;
    ``retry_after`` in how many seconds to try again, where that is known. None of it may ever contain a prompt, an
    answer or a tensor.
    """

    def __init__(self, problem: str, message: str, hint: str = "", retry_after: float | None = None) -> None:
        if problem not in PROBLEMS:
            raise ValueError(f"unknown problem code {problem!r}: add it to PROBLEMS first")
        super().__init__(message)
        self.problem = problem
        self.message = message
        self.hint = hint
        self.retry_after = retry_after

    @property
    def kind(self) -> Kind:
        """Status, exit code and retryability of this problem."""
        return PROBLEMS[self.problem]

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()
