"""What ``/api`` says about models and does with their names: tags, ps, show, copy, delete.

Owns the shapes of those answers. Tensor models are not listed, since nothing here can be done with them;
sizes are what the disk and the kernel say. Looking wakes nothing. Must not know how a model is registered or measured.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec
from starlette.responses import Response

from neuroshell_orch.api.ollama_names import instant, plain, registered, tagged
from neuroshell_orch.api.problems import json_response
from neuroshell_orch.api.requests import read_json
from neuroshell_orch.core.modes import wish
from neuroshell_orch.core.warmth import Warmth
from neuroshell_orch.errors import OrchError
from neuroshell_orch.models import catalogue, registry
from neuroshell_orch.models.details import Details, described

if TYPE_CHECKING:
    from starlette.requests import Request

    from neuroshell_orch.api.schema import ModelStatus
    from neuroshell_orch.config.schema import ModelSettings
    from neuroshell_orch.service import Service

FOR_EVER: Final = "2318-01-01T00:00:00.000000Z"
"""So far away that clients show it as for ever; they know no other way to say it."""
SMALL: Final = 1 << 16
_SERVED: Final = {"genai": ["completion", "tools"], "encoder": ["embedding"]}
"""What this convention can do, by runtime. Tools are told in words to a model whose template does not know them."""
_LOADED: Final = frozenset({"HOT", "HIBERNATED"})
_SHOWN_OPTIONS: Final = {"temperature": "temperature", "top_p": "top_p", "top_k": "top_k"}


class Named(msgspec.Struct):
    """A request about one model; ``name`` is what older clients call ``model``."""

    model: str | None = None
    """A model's name, with or without a tag. Needed, here or as ``name``."""
    name: str | None = None

    @property
    def wanted(self) -> str | None:
        """Whichever is there."""
        return self.model or self.name


class CopyBody(msgspec.Struct):
    """Body of POST /api/copy."""

    source: str | None = None
    destination: str | None = None


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


async def tags(request: Request) -> Response:
    """GET /api/tags: the registered models that this convention can use, the newest first."""
    models = [model for model in _service(request).configuration.models.values() if model.runtime in _SERVED]

    def read() -> list[dict[str, Any]]:
        pairs = sorted(((model, described(model.path)) for model in models), key=lambda pair: -pair[1].modified)
        return [_listed(model, details) for model, details in pairs]

    return json_response({"models": await asyncio.to_thread(read)})


def _listed(model: ModelSettings, details: Details) -> dict[str, Any]:
    return {
        "name": tagged(model.name),
        "model": tagged(model.name),
        "modified_at": instant(details.modified),
        "size": details.size,
        "digest": model.digest.removeprefix("sha256:"),
        "details": _details(details),
    }


def _details(details: Details) -> dict[str, Any]:
    return {
        "parent_model": "",
        "format": details.format,
        "family": details.family,
        "families": [details.family] if details.family else None,
        "parameter_size": details.parameter_size,
        "quantization_level": details.precision,
    }


async def ps(request: Request) -> Response:
    """GET /api/ps: the models whose weights are loaded."""
    service = _service(request)
    found = [status for status in service.status().models if status.warmth in _LOADED and status.runtime in _SERVED]

    details = await asyncio.to_thread(lambda: [described(status.path) for status in found])
    settings = service.configuration.models
    pairs = zip(found, details, strict=True)
    return json_response(
        {"models": [_running(service, s, settings[s.name], d) for s, d in pairs if s.name in settings]}
    )


def _running(service: Service, status: ModelStatus, model: ModelSettings, details: Details) -> dict[str, Any]:
    loaded = service.loaded(status.name)
    vram = status.needs_vram if loaded is not None and loaded.device != "cpu" else 0
    ram = status.memory.pss if status.memory is not None else status.needs or 0
    return {
        "name": tagged(status.name),
        "model": tagged(status.name),
        "size": ram + vram,
        "digest": model.digest.removeprefix("sha256:"),
        "details": _details(details),
        "expires_at": _expires(service, status),
        "size_vram": vram,
        "context_length": status.context_length or details.context_length,
    }


