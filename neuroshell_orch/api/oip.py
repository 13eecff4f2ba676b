"""``/v2``: the Open Inference Protocol as far as an inference needs it, with JSON tensors.

Owns the translation between JSON data and the bytes that workers take, and the shapes of requests and answers. Needs
no numpy: the daemon would pay for it at every start. Must not know how a model is run.
"""

from __future__ import annotations

import array
import math
import struct
import sys
from typing import TYPE_CHECKING, Any, Final

import msgspec
from starlette.routing import Route

from neuroshell_orch import __version__
from neuroshell_orch.api.problems import json_response
from neuroshell_orch.api.requests import read_json, while_connected
from neuroshell_orch.errors import OrchError
from neuroshell_orch.workers.protocol import Infer, Tensor, TensorInfo

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from neuroshell_orch.service import Service

CODES: Final[dict[str, str]] = {
    "BOOL": "B",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP16": "e",
    "FP32": "f",
    "FP64": "d",
}
"""Datatypes and their codes in ``array`` and ``struct``. BYTES is apart; BF16 has no JSON form of its own."""

_LENGTH: Final = struct.Struct("<I")


class InputTensor(msgspec.Struct):
    """One input of a request."""

    name: str
    shape: list[int]
    datatype: str
    data: Any
    parameters: dict[str, Any] = {}


class WantedOutput(msgspec.Struct):
    """One output that a request names."""

    name: str
    parameters: dict[str, Any] = {}


class InferRequest(msgspec.Struct):
    """Body of POST /v2/models/{model}/infer."""

    inputs: list[InputTensor]
    id: str | None = None
    outputs: list[WantedOutput] = []
    parameters: dict[str, Any] = {}


def _flatten(data: object, into: list[Any], depth: int = 0) -> None:
    if not isinstance(data, list):
        into.append(data)
    elif depth > 32:
        raise OrchError("bad-request", "The data of an input nests deeper than 32 lists.", "Send it flat.")
    else:
        for item in data:
            _flatten(item, into, depth + 1)


def to_tensor(given: InputTensor) -> Tensor:
    """JSON data as a tensor. Raises OrchError that names the input."""
    what = f"Input {given.name[:80]!r}"
    if any(size < 0 for size in given.shape):
        raise OrchError("bad-request", f"{what} has a negative size in its shape {given.shape}.", "")
    values: list[Any] = []
    _flatten(given.data, values)
    count = math.prod(given.shape)
    if len(values) != count:
        raise OrchError("bad-request", f"{what} has {len(values)} values, and its shape {given.shape} means {count}.")
    if given.datatype == "BYTES":
        return Tensor(given.name, "BYTES", given.shape, _pack_bytes(what, values))
    code = CODES.get(given.datatype)
    if code is None:
        known = ", ".join([*CODES, "BYTES"])
        raise OrchError("bad-request", f"{what} has the datatype {given.datatype[:40]!r}.", f"Known ones: {known}.")
    if any(type(value) not in {int, float, bool} for value in values):
        raise OrchError("bad-request", f"{what} has values that are not numbers.", "")
    if code not in "efd" and any(type(value) is float for value in values):
        raise OrchError("bad-request", f"{what} has fractions, and its datatype is {given.datatype}.", "")
    try:
        return Tensor(given.name, given.datatype, given.shape, struct.pack(f"<{count}{code}", *values))
    except (struct.error, OverflowError):
        raise OrchError("bad-request", f"{what} has values that do not fit {given.datatype}.", "") from None


def _pack_bytes(what: str, values: list[Any]) -> bytes:
    if any(type(value) is not str for value in values):
        raise OrchError("bad-request", f"{what} is BYTES and has values that are not strings.", "")
    encoded = [value.encode("utf-8", "surrogatepass") for value in values]
    return b"".join(_LENGTH.pack(len(item)) + item for item in encoded)


