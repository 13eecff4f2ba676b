"""``POST /v2/models/{model}/infer``: one run of a tensor model.

Owns the shapes of request and answer, the parameters of the extensions (binary tensors, shared memory, schedule
policy) and the refusal of all others: each would change the answer. Must not know how a model is run.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar, cast

import msgspec

from neuroshell_orch.api import keep_alive, oip_body
from neuroshell_orch.api.keep_alive import KeepAlive
from neuroshell_orch.api.oip_data import SIZES, InputTensor, element_count, from_tensor, to_tensor
from neuroshell_orch.api.oip_stats import Watch
from neuroshell_orch.api.problems import json_response
from neuroshell_orch.api.requests import while_connected
from neuroshell_orch.core.messages import AskOptions
from neuroshell_orch.errors import OrchError
from neuroshell_orch.workers.protocol import Infer, Outputs, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from neuroshell_orch.api.oip_shm import Regions
    from neuroshell_orch.api.oip_state import State
    from neuroshell_orch.service import Service

T = TypeVar("T")

_LARGE: Final = 1 << 20
"""Bytes. What takes longer than a moment is done beside the event loop."""
_REGION: Final = ("shared_memory_region", "shared_memory_offset", "shared_memory_byte_size")
_INPUT_KEYS: Final = frozenset({*_REGION, "binary_data_size"})
_OUTPUT_KEYS: Final = frozenset({*_REGION, "binary_data", "classification"})
_REQUEST_KEYS: Final = frozenset({"binary_data_output", "priority", "timeout", "keep_alive"})
_SEQUENCE_KEYS: Final = frozenset({"sequence_id", "sequence_start", "sequence_end"})
"""Taken while they ask for nothing: clients send them always."""
_NUMBER: Final[dict[str, Any]] = {"type": "integer", "minimum": 0, "maximum": (1 << 63) - 1}
_SHOWN: Final[dict[str, dict[str, Any]]] = {
    **dict.fromkeys(
        ("priority", "timeout", "shared_memory_offset", "shared_memory_byte_size", "binary_data_size"), _NUMBER
    ),
    **{key: {"type": "boolean"} for key in ("binary_data_output", "binary_data", "sequence_start", "sequence_end")},
    "shared_memory_region": {"type": "string"},
    "keep_alive": {"type": ["integer", "number", "string", "null"]},
    "sequence_id": {"enum": [0, "", None]},
    "classification": {"enum": [0, None]},
}
_ORDERS: Final = frozenset({"big_endian", "byte_order", "endian", "endianness"})


def _only(known: frozenset[str]) -> msgspec.Meta:
    """For the description: no other parameters than these are taken."""
    return msgspec.Meta(
        extra_json_schema={
            "propertyNames": {"enum": sorted(known)},
            "properties": {name: _SHOWN[name] for name in known},
        }
    )


class WantedOutput(msgspec.Struct):
    """One output that a request names."""

    name: str
    parameters: Annotated[dict[str, Any], _only(_OUTPUT_KEYS)] = {}
    """``binary_data``, or where in shared memory it goes."""


class InferRequest(msgspec.Struct):
    """Body of POST /v2/models/{model}/infer."""

    inputs: list[InputTensor]
    id: str | None = None
    """Is told back."""
    outputs: list[WantedOutput] = []
    """Which outputs are wanted; all, where none is named."""
    parameters: Annotated[dict[str, Any], _only(_REQUEST_KEYS | _SEQUENCE_KEYS)] = {}
    """``priority`` (1 is the highest), ``timeout`` in µs, ``binary_data_output``, ``keep_alive``; no others."""
    keep_alive: KeepAlive = None
    """Ours: how long the model should stay warm afterwards; it may stand among the parameters as well."""


class Place(msgspec.Struct, frozen=True):
    """A place in a shared memory region."""

    region: str
    offset: int
    size: int


async def infer(request: Request) -> Response:
    """POST /v2/models/{model}[/versions/{version}]/infer."""
    service: Service = request.app.state.service
    state: State = request.app.state.oip
    model = state.model(request)
    service.require_runtime(model, "onnx")
    watch = Watch()
    try:
        response = await _infer(request, service, state, model, watch)
    except OrchError:
        state.statistics.failed(model, watch)
        raise
    state.statistics.succeeded(model, watch)
    return response


async def _infer(request: Request, service: Service, state: State, model: str, watch: Watch) -> Response:
    text, raw = await oip_body.read(request)
    wanted = await _aside(len(text), lambda: oip_body.parse(text, InferRequest))
    options, seconds = schedule({"keep_alive": wanted.keep_alive} | wanted.parameters)
    places = _check_outputs(wanted, state, service)
    inputs = await _aside(max(len(text), len(raw), _shared(wanted)), lambda: _inputs(wanted, raw, state, service))
    watch.lap("compute_input")
    order = Infer(job=0, inputs=inputs, outputs=[output.name for output in wanted.outputs])
    work = service.desk.infer(model, order, options, lambda: watch.lap("queue"))
    try:
        if seconds is None:
            outputs = await while_connected(request, work)
        else:
            async with asyncio.timeout(seconds):
                outputs = await while_connected(request, work)
    except TimeoutError:
        message = f"The request was not done within its timeout of {round((seconds or 0) * 1_000_000)} µs."
        raise OrchError("timed-out", message, "Give it more time, or preload the model.") from None
    watch.lap("compute_infer")
    size = sum(len(tensor.data) for tensor in outputs.tensors)
    response = await _aside(size, lambda: _answer(model, wanted, outputs, places, state.regions))
    watch.lap("compute_output")
    return response


async def _aside(size: int, work: Callable[[], T]) -> T:
    """Do it here, or in a thread where it will take long."""
    return await asyncio.to_thread(work) if size > _LARGE else work()


# ---- what a request says ----


def schedule(parameters: dict[str, Any]) -> tuple[AskOptions, float | None]:
    """How urgent it is, and after how many seconds nobody wants it any more."""
    sequence = parameters.get("sequence_id")
    if sequence not in (None, 0, ""):
        raise OrchError("unsupported", "The parameter 'sequence_id' is not supported.", "Models keep no state here.")
    _refuse_unknown("The request", parameters, _REQUEST_KEYS | _SEQUENCE_KEYS)
    priority = _whole("The request", parameters, "priority", 0)
    timeout = _whole("The request", parameters, "timeout", 0)
    seconds = timeout / 1_000_000 if timeout else None
    rank = "interactive" if priority == 1 else "normal" if priority < 3 else "background"
    warm = parameters.get("keep_alive")
    if warm is not None and (isinstance(warm, bool) or not isinstance(warm, int | float | str)):
        raise OrchError(
            "bad-request", "The request has a 'keep_alive' that is no time.", 'Say it as "10m" or in seconds.'
        )
    return AskOptions(keep_alive=keep_alive.seconds(warm), priority=rank, patience=seconds), seconds


def _inputs(wanted: InferRequest, raw: memoryview, state: State, service: Service) -> list[Tensor]:
    tensors, at = [], 0
    for given in wanted.inputs:
        what = f"Input {given.name[:80]!r}"
        _refuse_unknown(what, given.parameters, _INPUT_KEYS)
        place = _place(what, given.parameters)
        size = _whole(what, given.parameters, "binary_data_size", -1)
        has_data = given.data is not msgspec.UNSET and given.data is not None
        if has_data + (size >= 0) + (place is not None) != 1:
            hint = "They are in 'data', in 'binary_data_size' bytes behind the JSON, or in shared memory."
            raise OrchError("bad-request", f"{what} must have its values in exactly one place.", hint)
        if has_data:
            tensors.append(to_tensor(given))
            continue
        data: memoryview | bytearray
        if place is not None:
            _require_size(given, place.size)
            data = state.usable_regions(service).read(place.region, place.offset, place.size)
        else:
            _require_size(given, size)
            if size > len(raw) - at:
                raise OrchError("bad-request", f"{what} has {size} bytes, and only {len(raw) - at} were sent.", "")
            data = raw[at : at + size]
            at += size
        # Frames are encoded from any buffer; only what is decoded from one is bytes.
        tensors.append(Tensor(given.name, given.datatype, given.shape, cast("bytes", data)))
    if at != len(raw):
        message = f"{len(raw) - at} bytes lie behind the JSON that no input claims."
        raise OrchError("bad-request", message, f"Set binary_data_size, and {oip_body.HEADER} to the JSON's length.")
    return tensors


def _shared(wanted: InferRequest) -> int:
    """How many bytes of the inputs lie in shared memory, by the client's word."""
    sizes = (given.parameters.get("shared_memory_byte_size") for given in wanted.inputs)
    return sum(size for size in sizes if type(size) is int)