def _expires(service: Service, status: ModelStatus) -> str:
    """When it rests if nobody asks; while it writes an answer, as if that ended now."""
    if status.next_at is not None:
        return instant(status.next_at)
    record = service.engine.state.models.get(status.name)
    if record is None:
        return instant(time.time())
    wanted, now = record.wish, service.engine.now()
    if record.busy:
        wanted = wish(record.plan.mode, msgspec.structs.replace(record.facts, asked=False, answered=now), now)
    if wanted.again_at is not None:
        return instant(service.engine.wall(wanted.again_at))
    return FOR_EVER if wanted.warmth is Warmth.HOT else instant(time.time())


async def show(request: Request) -> Response:
    """POST /api/show."""
    body = await read_json(request, Named, SMALL)
    service = _service(request)
    name = registered(service, body.wanted)
    model = service.configuration.models[name]
    if model.runtime not in _SERVED:
        service.require_runtime(name, "genai")
    return json_response(await asyncio.to_thread(_shown, model))


def _shown(model: ModelSettings) -> dict[str, Any]:
    details = described(model.path)
    family = details.family or "unknown"
    info: dict[str, Any] = {
        "general.architecture": family,
        "general.basename": model.name,
        "general.parameter_count": details.parameters,
        f"{family}.context_length": model.context_length or details.context_length,
        f"{family}.embedding_length": details.hidden_size,
        f"{family}.block_count": details.layers,
        f"{family}.attention.head_count": details.heads,
        f"{family}.attention.head_count_kv": details.kv_heads,
        f"{family}.vocab_size": details.vocabulary,
    }
    shown = {
        "modelfile": f"# Registered in {model.source}\nFROM {model.path}\n",
        "parameters": _parameters(details) if model.runtime == "genai" else "",
        "template": details.template,
        "details": _details(details),
        "model_info": {key: value for key, value in info.items() if value},
        "capabilities": _SERVED[model.runtime],
        "modified_at": instant(details.modified),
    }
    licence = _licence(model)
    return shown | ({"license": licence} if licence else {})


def _parameters(details: Details) -> str:
    """How it chooses where nobody says otherwise, one option a line."""
    search = details.search
    if search.get("do_sample") is not True:
        return "temperature 0"
    numbers = {shown: search.get(name) for name, shown in _SHOWN_OPTIONS.items()}
    return "\n".join(f"{name} {value}" for name, value in numbers.items() if isinstance(value, int | float))


def _licence(model: ModelSettings) -> str:
    """The licence of what was pulled from the catalogue."""
    try:
        entry = catalogue.entries().get(model.name)
    except OrchError:  # a broken file of the catalogue, which pulling it would say
        return ""
    known = entry is not None and model.origin.startswith(f"{entry.package.project} {entry.package.version} ")
    return entry.licence if entry is not None and known else ""


async def copy(request: Request) -> Response:
    """POST /api/copy: a second name for the same files, with the same settings."""
    body = await read_json(request, CopyBody, SMALL)
    service = _service(request)
    source, name = registered(service, body.source), plain(body.destination)
    await asyncio.to_thread(registry.copy, source, name)
    await _take_over(service, f"{name} is registered")
    return Response()


async def delete(request: Request) -> Response:
    """DELETE /api/delete: forget a model, and delete what was made for it here."""
    body = await read_json(request, Named, SMALL)
    service = _service(request)
    name = registered(service, body.wanted)
    await asyncio.to_thread(registry.remove, name, delete_files=True)
    await _take_over(service, f"{name} is removed")
    return Response()


async def _take_over(service: Service, done: str) -> None:
    try:
        await service.reload()
    except OrchError as error:
        message = f"{done}, but the service keeps its old configuration: {error.message}"
        raise OrchError(error.problem, message, error.hint) from error
