"""The routes of ``/api`` in words and types: Ollama's convention.

Owns the types of its answers, which the handlers build by hand; tests hold the answers to them. Must not know how
anything is done.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from msgspec import UNSET, Struct, UnsetType

from neuroshell_orch.api.ollama_answer import NDJSON
from neuroshell_orch.api.ollama_embed import EmbedBody, OldBody
from neuroshell_orch.api.ollama_models import CopyBody, Named
from neuroshell_orch.api.ollama_pull import PullBody
from neuroshell_orch.api.ollama_request import ChatBody, GenerateBody
from neuroshell_orch.api.openapi_parts import ASK, BODY, CONFIG, NAMED, REPLAYED, Items, Operation
from neuroshell_orch.api.openapi_v1 import ScoredToken


class PlainError(Struct):
    """The body of every error on ``/api`` and ``/v2``."""

    error: str
    """The whole of it, for people."""
    problem: str
    """Our problem code."""
    hint: str
    """What to do about it."""


class Versions(Struct):
    """Versions: Ollama's whose interface this is, and our own."""

    version: str
    nsorch: str


class _Said(Struct, kw_only=True):
    model: str
    created_at: str
    done: bool
    logprobs: list[ScoredToken] | UnsetType = UNSET
    done_reason: str | UnsetType = UNSET
    """stop, length, load or unload; in the last object."""
    total_duration: int | UnsetType = UNSET
    """Nanoseconds, as all durations here."""
    load_duration: int | UnsetType = UNSET
    prompt_eval_count: int | UnsetType = UNSET
    """Tokens of the prompt."""
    prompt_eval_duration: int | UnsetType = UNSET
    eval_count: int | UnsetType = UNSET
    """Tokens of the answer."""
    eval_duration: int | UnsetType = UNSET


class GenerateAnswer(_Said, kw_only=True):
    """An answer, or what is new of it; the last object of a stream has ``done`` and the figures."""

    response: str


class MadeCallFunction(Struct):
    """Which function is called."""

    index: int
    name: str
    arguments: dict[str, Any]


class AnswerCall(Struct):
    """A call that the answer makes."""

    id: str
    function: MadeCallFunction


class AnswerMessage(Struct):
    """The answer, or what is new of it."""

    role: Literal["assistant"]
    content: str
    tool_calls: list[AnswerCall] | UnsetType = UNSET


class ChatAnswer(_Said, kw_only=True):
    """An answer, or what is new of it; the last object of a stream has ``done`` and the figures."""

    message: AnswerMessage


class EmbedAnswer(Struct):
    """The vectors, in the order of the inputs."""

    model: str
    embeddings: list[list[float]]
    total_duration: int
    load_duration: int
    prompt_eval_count: int


class OldEmbedAnswer(Struct):
    """The vector."""

    embedding: list[float]


class ModelDetails(Struct):
    """What its files say."""

    parent_model: str
    format: str
    family: str
    families: list[str] | None
    parameter_size: str
    quantization_level: str


class ListedModel(Struct):
    """A registered model."""

    name: str
    model: str
    modified_at: str
    size: int
    """Bytes on disk."""
    digest: str
    details: ModelDetails


class ListedModels(Struct):
    """The registered models, the newest first."""

    models: list[ListedModel]


class RunningModel(Struct):
    """A model whose weights are loaded."""

    name: str
    model: str
    size: int
    """Bytes of memory, as the kernel counts them."""
    digest: str
    details: ModelDetails
    expires_at: str
    """When it rests if nobody asks; far in the future where it stays."""
    size_vram: int
    context_length: int


class RunningModels(Struct):
    """The models whose weights are loaded."""

    models: list[RunningModel]


class ShownModel(Struct, kw_only=True):
    """Everything about one model."""

    modelfile: str
    parameters: str
    template: str
    details: ModelDetails
    model_info: dict[str, Any]
    capabilities: list[str]
    modified_at: str
    license: str | UnsetType = UNSET


