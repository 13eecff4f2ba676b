"""From the worker's request to a response: whole, or as one JSON object a line.

Owns the shapes of chunks and of the last one, with times in nanoseconds. What is text, what is a call and whether an
answer is the JSON that was promised is found out by the voice that OpenAI's convention uses too. Must not know fields
of requests.
"""

from __future__ import annotations

import json
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from starlette.responses import Response

from neuroshell_orch.api.limits import take_seat
from neuroshell_orch.api.ollama_names import instant
from neuroshell_orch.api.openai_voices import ChatVoice
from neuroshell_orch.api.problems import encode, failed_midway, json_response
from neuroshell_orch.api.requests import while_connected
from neuroshell_orch.api.streams import Stream
from neuroshell_orch.errors import OrchError
from neuroshell_orch.workers.protocol import Done

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.requests import Request

    from neuroshell_orch.core.messages import AskOptions
    from neuroshell_orch.service import Service
    from neuroshell_orch.workers.protocol import Generate, Piece

NDJSON: Final = "application/x-ndjson"


class Job(NamedTuple):
    """One request. ``name`` is what the client calls the model; no ``request`` means that nothing is to be written."""

    name: str
    model: str
    request: Generate | None
    options: AskOptions
    started: float
    chat: bool
    stream: bool


def line(value: object) -> bytes:
    """One line of a stream."""
    return encode(value) + b"\n"


def nanoseconds(seconds: float) -> int:
    """As this convention counts time."""
    return round(seconds * 1e9)


def _shown(job: Job, content: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    """A chunk with ``content``; ``tool_calls`` and ``logprobs`` where there are any."""
    head: dict[str, Any] = {"model": job.name, "created_at": instant(time.time())}
    calls, scores = more.get("tool_calls"), more.get("logprobs")
    if job.chat:
        head["message"] = {"role": "assistant", "content": content} | ({"tool_calls": calls} if calls else {})
    else:
        head["response"] = content
    return head | {"done": False} | ({"logprobs": scores} if scores else {})


def said_at_once(job: Job, reason: str) -> Response:
    """The response where nothing was to be written: ``reason`` is load or unload."""
    said = _shown(job, "") | {"done": True, "done_reason": reason}
    return Response(line(said), media_type=NDJSON) if job.stream else json_response(said)


async def respond(request: Request, service: Service, job: Job) -> Response:
    """The response; whatever goes wrong before its first piece has a status of its own."""
    assert job.request is not None  # noqa: S101 - without one there is nothing to write
    if job.stream:
        take_seat(request)
    telling = _Telling(service, job, job.request)
    answer = service.desk.generate(job.model, job.request, job.options)
    if not job.stream:
        return json_response(await while_connected(request, telling.whole(answer)))
    try:
        first = await while_connected(request, _first(answer))
    except BaseException:
        await answer.aclose()
        raise
    return Stream(telling.lines(first, answer), NDJSON)


async def _first(answer: AsyncGenerator[Piece | Done, None]) -> Piece | Done:
    return await anext(answer)


class _Telling:
    """One answer on its way to the client."""

    def __init__(self, service: Service, job: Job, request: Generate) -> None:
        self._service = service
        self._job = job
        self._loaded_before = service.loaded(job.model) is not None
        reader = None
        if request.tools is not None:
            from neuroshell_orch.api.openai_tools import CallReader  # noqa: PLC0415 - most chats have no tools

            reader = CallReader(request.tools)
        self._voice = ChatVoice(reader, is_json=bool(request.schema))

    async def lines(self, first: Piece | Done, rest: AsyncGenerator[Piece | Done, None]) -> AsyncGenerator[bytes, None]:
        """The stream."""
        async with aclosing(rest):
            said: Piece | Done | None = first
            try:
                while said is not None:
                    parts = self._voice.end(said) if isinstance(said, Done) else self._voice.feed(said)
                    for part in parts:
                        content, calls, scores = _read(part)
                        if content or calls or scores:
                            yield line(_shown(self._job, content, tool_calls=calls, logprobs=scores))
                    if isinstance(said, Done):
                        yield line(self._end(_shown(self._job, ""), said))
                        return
                    said = await anext(rest, None)
                raise _unfinished()
            except OrchError as error:
                yield line(failed_midway("/api", error))

    async def whole(self, answer: AsyncGenerator[Piece | Done, None]) -> dict[str, Any]:
        """All of it at once."""
        parts: list[dict[str, Any]] = []
        done: Done | None = None
        async with aclosing(answer):
            async for said in answer:
                if isinstance(said, Done):
                    done = said
                    parts += self._voice.end(said)
                else:
                    parts += self._voice.feed(said)
        if done is None:
            raise _unfinished()
        read = [_read(part) for part in parts]
        calls = [call for _, made, _ in read for call in made]
        scores = [score for *_, given in read for score in given]
        content = "".join(text for text, *_ in read)
        return self._end(_shown(self._job, content, tool_calls=calls, logprobs=scores), done)

    def _end(self, shown: dict[str, Any], done: Done) -> dict[str, Any]:
        loaded = 0.0 if self._loaded_before else self._service.load_seconds(self._job.model) or 0.0
        return shown | {
            "done": True,
            "done_reason": done.reason,
            "total_duration": nanoseconds(time.monotonic() - self._job.started),
            "load_duration": nanoseconds(loaded),
            "prompt_eval_count": done.prompt_tokens,
            "prompt_eval_duration": nanoseconds(done.prefill_seconds),
            "eval_count": done.completion_tokens,
            "eval_duration": nanoseconds(done.decode_seconds),
        }


def _read(part: dict[str, Any]) -> tuple[str, list[Any], list[Any]]:
    """What a part of a choice says: text, calls with their arguments as objects, logprobs."""
    delta, scores = part["delta"], part["logprobs"]
    calls = [
        {
            "id": call["id"],
            "function": {
                "index": call["index"],
                "name": call["function"]["name"],
                "arguments": json.loads(call["function"]["arguments"]),
            },
        }
        for call in delta.get("tool_calls", [])
    ]
    return delta.get("content") or "", calls, scores["content"] if scores else []


def _unfinished() -> OrchError:
    return OrchError("worker-died", "The answer ended without its end.", "Ask again.")
