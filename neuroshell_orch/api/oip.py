"""``/v2``: the Open Inference Protocol. Everything but the inference itself.

Owns health, metadata, statistics, repository control and the registration of shared memory. Ready means that an
inference would be answered: a COLD model is ready, because it is loaded when it is asked. One that was unloaded on
request is not, until it is loaded or asked again. Must not know how a model is loaded or run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from starlette.routing import Route

from neuroshell_orch import __version__
from neuroshell_orch.api.oip_infer import infer
from neuroshell_orch.api.oip_state import VERSION, Declared, State, model_path
from neuroshell_orch.api.problems import json_response
from neuroshell_orch.api.requests import parse_json, read_body
from neuroshell_orch.core.lifecycle import Phase
from neuroshell_orch.core.warmth import Warmth
from neuroshell_orch.errors import OrchError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from neuroshell_orch.service import Service
    from neuroshell_orch.workers.protocol import TensorInfo

T = TypeVar("T")

EXTENSIONS: Final = (
    *("binary_tensor_data", "model_configuration", "model_repository", "model_repository(unload_dependents)"),
    *("schedule_policy", "statistics"),
)
PLATFORMS: Final = {"onnx": "onnx_onnxv1", "genai": "onnx_genai", "encoder": "onnx_encoder"}
_MAX_CONTROL: Final = 1 << 20


class IndexRequest(msgspec.Struct):
    """Body of POST /v2/repository/index."""

    ready: bool = False
    """Only models that are ready."""


class ControlRequest(msgspec.Struct):
    """Body of POST /v2/repository/models/{model}/load and …/unload."""

    parameters: dict[str, Any] = {}
    """None for a load; ``unload_dependents`` for an unload."""


class RegisterRequest(msgspec.Struct):
    """Body of POST /v2/systemsharedmemory/region/{region}/register."""

    key: str
    """The name of an object in /dev/shm, as shm_open takes it."""
    byte_size: int
    offset: int = 0
    """Where in the object the region begins."""


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _state(request: Request) -> State:
    state: State = request.app.state.oip
    return state


# ---- health and metadata ----


async def server(request: Request) -> Response:
    """GET /v2."""
    shared = ("system_shared_memory",) if _service(request).configuration.settings.shared_memory else ()
    return json_response({"name": "nsorch", "version": __version__, "extensions": [*EXTENSIONS, *shared]})


async def live(_request: Request) -> Response:
    """GET /v2/health/live: whoever answers is alive."""
    return json_response({"live": True})


async def server_ready(_request: Request) -> Response:
    """GET /v2/health/ready: whoever answers takes requests."""
    return json_response({"ready": True})


def _unready(service: Service, name: str) -> str:
    """Why an inference would not be answered or is not wanted, or an empty string."""
    if not model_path(service, name).exists():
        return "its file is missing"
    record = service.engine.state.models.get(name)
    if record is None:
        return ""
    if record.facts.cap is Warmth.COLD and not record.busy:
        return record.facts.cap_reason or "unloaded on request"
    if record.load_failed and record.phase is Phase.COLD:
        return record.reason
    return ""


async def ready(request: Request) -> Response:
    """GET /v2/models/{model}[/versions/{version}]/ready."""
    name = _state(request).model(request)
    why_not = _unready(_service(request), name)
    if why_not:
        raise OrchError("not-ready", f"Model {name} is not ready: {why_not}.", "Load it, or ask it anyway.")
    return json_response({"name": name, "ready": True})


async def _declared(request: Request, name: str) -> Declared:
    service = _service(request)
    if service.configuration.models[name].runtime != "onnx":
        return Declared()
    return await _state(request).declared(service, name)


async def metadata(request: Request) -> Response:
    """GET /v2/models/{model}[/versions/{version}]. A dimension of any size is -1."""
    name = _state(request).model(request)
    declared = await _declared(request, name)
    platform = PLATFORMS[_service(request).configuration.models[name].runtime]
    return json_response(
        {
            "name": name,
            "versions": [VERSION],
            "platform": platform,
            "inputs": [_info(item) for item in declared.inputs],
            "outputs": [_info(item) for item in declared.outputs],
        }
    )


def _info(tensor: TensorInfo) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}


async def config(request: Request) -> Response:
    """GET /v2/models/{model}[/versions/{version}]/config: the same facts in the words of a model configuration."""
    name = _state(request).model(request)
    declared = await _declared(request, name)

    def entry(tensor: TensorInfo) -> dict[str, Any]:
        kind = "STRING" if tensor.datatype == "BYTES" else tensor.datatype
        return {"name": tensor.name, "data_type": f"TYPE_{kind}", "dims": tensor.shape}

    runtime = _service(request).configuration.models[name].runtime
    return json_response(
        {
            "name": name,
            "platform": "onnxruntime_onnx" if runtime == "onnx" else "",
            "backend": "onnxruntime_genai" if runtime == "genai" else "onnxruntime",
            "max_batch_size": 0,
            "input": [entry(item) for item in declared.inputs],
            "output": [entry(item) for item in declared.outputs],
        }
    )


async def stats(request: Request) -> Response:
    """GET /v2/models/stats and /v2/models/{model}[/versions/{version}]/stats."""
    state, models = _state(request), _service(request).configuration.models
    names = [state.model(request)] if "model" in request.path_params else sorted(models)
    return json_response({"model_stats": [state.statistics.of(name) for name in names]})


# ---- repository ----


async def index(request: Request) -> Response:
    """POST /v2/repository/index."""
    wanted = await _control(request, IndexRequest)
    service = _service(request)
    rows = [_row(service, name) for name in sorted(service.configuration.models)]
    return json_response([row for row in rows if row["state"] == "READY" or not wanted.ready])


def _row(service: Service, name: str) -> dict[str, str]:
    record = service.engine.state.models.get(name)
    why_not = _unready(service, name)
    state = "UNAVAILABLE" if why_not else "READY"
    if record is not None and record.phase in {Phase.LOADING, Phase.WAKING}:
        state, why_not = "LOADING", ""
    elif record is not None and record.phase is Phase.STOPPING and why_not:
        state = "UNLOADING"
    return {"name": name, "version": VERSION, "state": state, "reason": why_not}


async def load(request: Request) -> Response:
    """POST /v2/repository/models/{model}/load: make it HOT and wait for it."""
    wanted = await _control(request, ControlRequest)
    for key in wanted.parameters:
        message = f"The parameter {key[:80]!r} of a load is not supported."
        raise OrchError("unsupported", message, "A model is added with its file: nsorch model add NAME PATH")
    name = request.path_params["model"]
    try:
        await _service(request).preload(name)
    except OrchError as error:  # clients look for these words
        raise OrchError(error.problem, f"failed to load '{name[:80]}': {error.message}", error.hint) from error
    return json_response({})


async def unload(request: Request) -> Response:
    """POST /v2/repository/models/{model}/unload: give its memory back and wait until that is done."""
    wanted = await _control(request, ControlRequest)
    for key in wanted.parameters:
        if key != "unload_dependents":  # no model depends on another
            raise OrchError("unsupported", f"The parameter {key[:80]!r} of an unload is not supported.", "")
    await _service(request).unload(request.path_params["model"])
    return json_response({})


async def _control(request: Request, kind: type[T]) -> T:
    body = await read_body(request, _MAX_CONTROL)
    return parse_json(body or b"{}", kind)


# ---- shared memory ----


async def shared_status(request: Request) -> Response:
    """GET /v2/systemsharedmemory[/region/{region}]/status."""
    regions = _state(request).usable_regions(_service(request))
    return json_response(regions.shown(request.path_params.get("region")))


async def shared_register(request: Request) -> Response:
    """POST /v2/systemsharedmemory/region/{region}/register."""
    wanted = await _control(request, RegisterRequest)
    regions = _state(request).usable_regions(_service(request))
    regions.register(request.path_params["region"], wanted.key, wanted.offset, wanted.byte_size)
    return json_response({})


async def shared_unregister(request: Request) -> Response:
    """POST /v2/systemsharedmemory[/region/{region}]/unregister."""
    _state(request).usable_regions(_service(request)).unregister(request.path_params.get("region"))
    return json_response({})


async def cuda_shared(_request: Request) -> Response:
    """/v2/cudasharedmemory/…: the daemon never opens a GPU."""
    raise OrchError("unsupported", "CUDA shared memory is not supported.", "Use system shared memory.")


_MODEL: Final = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
_SHARED: Final = "/v2/systemsharedmemory"

routes = [
    Route("/v2", server),
    Route("/v2/health/live", live),
    Route("/v2/health/ready", server_ready),
    Route("/v2/models/stats", stats),
    *(Route(path, metadata) for path in _MODEL),
    *(Route(f"{path}/ready", ready) for path in _MODEL),
    *(Route(f"{path}/config", config) for path in _MODEL),
    *(Route(f"{path}/stats", stats) for path in _MODEL),
    *(Route(f"{path}/infer", infer, methods=["POST"]) for path in _MODEL),
    Route("/v2/repository/index", index, methods=["POST"]),
    Route("/v2/repository/models/{model}/load", load, methods=["POST"]),
    Route("/v2/repository/models/{model}/unload", unload, methods=["POST"]),
    *(Route(f"{path}/status", shared_status) for path in (_SHARED, f"{_SHARED}/region/{{region}}")),
    Route(f"{_SHARED}/region/{{region}}/register", shared_register, methods=["POST"]),
    *(
        Route(f"{path}/unregister", shared_unregister, methods=["POST"])
        for path in (_SHARED, f"{_SHARED}/region/{{region}}")
    ),
    Route("/v2/cudasharedmemory/{rest:path}", cuda_shared, methods=["GET", "POST"]),
]