class PullStep(Struct):
    """How far a pull is; the last one is ``success``."""

    status: str
    digest: str | UnsetType = UNSET
    total: int | UnsetType = UNSET
    """Bytes."""
    completed: int | UnsetType = UNSET


_SAY: Final = [{"role": "user", "content": "Why is the sky blue?"}]
_LOADS: Final = (
    "An empty one loads the model, and with `keep_alive` 0 unloads it. It streams, one JSON object a line, unless "
    "`stream` is false; an error after the first line is a line of its own."
)
_UNMADE: Final = "Models are not made from Modelfiles here: refused. Use `nsorch model add`"
_NEVER: Final = frozenset({"unsupported"})

OPERATIONS: Final = [
    Operation("GET", "/", "Where clients look whether anybody is there", plain="Ollama is running"),
    Operation("GET", "/api/version", "Which version of the interface this is", Versions),
    Operation(
        "POST",
        "/api/generate",
        "Answer a prompt",
        GenerateAnswer,
        GenerateBody,
        ASK | REPLAYED,
        f"{_LOADS} Unknown fields are ignored, as Ollama does.",
        Items(NDJSON, GenerateAnswer),
        replays=True,
        example={"model": "smollm2-135m", "prompt": "Why is the sky blue?", "stream": False},
    ),
    Operation(
        "POST",
        "/api/chat",
        "Answer a conversation",
        ChatAnswer,
        ChatBody,
        ASK | REPLAYED,
        _LOADS,
        Items(NDJSON, ChatAnswer),
        replays=True,
        example={"model": "smollm2-135m", "messages": _SAY, "stream": False},
    ),
    Operation(
        "POST",
        "/api/embed",
        "Turn texts into vectors",
        EmbedAnswer,
        EmbedBody,
        ASK | REPLAYED,
        "No text at all loads the model.",
        replays=True,
        example={"model": "all-minilm-l6-v2", "input": ["the sky is blue", "grass is green"]},
    ),
    Operation(
        "POST",
        "/api/embeddings",
        "Turn one text into a vector, as older clients ask it",
        OldEmbedAnswer,
        OldBody,
        ASK | REPLAYED,
        replays=True,
        example={"model": "all-minilm-l6-v2", "prompt": "the sky is blue"},
    ),
    Operation("GET", "/api/tags", "List the registered models", ListedModels),
    Operation("GET", "/api/ps", "List the models whose weights are loaded", RunningModels),
    Operation(
        "POST",
        "/api/show",
        "Describe one model",
        ShownModel,
        Named,
        BODY | NAMED | {"unsupported"},
        example={"model": "smollm2-135m"},
    ),
    Operation(
        "POST",
        "/api/copy",
        "Give a model a second name",
        body=CopyBody,
        problems=BODY | NAMED | CONFIG | {"model-exists", "file-missing", "model-invalid"},
        example={"source": "smollm2-135m", "destination": "mine"},
    ),
    Operation(
        "DELETE",
        "/api/delete",
        "Forget a model, and delete what was made for it here",
        body=Named,
        problems=BODY | NAMED | CONFIG | {"file-missing"},
        example={"model": "mine"},
    ),
    Operation(
        "POST",
        "/api/pull",
        "Fetch a model of the catalogue",
        PullStep,
        PullBody,
        BODY | NAMED | CONFIG | {"download-failed", "model-exists", "model-invalid", "file-missing", "unsupported"},
        "It streams its progress unless `stream` is false. The pull ends with the last client that follows it; what "
        "came is kept.",
        Items(NDJSON, PullStep),
    ),
    Operation("POST", "/api/create", _UNMADE, problems=_NEVER, never=True),
    Operation("POST", "/api/blobs/{digest}", _UNMADE, problems=_NEVER, never=True),
    Operation("HEAD", "/api/blobs/{digest}", _UNMADE, problems=_NEVER, never=True),
    Operation("POST", "/api/push", "Models stay on this machine: refused", problems=_NEVER, never=True),
]
