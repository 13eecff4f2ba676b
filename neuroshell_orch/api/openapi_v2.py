"""The routes of ``/v2`` in words and types: the Open Inference Protocol.

Owns the types of its answers, which the handlers build by hand; tests hold the answers to them. Must not know how
anything is done.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec import UNSET, Struct, UnsetType

from neuroshell_orch.api.oip import ControlRequest, IndexRequest, RegisterRequest
from neuroshell_orch.api.oip_body import HEADER
from neuroshell_orch.api.oip_infer import InferRequest
from neuroshell_orch.api.openapi_parts import ASK, BODY, LOAD, NAMED, REPLAYED, Operation


class ServerMetadata(Struct):
    """The server and what it can."""

    name: str
    version: str
    extensions: list[str]


class Live(Struct):
    """Whoever answers is alive."""

    live: bool


class ServerReady(Struct):
    """Whoever answers takes requests."""

    ready: bool


class ModelReady(Struct):
    """An inference would be answered."""

    name: str
    ready: bool


class TensorMetadata(Struct):
    """One input or output; a dimension of any size is -1."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(Struct):
    """What a model takes and returns."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ConfiguredTensor(Struct):
    """The same in the words of a model configuration."""

    name: str
    data_type: str
    dims: list[int]


class ModelConfig(Struct):
    """The same facts in the words of a model configuration."""

    name: str
    platform: str
    backend: str
    max_batch_size: int
    input: list[ConfiguredTensor]
    output: list[ConfiguredTensor]


class Count(Struct):
    """How often, and how many nanoseconds together."""

    count: int
    ns: int


class InferenceStats(Struct):
    """Where the time went."""

    success: Count
    fail: Count
    queue: Count
    compute_input: Count
    compute_infer: Count
    compute_output: Count
    cache_hit: Count
    cache_miss: Count


class ModelStatistics(Struct):
    """The figures of one model since the service started."""

    name: str
    version: str
    last_inference: int
    """Milliseconds since 1970, or 0."""
    inference_count: int
    execution_count: int
    inference_stats: InferenceStats
    batch_stats: list[Any]
    memory_usage: list[Any]


class Statistics(Struct):
    """The figures of one model or of all."""

    model_stats: list[ModelStatistics]


class OutputTensor(Struct):
    """One output: its values are in ``data``, behind the JSON, or in shared memory."""

    name: str
    datatype: str
    shape: list[int]
    data: list[Any] | UnsetType = UNSET
    parameters: dict[str, Any] | UnsetType = UNSET
    """``binary_data_size``, or where in shared memory it is."""


class InferAnswer(Struct):
    """What the model returns."""

    model_name: str
    model_version: str
    outputs: list[OutputTensor]
    id: str | UnsetType = UNSET


class IndexEntry(Struct):
    """One registered model."""

    name: str
    version: str
    state: str
    """READY, LOADING, UNLOADING or UNAVAILABLE."""
    reason: str


class SharedRegion(Struct):
    """A registered region of shared memory."""

    name: str
    key: str
    offset: int
    byte_size: int


class Nothing(Struct):
    """An empty object."""


_READ: Final = NAMED | {"not-found", "file-missing", "model-invalid"}
_SHARED: Final = "/v2/systemsharedmemory"
_RAW: Final = (
    f"JSON, whose length in bytes is the header `{HEADER}`, and behind it the raw little-endian values of the tensors "
    "that have `binary_data_size` among their parameters, in their order."
)
_INFER_NOTE: Final = (
    "NaN and the infinities are the words `NaN`, `Infinity` and `-Infinity` in JSON. Values are in `data`, in binary "
    "form behind the JSON, or in registered shared memory. Parameters of the request: `binary_data_output`, "
    "`priority` (1 is the highest), `timeout` in µs, and ours, `keep_alive`. All others are refused by name."
)
_INFER_EXAMPLE: Final = {"inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "data": [0.5, 1.5]}]}


def _versioned(leaf: str, summary: str, answer: Any) -> list[Operation]:  # noqa: ANN401 - a type
    """A look at a model, with and without a version in the path."""
    paths = (f"/v2/models/{{model}}{leaf}", f"/v2/models/{{model}}/versions/{{version}}{leaf}")
    problems = _READ | ({"not-ready"} if leaf == "/ready" else set())
    return [Operation("GET", path, summary, answer, problems=problems) for path in paths]


def _infer(path: str) -> Operation:
    return Operation(
        "POST",
        path,
        "Run a tensor model",
        InferAnswer,
        InferRequest,
        ASK | REPLAYED | {"not-found", "no-space"},
        _INFER_NOTE,
        raw=_RAW,
        replays=True,
        example=_INFER_EXAMPLE,
    )


def _control(what: str, summary: str, problems: frozenset[str]) -> Operation:
    path = f"/v2/repository/models/{{model}}/{what}"
    return Operation("POST", path, summary, Nothing, ControlRequest, problems, optional=True, example={})


def _cuda(method: str) -> Operation:
    path, summary = "/v2/cudasharedmemory/{rest}", "CUDA shared memory: refused, since the service never opens a GPU"
    return Operation(method, path, summary, problems=frozenset({"unsupported"}), never=True)


OPERATIONS: Final = [
    Operation("GET", "/v2", "Describe the server", ServerMetadata),
    Operation("GET", "/v2/health/live", "Is it alive", Live),
    Operation("GET", "/v2/health/ready", "Does it take requests", ServerReady),
    *_versioned("", "What a model takes and returns", ModelMetadata),
    *_versioned(
        "/ready", "Would an inference be answered: a cold model is ready, since it is loaded on demand", ModelReady
    ),
    *_versioned("/config", "The same in the words of a model configuration", ModelConfig),
    *_versioned("/stats", "How often it was asked, and where the time went", Statistics),
    Operation("GET", "/v2/models/stats", "The figures of all models", Statistics),
    _infer("/v2/models/{model}/infer"),
    _infer("/v2/models/{model}/versions/{version}/infer"),
    Operation(
        "POST",
        "/v2/repository/index",
        "List the registered models and their states",
        list[IndexEntry],
        IndexRequest,
        BODY,
        optional=True,
        example={"ready": True},
    ),
    _control("load", "Load a model and wait for it", LOAD | NAMED | BODY),
    _control("unload", "Give a model's memory back and wait for it", NAMED | BODY | {"unsupported"}),
    Operation("GET", f"{_SHARED}/status", "List the regions of shared memory", list[SharedRegion]),
    Operation(
        "GET",
        f"{_SHARED}/region/{{region}}/status",
        "Describe one region",
        list[SharedRegion],
        problems=frozenset({"not-found"}),
    ),
    Operation(
        "POST",
        f"{_SHARED}/region/{{region}}/register",
        "Register a region",
        Nothing,
        RegisterRequest,
        BODY | {"not-found", "queue-full"},
        "Only objects of the same user in /dev/shm, and only where `SharedMemory=yes`.",
        example={"key": "/name", "byte_size": 64},
    ),
    Operation("POST", f"{_SHARED}/unregister", "Forget all regions", Nothing),
    Operation("POST", f"{_SHARED}/region/{{region}}/unregister", "Forget one region", Nothing),
    _cuda("GET"),
    _cuda("POST"),
]
