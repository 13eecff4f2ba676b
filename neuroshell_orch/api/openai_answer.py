"""From the worker's requests to a response: one or several answers, whole or as server-sent events.

Owns the asking of several answers side by side, their end when one of them fails or the client is gone, the usage, and
the order of events. Must not know fields of requests or shapes of choices. Our own addition to the last event and to
whole answers is ``timings`` in seconds.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from neuroshell_orch.api.limits import take_seat
from neuroshell_orch.api.problems import encode, failed_midway, json_response
from neuroshell_orch.api.progress import comments, shortly
from neuroshell_orch.api.requests import while_connected
from neuroshell_orch.api.streams import Stream
from neuroshell_orch.api.timeline import traced
from neuroshell_orch.errors import OrchError
from neuroshell_orch.workers.protocol import Done

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.requests import Request
    from starlette.responses import Response

    from neuroshell_orch.api.openai_voices import Voice
    from neuroshell_orch.core.messages import AskOptions
    from neuroshell_orch.service import Service
    from neuroshell_orch.workers.protocol import Generate, Piece

_AHEAD: Final = 64
"""Pieces of answers side by side that may wait for the client."""


class Job(NamedTuple):
    """One request: ``voices`` and ``requests`` go together, ``each`` of them for one prompt."""

    model: str
    requests: list[Generate]
    voices: list[Voice]
    options: AskOptions
    each: int = 1
    stream: bool = False
    usage: bool = False
    kind: str = "chat.completion"
    chunk: str = "chat.completion.chunk"
    mark: str = "chatcmpl"


async def respond(request: Request, service: Service, job: Job) -> Response:
    """The response; whatever goes wrong before it begins has a status of its own, see ``progress``."""
    asked = time.monotonic()
    if job.stream:
        take_seat(request)
    head = {"id": f"{job.mark}-{uuid.uuid4().hex}", "created": int(time.time()), "model": job.model}
    answers = _side_by_side([service.desk.generate(job.model, wanted, job.options) for wanted in job.requests])
    if not job.stream:
        return json_response(await while_connected(request, _whole(service, job, answers, head)))
    first = asyncio.ensure_future(_first(answers))
    try:
        await shortly(request, first)
    except BaseException:
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await answers.aclose()
        raise
    events = traced(request, service, job.model, asked, _stream(service, job, first, answers, head))
    return Stream(events, "text/event-stream", {"Cache-Control": "no-cache"})


async def _first(answers: AsyncGenerator[tuple[int, Piece | Done], None]) -> tuple[int, Piece | Done]:
    return await anext(answers)


async def _side_by_side(
    answers: list[AsyncGenerator[Piece | Done, None]],
) -> AsyncGenerator[tuple[int, Piece | Done], None]:
    """What all of them say, with their number. All end with the first that fails, and when this is closed."""
    if len(answers) == 1:
        async with aclosing(answers[0]) as only:
            async for item in only:
                yield 0, item
        return
    said: asyncio.Queue[tuple[int, Piece | Done | OrchError]] = asyncio.Queue(_AHEAD)

    async def listen(number: int, answer: AsyncGenerator[Piece | Done, None]) -> None:
        try:
            async with aclosing(answer):
                async for item in answer:
                    await said.put((number, item))
        except OrchError as error:
            await said.put((number, error))

    # All at once: a mode that unloads after each answer keeps the model until the last of them.
    tasks = [asyncio.create_task(listen(number, answer)) for number, answer in enumerate(answers)]
    try:
        running = len(tasks)
        while running:
            number, news = await said.get()
            if isinstance(news, OrchError):
                raise news
            running -= isinstance(news, Done)
            yield number, news
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _whole(
    service: Service, job: Job, answers: AsyncGenerator[tuple[int, Piece | Done], None], head: dict[str, Any]
) -> dict[str, Any]:
    ends: dict[int, Done] = {}
    async with aclosing(answers):
        async for number, item in answers:
            if isinstance(item, Done):
                job.voices[number].end(item)
                ends[number] = item
            else:
                job.voices[number].feed(item)
    if len(ends) < len(job.voices):
        raise OrchError("worker-died", "The answer ended without its end.", "Ask again.")
    choices = [{"index": number, **voice.whole()} for number, voice in enumerate(job.voices)]
    return {**head, "object": job.kind, "choices": choices, **_figures(service, job, ends)}


def _figures(service: Service, job: Job, ends: dict[int, Done]) -> dict[str, Any]:
    """Usage and timings: a prompt counts once, however many answers it had."""
    prompt = sum(done.prompt_tokens for number, done in ends.items() if number % job.each == 0)
    cached = sum(done.cached_tokens for number, done in ends.items() if number % job.each == 0)
    completion = sum(done.completion_tokens for done in ends.values())
    return {
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": cached},
        },
        "timings": {
            "prefill_seconds": sum(done.prefill_seconds for done in ends.values()),
            "decode_seconds": sum(done.decode_seconds for done in ends.values()),
            "load_seconds": service.load_seconds(job.model),
        },
    }


def _event(value: object) -> bytes:
    return b"data: " + encode(value) + b"\n\n"


async def _stream(
    service: Service,
    job: Job,
    first: asyncio.Future[tuple[int, Piece | Done]],
    rest: AsyncGenerator[tuple[int, Piece | Done], None],
    head: dict[str, Any],
) -> AsyncGenerator[bytes, None]:
    head["object"] = job.chunk
    begun: set[int] = set()
    ends: dict[int, Done] = {}

    def events(number: int, item: Piece | Done) -> list[bytes]:
        voice, parts = job.voices[number], []
        if number not in begun:
            begun.add(number)
            parts = voice.start()
        if isinstance(item, Done):
            ends[number] = item
            parts = parts + voice.end(item)
        else:
            parts = parts + voice.feed(item)
        return [_event({**head, "choices": [{"index": number, **part}]}) for part in parts]

    async with aclosing(rest):
        async with aclosing(comments(first, service, job.model)) as waiting:
            async for comment in waiting:
                yield comment
        try:
            said: tuple[int, Piece | Done] | None = first.result()
            while said is not None:
                for event in events(*said):
                    yield event
                said = await anext(rest, None)
        except OrchError as error:
            yield _event(failed_midway("/v1", error))
            return
    if job.usage:
        yield _event({**head, "choices": [], **_figures(service, job, ends)})
    yield b"data: [DONE]\n\n"
