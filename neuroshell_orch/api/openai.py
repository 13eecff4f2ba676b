"""``/v1``: the part of OpenAI's convention that a chat needs, streaming and not.

Owns the request's fields, the shapes of answers and events, and the refusal of parameters that would change the answer
and that we do not honour. Where no temperature is given, the model's own configuration chooses, not OpenAI's default:
small models need it. Must not know how an answer is made. Our own addition to the last event and to whole answers
is ``timings`` in seconds.
"""

from __future__ import annotations

import time
import uuid
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

import msgspec
from starlette.responses import StreamingResponse
from starlette.routing import Route

from neuroshell_orch.api.problems import body_of, encode, json_response
from neuroshell_orch.api.requests import read_json, while_connected
from neuroshell_orch.errors import OrchError
from neuroshell_orch.workers.protocol import ChatMessage, Done, Generate, Piece

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from starlette.requests import Request
    from starlette.responses import Response

    from neuroshell_orch.service import Service

MAX_CHAT: Final = 16 << 20
"""Bytes of a chat request."""
ROLES: Final = frozenset({"system", "user", "assistant"})


class Part(msgspec.Struct):
    """One part of a message's content; only text is understood."""

    type: str
    text: str = ""


class Turn(msgspec.Struct):
    """One message."""

    role: str
    content: str | list[Part] | None = None


class StreamOptions(msgspec.Struct):
    """How a stream ends."""

    include_usage: bool = False


class ChatRequest(msgspec.Struct):
    """Body of POST /v1/chat/completions. Fields that only label a request (user, metadata…) are accepted."""

    messages: list[Turn]
    model: str | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    n: int | None = None
    # Understood well enough to be refused: each would change the answer.
    tools: Any = None
    functions: Any = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    response_format: Any = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: Any = None
    audio: Any = None


def _refuse_unsupported(wanted: ChatRequest) -> None:
    text = isinstance(wanted.response_format, dict) and wanted.response_format.get("type") == "text"
    asked = {
        "n": wanted.n not in {None, 1},
        "tools": bool(wanted.tools),
        "functions": bool(wanted.functions),
        "logprobs": bool(wanted.logprobs) or bool(wanted.top_logprobs),
        "response_format": wanted.response_format is not None and not text,
        "frequency_penalty": bool(wanted.frequency_penalty),
        "presence_penalty": bool(wanted.presence_penalty),
        "logit_bias": bool(wanted.logit_bias),
        "audio": wanted.audio is not None,
    }
    names = [name for name, present in asked.items() if present]
    if names:
        raise OrchError("unsupported", f"Not supported yet: {', '.join(names)}.", "Leave it out of the request.")


def _message(turn: Turn, index: int) -> ChatMessage:
    role = "system" if turn.role == "developer" else turn.role
    if role not in ROLES:
        known = ", ".join(sorted(ROLES))
        raise OrchError("bad-request", f"messages[{index}].role is {turn.role[:40]!r}.", f"Known roles: {known}.")
    if isinstance(turn.content, list):
        if any(part.type != "text" for part in turn.content):
            raise OrchError("unsupported", f"messages[{index}].content has parts that are not text.", "")
        text = "".join(part.text for part in turn.content)
    else:
        text = turn.content or ""
    if "\0" in text:  # the runtime's tokenizer would silently end there
        raise OrchError("bad-request", f"messages[{index}].content holds a NUL character.", "Send text.")
    return ChatMessage(role, text)


def _between(name: str, value: float | None, low: float, high: float) -> None:
    if value is not None and not low <= value <= high:
        raise OrchError("bad-request", f"{name} is {value:g}, and must be between {low:g} and {high:g}.", "")


def to_generate(wanted: ChatRequest) -> Generate:
    """The worker's request. Raises OrchError that names what cannot be done."""
    _refuse_unsupported(wanted)
    _between("temperature", wanted.temperature, 0, 2)
    _between("top_p", wanted.top_p, 0, 1)
    _between("top_k", wanted.top_k, 0, 1 << 20)
    _between("seed", wanted.seed, -1, 2**63 - 1)
    limit = wanted.max_completion_tokens if wanted.max_completion_tokens is not None else wanted.max_tokens
    _between("max_tokens", limit, 1, 1 << 24)
    messages = [_message(turn, index) for index, turn in enumerate(wanted.messages)]
    if not any(message.role == "user" and message.content.strip() for message in messages):
        raise OrchError("empty-prompt", "The prompt is empty.", "Say something in a message with the role user.")
    temperature = wanted.temperature
    if temperature is None:
        temperature = -1.0 if wanted.top_p is None and wanted.top_k is None else 1.0
    stop = [wanted.stop] if isinstance(wanted.stop, str) else (wanted.stop or [])
    return Generate(
        job=0,
        messages=messages,
        max_tokens=limit or 0,
        temperature=temperature,
        top_p=1.0 if wanted.top_p is None else wanted.top_p,
        top_k=wanted.top_k or 0,
        seed=-1 if wanted.seed is None else wanted.seed,
        stop=[text for text in stop if text],
    )


