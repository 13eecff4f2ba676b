"""What a token that is for some models only may do: ask these models, and see these.

Owns the list of routes that such a token reaches (a route that is not listed is refused, so a new one is closed until
somebody has thought about it) and the service as it looks through such a token. Must not know tokens, nor how a route
works.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
from starlette.routing import Route

from neuroshell_orch.config.schema import ModelSettings
from neuroshell_orch.errors import OrchError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute

    from neuroshell_orch.api.schema import ModelStatus, Status, Why
    from neuroshell_orch.config.load import Configuration
    from neuroshell_orch.core.messages import AskOptions
    from neuroshell_orch.service import Service

_MODEL: Final = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")

OPEN: Final = frozenset(
    {
        *("/", "/v2", "/v2/health/live", "/v2/health/ready", "/api/version", "/openapi.json"),
        *("/v1/models", "/v1/models/{model}", "/v1/chat/completions", "/v1/completions", "/v1/embeddings"),
        *(f"{path}{leaf}" for path in _MODEL for leaf in ("", "/ready", "/config", "/stats", "/infer")),
        *("/v2/models/stats", "/v2/repository/index"),
        *("/api/generate", "/api/chat", "/api/embed", "/api/embeddings", "/api/tags", "/api/ps", "/api/show"),
        *("/orch/models", "/orch/models/{model}", "/orch/models/{model}/why"),
    }
)
"""Routes on which a model is asked or looked at, and those that say nothing of any model."""


def narrowed(routes: Sequence[BaseRoute]) -> list[BaseRoute]:
    """``routes``, where those that are not open refuse."""
    return [
        route
        if not isinstance(route, Route) or route.path in OPEN
        else Route(route.path, _refuse, methods=sorted(route.methods or ()))
        for route in routes
    ]


async def _refuse(_request: Request) -> Response:
    hint = "Use a token without --models, or the unix socket."
    raise OrchError("not-allowed", "This token is for asking its models only.", hint)


def narrow(service: Service, models: frozenset[str]) -> Service:
    """``service`` as it looks through a token for ``models``."""
    return cast("Service", _Narrow(service, models))


class _Visible(dict[str, ModelSettings]):
    """Registered models by name, of which some are only known to be there: to ask for one of them is an error."""

    hidden: frozenset[str] = frozenset()

    def __contains__(self, name: object) -> bool:
        if name in self.hidden:
            raise _not_for(str(name))
        return super().__contains__(name)


def _not_for(name: str) -> OrchError:
    return OrchError("not-allowed", f"This token is not for model {name}.", "Make one that is: nsorch token create")


class _Narrow:
    def __init__(self, service: Service, models: frozenset[str]) -> None:
        self._service = service
        self._models = models
        self._seen: tuple[Configuration, Configuration] | None = None

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the service has
        return getattr(self._service, name)

    @property
    def configuration(self) -> Configuration:
        """The one in force, without other models, and without shared memory: its regions belong to other programs."""
        whole = self._service.configuration
        if self._seen is None or self._seen[0] is not whole:
            visible = _Visible({name: model for name, model in whole.models.items() if name in self._models})
            visible.hidden = frozenset(whole.models) - self._models
            settings = msgspec.structs.replace(whole.settings, shared_memory=False)
            self._seen = whole, msgspec.structs.replace(whole, models=visible, settings=settings)
        return self._seen[1]

    def resolve(self, name: str | None) -> str:
        """As the service's. Raises OrchError for other models."""
        found = self._service.resolve(name)
        if found not in self._models:
            raise _not_for(found)
        return found

    def status(self) -> Status:
        """As the service's, of these models."""
        whole = self._service.status()
        return msgspec.structs.replace(whole, models=[m for m in whole.models if m.name in self._models], warnings=[])

    def why(self, name: str) -> Why:
        """As the service's."""
        return self._service.why(self.resolve(name))

    async def preload(self, name: str, options: AskOptions) -> ModelStatus:
        """As the service's."""
        return await self._service.preload(self.resolve(name), options)

    async def unload(self, name: str) -> ModelStatus:
        """As the service's."""
        return await self._service.unload(self.resolve(name))