def from_tensor(tensor: Tensor) -> dict[str, Any]:
    """A tensor as the protocol's JSON. Raises OrchError where JSON cannot carry it."""
    head = {"name": tensor.name, "shape": tensor.shape, "datatype": tensor.datatype}
    if tensor.datatype == "BYTES":
        return {**head, "data": _unpack_bytes(tensor)}
    code = CODES.get(tensor.datatype)
    if code is None:
        raise OrchError("unsupported", f"Output {tensor.name} is {tensor.datatype}, which JSON cannot carry.", "")
    if code == "e":
        values: list[Any] = list(struct.unpack(f"<{len(tensor.data) // 2}e", tensor.data))
    else:
        numbers = array.array(code, tensor.data)
        if sys.byteorder == "big":
            numbers.byteswap()
        values = numbers.tolist()
    if tensor.datatype == "BOOL":
        values = [bool(value) for value in values]
    if code in "efd" and not all(map(math.isfinite, values)):
        message = f"Output {tensor.name} holds NaN or infinity, which JSON has no number for."
        raise OrchError("unsupported", message, "")
    return {**head, "data": values}


def _unpack_bytes(tensor: Tensor) -> list[str]:
    values, at = [], 0
    while at < len(tensor.data):
        (size,) = _LENGTH.unpack_from(tensor.data, at)
        at += _LENGTH.size
        try:
            values.append(tensor.data[at : at + size].decode())
        except UnicodeDecodeError:
            raise OrchError("unsupported", f"Output {tensor.name} holds bytes that are not text.", "") from None
        at += size
    return values


async def infer(request: Request) -> Response:
    """POST /v2/models/{model}/infer."""
    service: Service = request.app.state.service
    wanted = await read_json(request, InferRequest)
    model = service.resolve(request.path_params["model"])
    service.require_runtime(model, "onnx")
    inputs = [to_tensor(tensor) for tensor in wanted.inputs]
    names = [output.name for output in wanted.outputs]
    outputs = await while_connected(request, service.desk.infer(model, Infer(job=0, inputs=inputs, outputs=names)))
    answer = {
        "model_name": model,
        "model_version": "1",
        "outputs": [from_tensor(tensor) for tensor in outputs.tensors],
    }
    return json_response(answer if wanted.id is None else {**answer, "id": wanted.id})


async def server(_request: Request) -> Response:
    """GET /v2."""
    return json_response({"name": "nsorch", "version": __version__, "extensions": []})


async def live(_request: Request) -> Response:
    """GET /v2/health/live and /v2/health/ready: whoever answers is both."""
    return json_response({"live": True, "ready": True})


async def ready(request: Request) -> Response:
    """GET /v2/models/{model}/ready: it is registered, so the next ask is answered, warm or not."""
    service: Service = request.app.state.service
    return json_response({"name": service.resolve(request.path_params["model"]), "ready": True})


async def metadata(request: Request) -> Response:
    """GET /v2/models/{model}. Inputs and outputs are known once it has been loaded; looking does not load it."""
    service: Service = request.app.state.service
    name = service.resolve(request.path_params["model"])
    loaded = service.loaded(name)
    platform = {"onnx": "onnx_onnxv1", "genai": "onnx_genai"}[service.configuration.models[name].runtime]
    body: dict[str, Any] = {"name": name, "versions": ["1"], "platform": platform, "inputs": [], "outputs": []}
    if loaded is not None:
        body |= {"inputs": [_info(item) for item in loaded.inputs], "outputs": [_info(item) for item in loaded.outputs]}
    return json_response(body)


def _info(tensor: TensorInfo) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}


routes = [
    Route("/v2", server),
    Route("/v2/health/live", live),
    Route("/v2/health/ready", live),
    Route("/v2/models/{model}", metadata),
    Route("/v2/models/{model}/ready", ready),
    Route("/v2/models/{model}/infer", infer, methods=["POST"]),
]
