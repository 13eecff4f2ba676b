"""Reading requests: bodies within bounds, JSON into types, and noticing that the client is gone.

Owns the reading of what a client sends, within the settings in force, and the sentences for what it sent wrong, which
name the field and never repeat its value. Must not know what a request means.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

import msgspec
from starlette.requests import ClientDisconnect

from neuroshell_orch.api.limits import IN_FORCE, PRESENCE, REFUSED, Presence, check_depth, too_large
from neuroshell_orch.errors import OrchError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Coroutine

    from starlette.requests import Request

T = TypeVar("T")


async def read_body(request: Request, limit: int | None = None) -> bytes:
    """The body. Raises OrchError when it is longer than ``limit`` bytes or than text may be, or comes too slowly."""
    most = IN_FORCE.get().max_body
    chunks = [chunk async for chunk in pieces(request, min(most, limit or most), "MaxBody" if limit is None else "")]
    return b"".join(chunks)


async def pieces(request: Request, limit: int, key: str = "") -> AsyncGenerator[bytes, None]:
    """The body as it comes, once. Raises OrchError likewise; ``key`` names the setting that the limit is."""
    announced = request.headers.get("content-length", "")
    if announced.isascii() and announced.isdigit() and (len(announced) > 19 or int(announced) > limit):
        raise too_large(limit, key)
    size, more = 0, True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk, more = message.get("body", b""), message.get("more_body", False)
        size += len(chunk)
        if size > limit:
            raise too_large(limit, key)
        yield chunk
    refusal: OrchError | None = request.scope.get(REFUSED)
    if refusal is not None:
        raise refusal


async def read_json(request: Request, kind: type[T], limit: int | None = None) -> T:
    """The body as ``kind``. Raises OrchError that names the field which does not fit."""
    return parse_json(await read_body(request, limit), kind)


def parse_json(body: bytes | memoryview, kind: type[T]) -> T:
    """JSON text as ``kind``. Raises OrchError."""
    check_depth(body)
    try:
        str(body, "utf-8")  # what no type asks for is skipped unread
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise OrchError("bad-request", f"The request does not fit: {error}.", "") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = "it nests too deeply" if isinstance(error, RecursionError) else _without_content(error)
        raise OrchError("bad-request", f"The body is not valid JSON: {reason}.", "") from None


def _without_content(error: Exception) -> str:
    return "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)


class ClientGone(Exception):  # noqa: N818 - it names what happened; nobody is left who could be told
    """The client closed its connection before it had its answer."""


async def while_connected(request: Request, work: Coroutine[None, None, T]) -> T:
    """The result of ``work``, which is cancelled when the client goes away. Raises ClientGone then.

    The body must have been read before.
    """
    presence: Presence | None = request.scope.get(PRESENCE)
    if presence is not None:
        return await _while_present(presence, work)
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _while_present(presence: Presence, work: Coroutine[None, None, T]) -> T:
    """Likewise, without a task that waits for it to leave."""
    if presence.gone:
        work.close()
        raise ClientGone
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - there is one wherever something is awaited
    others, left = task.cancelling(), False

    def leave() -> None:
        nonlocal left
        left = task.cancel()

    presence.on_leaving = leave
    try:
        return await work
    except asyncio.CancelledError:
        if left and task.cancelling() == others + 1:
            raise ClientGone from None
        raise
    finally:
        presence.on_leaving = None
        if left:
            task.uncancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