def _require_size(given: InputTensor, size: int) -> None:
    count = element_count(given)
    if given.datatype != "BYTES" and size != count * SIZES[given.datatype]:
        message = f"Input {given.name[:80]!r} has {size} bytes of data"
        needs = f"{given.datatype} {given.shape} takes {count * SIZES[given.datatype]}."
        raise OrchError("bad-request", f"{message}, and {needs}", "")


def _check_outputs(wanted: InferRequest, state: State, service: Service) -> dict[str, Place]:
    """Where outputs go that are wanted in shared memory. Looked at before the model is woken."""
    places: dict[str, Place] = {}
    seen: set[str] = set()
    for output in wanted.outputs:
        what = f"Output {output.name[:80]!r}"
        if output.name in seen:
            raise OrchError("bad-request", f"{what} is named twice.", "")
        seen.add(output.name)
        _refuse_unknown(what, output.parameters, _OUTPUT_KEYS)
        if output.parameters.get("classification"):
            message = f"{what} has the parameter 'classification', which is not supported."
            raise OrchError("unsupported", message, "Take the scores and sort them.")
        place = _place(what, output.parameters)
        if place is not None:
            state.usable_regions(service).check(place.region, place.offset, place.size)
            places[output.name] = place
    return places


def _place(what: str, parameters: dict[str, Any]) -> Place | None:
    region = parameters.get("shared_memory_region")
    if region is None:
        return None
    if type(region) is not str or "shared_memory_byte_size" not in parameters:
        message = f"{what} needs 'shared_memory_region' as text and 'shared_memory_byte_size'."
        raise OrchError("bad-request", message, "")
    offset = _whole(what, parameters, "shared_memory_offset", 0)
    return Place(region, offset, _whole(what, parameters, "shared_memory_byte_size", 0))


