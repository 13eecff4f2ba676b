"""The routes of ``/v1`` in words and types: OpenAI's convention.

Owns the types of its answers, which the handlers build by hand; tests hold the answers to them. Must not know how
anything is done.
"""

from __future__ import annotations

from typing import Final, Literal

from msgspec import UNSET, Struct, UnsetType

from neuroshell_orch.api.embeddings_answer import EmbeddingsRequest
from neuroshell_orch.api.openai_request import ChatRequest
from neuroshell_orch.api.openai_text import TextRequest
from neuroshell_orch.api.openapi_parts import ASK, NAMED, REPLAYED, Items, Operation


class OpenAIProblem(Struct):
    """What went wrong."""

    message: str
    """The whole of it, for people."""
    type: str
    """OpenAI's own coarse kinds, which its packages turn into exceptions."""
    param: None
    code: str
    """Our problem code."""
    hint: str
    """What to do about it."""


class OpenAIError(Struct):
    """The body of every error on ``/v1``."""

    error: OpenAIProblem


class OpenAIModel(Struct):
    """A registered model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class OpenAIModels(Struct):
    """All registered models."""

    object: Literal["list"]
    data: list[OpenAIModel]


class Alternative(Struct):
    """A token and how likely it was."""

    token: str
    logprob: float
    bytes: list[int] | None
    """None where the token is a part of a character."""


class ScoredToken(Alternative, kw_only=True):
    """A token that was chosen, and what else might have been."""

    top_logprobs: list[Alternative]


class Scores(Struct):
    """The likelihoods of an answer's tokens."""

    content: list[ScoredToken]
    refusal: None


class FunctionCall(Struct):
    """Which function is called; ``arguments`` is JSON text."""

    name: str
    arguments: str


class ToolCall(Struct, kw_only=True):
    """A call that the answer makes."""

    index: int | UnsetType = UNSET
    """In streams only."""
    id: str
    type: Literal["function"]
    function: FunctionCall


class AssistantMessage(Struct):
    """The answer."""

    role: Literal["assistant"]
    content: str | None
    tool_calls: list[ToolCall] | UnsetType = UNSET


class ChatChoice(Struct):
    """One answer."""

    index: int
    message: AssistantMessage
    logprobs: Scores | None
    finish_reason: str
    """stop, length or tool_calls."""


class PromptTokens(Struct):
    """Of the prompt's tokens: how many were known from an earlier prompt that begins alike."""

    cached_tokens: int


class Usage(Struct):
    """Counted tokens; a prompt counts once, however many answers it has."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokens


class Timings(Struct):
    """Ours: measured seconds. ``load_seconds`` is None where the model's worker is gone already."""

    prefill_seconds: float
    decode_seconds: float
    load_seconds: float | None


class ChatCompletion(Struct):
    """A whole answer."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    timings: Timings


class Delta(Struct):
    """What is new."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    tool_calls: list[ToolCall] | UnsetType = UNSET


class ChatChunkChoice(Struct):
    """What is new of one answer."""

    index: int
    delta: Delta
    logprobs: Scores | None
    finish_reason: str | None


class ChatCompletionChunk(Struct):
    """One event. The last one has ``usage`` and ``timings``, where ``stream_options`` asked for them."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | UnsetType = UNSET
    timings: Timings | UnsetType = UNSET


class TextScores(Struct):
    """Lists side by side, one entry for each token."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TextChoice(Struct):
    """One continuation, or what is new of it."""

    index: int
    text: str
    logprobs: TextScores | None
    finish_reason: str | None


class Completion(Struct):
    """A whole answer, or one event of it; events have ``usage`` and ``timings`` only where they were asked for."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage | UnsetType = UNSET
    timings: Timings | UnsetType = UNSET


class Embedding(Struct):
    """One vector: numbers, or with ``base64`` their bytes (little-endian float32)."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingsUsage(Struct):
    """Counted tokens, and how many of the inputs were longer than the model reads."""

    prompt_tokens: int
    total_tokens: int
    truncated: int


class Embeddings(Struct):
    """The vectors, in the order of the inputs."""

    object: Literal["list"]
    model: str
    data: list[Embedding]
    usage: EmbeddingsUsage


_SAY: Final = [{"role": "user", "content": "Why is the sky blue?"}]

OPERATIONS: Final = [
    Operation(
        "POST",
        "/v1/chat/completions",
        "Answer a conversation",
        ChatCompletion,
        ChatRequest,
        ASK | REPLAYED,
        "The model is loaded if it is not warm. Fields that would change the answer and are not supported are refused"
        " by name, and so is a field that is not known. With `stream` the answer comes as server-sent events, the "
        "last of which is `[DONE]`; an error after the first event is an event of its own.",
        Items("text/event-stream", ChatCompletionChunk),
        replays=True,
        example={"model": "smollm2-135m", "messages": _SAY, "max_tokens": 64},
    ),
    Operation(
        "POST",
        "/v1/completions",
        "Continue a text",
        Completion,
        TextRequest,
        ASK | REPLAYED,
        "The prompt goes to the model as it is, without its chat template. `max_tokens` is 16 where none is given.",
        Items("text/event-stream", Completion),
        replays=True,
        example={"model": "smollm2-135m", "prompt": "Once upon a time", "max_tokens": 32},
    ),
    Operation(
        "POST",
        "/v1/embeddings",
        "Turn texts into vectors",
        Embeddings,
        EmbeddingsRequest,
        ASK | REPLAYED,
        "Where no model is named, the only encoder is meant. A text that is longer than the model reads is cut off, "
        "and `usage.truncated` counts those.",
        replays=True,
        example={"model": "all-minilm-l6-v2", "input": ["the sky is blue", "grass is green"]},
    ),
    Operation("GET", "/v1/models", "List the registered models", OpenAIModels),
    Operation("GET", "/v1/models/{model}", "Describe one model", OpenAIModel, problems=NAMED),
]