def _usage(done: Done) -> dict[str, int]:
    total = done.prompt_tokens + done.completion_tokens
    return {"prompt_tokens": done.prompt_tokens, "completion_tokens": done.completion_tokens, "total_tokens": total}


def _timings(done: Done, load_seconds: float | None) -> dict[str, float | None]:
    return {
        "prefill_seconds": done.prefill_seconds,
        "decode_seconds": done.decode_seconds,
        "load_seconds": load_seconds,
    }


async def _whole(service: Service, model: str, request: Generate, head: dict[str, Any]) -> dict[str, Any]:
    text: list[str] = []
    done: Done | None = None
    async with aclosing(service.desk.generate(model, request)) as answer:
        async for item in answer:
            if isinstance(item, Piece):
                text.append(item.text)
            else:
                done = item
    if done is None:
        raise OrchError("worker-died", "The answer ended without its end.", "Ask again.")
    message = {"role": "assistant", "content": "".join(text)}
    return {
        **head,
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": done.reason}],
        "usage": _usage(done),
        "timings": _timings(done, service.load_seconds(model)),
    }


def _event(value: object) -> bytes:
    return b"data: " + encode(value) + b"\n\n"


async def _stream(
    service: Service, model: str, first: Piece | Done, rest: AsyncGenerator[Piece | Done, None], head: dict[str, Any]
) -> AsyncIterator[bytes]:
    """Server-sent events. ``head["usage"]`` says whether the last one carries the usage."""
    with_usage = head.pop("usage")
    head["object"] = "chat.completion.chunk"

    def chunk(delta: dict[str, str], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return _event({**head, "choices": [choice]})

    async with aclosing(rest):
        yield chunk({"role": "assistant", "content": ""})
        item: Piece | Done | None = first
        try:
            while isinstance(item, Piece):
                yield chunk({"content": item.text})
                item = await anext(rest, None)
        except OrchError as error:
            yield _event(body_of("/v1", error))
            return
        if item is not None:
            yield chunk({}, item.reason)
            if with_usage:
                timings = _timings(item, service.load_seconds(model))
                yield _event({**head, "choices": [], "usage": _usage(item), "timings": timings})
        yield b"data: [DONE]\n\n"


async def chat(request: Request) -> Response:
    """POST /v1/chat/completions."""
    service: Service = request.app.state.service
    wanted = await read_json(request, ChatRequest, MAX_CHAT)
    generate = to_generate(wanted)
    model = service.resolve(wanted.model)
    service.require_runtime(model, "genai")
    head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
    if not wanted.stream:
        return json_response(await while_connected(request, _whole(service, model, generate, head)))
    # The first piece is awaited here, so that whatever goes wrong before it still has a status of its own.
    answer = service.desk.generate(model, generate)
    try:
        first = await while_connected(request, _first(answer))
    except BaseException:
        await answer.aclose()
        raise
    head["usage"] = wanted.stream_options is not None and wanted.stream_options.include_usage
    events = _stream(service, model, first, answer, head)
    return StreamingResponse(events, headers={"Cache-Control": "no-cache"}, media_type="text/event-stream")


async def _first(answer: AsyncGenerator[Piece | Done, None]) -> Piece | Done:
    return await anext(answer)


async def models(request: Request) -> Response:
    """GET /v1/models."""
    service: Service = request.app.state.service
    created = int(service.started)
    data = [
        {"id": name, "object": "model", "created": created, "owned_by": "nsorch"}
        for name in service.configuration.models
    ]
    return json_response({"object": "list", "data": data})


async def model(request: Request) -> Response:
    """GET /v1/models/{model}."""
    service: Service = request.app.state.service
    name = service.resolve(request.path_params["model"])
    return json_response({"id": name, "object": "model", "created": int(service.started), "owned_by": "nsorch"})


routes = [
    Route("/v1/chat/completions", chat, methods=["POST"]),
    Route("/v1/models", models),
    Route("/v1/models/{model}", model),
]