def _whole(what: str, parameters: dict[str, Any], key: str, default: int) -> int:
    if key not in parameters:
        return default
    value = parameters[key]
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise OrchError("bad-request", f"{what} has a {key!r} that is not a whole number from 0 on.", "")
    return int(value)


def _refuse_unknown(what: str, parameters: dict[str, Any], known: frozenset[str]) -> None:
    for key in parameters:
        if key.lower() in _ORDERS:
            raise OrchError(
                "unsupported", f"{what} asks for a byte order ({key[:40]!r}).", "Tensors are little-endian."
            )
        if key not in known:
            hint = f"Supported here: {', '.join(sorted(known - {'classification'}))}."
            raise OrchError("unsupported", f"{what} has the parameter {key[:80]!r}, which is not supported.", hint)


# ---- what it is told ----


def _answer(model: str, wanted: InferRequest, outputs: Outputs, places: dict[str, Place], regions: Regions) -> Response:
    binary = wanted.parameters.get("binary_data_output") is True
    choice = {output.name: output.parameters.get("binary_data", binary) is True for output in wanted.outputs}
    shown: list[dict[str, Any]] = []
    buffers: list[bytes] = []
    for tensor in outputs.tensors:
        head = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        place = places.get(tensor.name)
        if place is not None:
            size = _put(tensor, place, regions)
            where = {"shared_memory_region": place.region, "shared_memory_offset": place.offset}
            shown.append({**head, "parameters": {**where, "shared_memory_byte_size": size}})
        elif choice.get(tensor.name, binary):
            shown.append({**head, "parameters": {"binary_data_size": len(tensor.data)}})
            buffers.append(tensor.data)
        elif len(tensor.data) > oip_body.MAX_JSON:
            message = f"Output {tensor.name!r} has {len(tensor.data) >> 20} MiB, which is too much for JSON."
            raise OrchError("unsupported", message, "Ask for it with binary_data.")
        else:
            shown.append(from_tensor(tensor))
    answer: dict[str, Any] = {"model_name": model, "model_version": "1", "outputs": shown}
    if wanted.id is not None:
        answer["id"] = wanted.id
    any_binary = any("binary_data_size" in item.get("parameters", {}) for item in shown)
    return oip_body.Tensors(answer, buffers) if any_binary else json_response(answer)


def _put(tensor: Tensor, place: Place, regions: Regions) -> int:
    size = len(tensor.data)
    if size > place.size:
        message = f"Output {tensor.name!r} has {size} bytes, and its place in shared memory {place.size}."
        raise OrchError("bad-request", message, "Make it larger.")
    regions.write(place.region, place.offset, tensor.data)
    return size
