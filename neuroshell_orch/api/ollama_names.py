"""The names that Ollama's clients use, and what they mean here.

A model there has a tag, and no tag means ``latest``; here it has one name. So ``smollm2-135m:latest`` is
``smollm2-135m``, and so is ``smollm2:135m``. Owns that, and the form of its sentences. Must not know models.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from neuroshell_orch.errors import OrchError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from neuroshell_orch.service import Service

_LATEST: Final = "latest"


def meanings(name: str) -> Iterator[str]:
    """The names that ``name`` may mean here, the likeliest first."""
    yield name
    base, _, tag = name.partition(":")
    if tag == _LATEST:
        yield base
    elif base and tag:
        yield f"{base}-{tag}"


def among(name: str | None, known: Collection[str]) -> str | None:
    """Which of ``known`` is meant, or None. Raises OrchError where no name is given."""
    if not name:
        raise OrchError("bad-request", "model is missing.", "Name one of /api/tags.")
    return next((meaning for meaning in meanings(name) if meaning in known), None)


def registered(service: Service, name: str | None) -> str:
    """The registered model that is meant. Raises OrchError."""
    models = service.configuration.models
    found = among(name, models)
    if found is None:
        assert name is not None  # noqa: S101 - among refuses it
        hint = f"Registered models: {', '.join(sorted(models)[:8])}." if models else "Pull one first: smollm2-135m."
        raise OrchError("model-unknown", f"model '{name[:80]}' not found.", hint)
    return found


def plain(name: str | None) -> str:
    """The name that a new model would have. Raises OrchError where no name is given."""
    if not name:
        raise OrchError("bad-request", "The name of a model is missing.", "")
    *_, last = meanings(name)
    return last


def tagged(name: str) -> str:
    """The name as lists show it."""
    return f"{name}:{_LATEST}"


def instant(seconds: float) -> str:
    """A Unix time as this convention writes it."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S.%f}Z"
