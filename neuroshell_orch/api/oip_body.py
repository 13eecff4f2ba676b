"""The bodies of ``/v2/…/infer``: JSON in front, raw tensors behind it, in both directions.

Owns the split of a request, the bounds on its JSON part, and an answer that is sent in pieces. Big tensors are the
point of it: a request's body is read once into one buffer, of which everything else is a view, and an answer is
written from the buffers that the worker's frame was decoded into. Must not know what a tensor means.
"""

from __future__ import annotations

import asyncio
import sys
import zlib
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from starlette.responses import Response

from neuroshell_orch.api.limits import IN_FORCE, too_large
from neuroshell_orch.api.oip_data import decode_bare_words
from neuroshell_orch.api.problems import encode
from neuroshell_orch.api.requests import parse_json, pieces
from neuroshell_orch.errors import OrchError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

T = TypeVar("T")

HEADER: Final = "Inference-Header-Content-Length"
MAX_JSON: Final = 16 << 20
"""Bytes of JSON: it becomes objects of many times its size, and whatever is larger has a binary form."""
_CHUNK: Final = 1 << 18


async def read(request: Request) -> tuple[memoryview, memoryview]:
    """The JSON of a request and the raw tensors behind it. Raises OrchError."""
    coding = request.headers.get("content-encoding", "identity").lower()
    content = await _read(request)
    body = memoryview(content if coding == "identity" else await asyncio.to_thread(_decompress, content, coding))
    given = request.headers.get(HEADER)
    if given is None:
        length = len(body)
    elif not (given.isascii() and given.isdigit() and len(given) < 20) or int(given) > len(body):
        raise OrchError("bad-request", f"{HEADER} is {given[:40]!r}, and the body has {len(body)} bytes.", "")
    else:
        length = int(given)
    if length > MAX_JSON:
        message = f"The JSON of this request is longer than {MAX_JSON >> 20} MiB."
        raise OrchError("bad-request", message, f"Send large tensors in binary form ({HEADER}).")
    return body[:length], body[length:]


async def _read(request: Request) -> bytearray:
    announced = request.headers.get("content-length", "")
    expected = int(announced) if announced.isascii() and announced.isdigit() and len(announced) < 20 else 0
    most = IN_FORCE.get().max_tensor_body
    body, size = bytearray(expected if expected <= most else 0), 0
    async for chunk in pieces(request, most, "MaxTensorBody"):
        size += len(chunk)
        body[size - len(chunk) : size] = chunk
    return body


def _decompress(content: bytearray, coding: str) -> bytes:
    if coding not in {"gzip", "deflate"}:
        message = f"The body is compressed in a way that is not known ({coding[:40]})."
        raise OrchError("unsupported", message, "Send it as it is, or with gzip or deflate.")
    worker = zlib.decompressobj(zlib.MAX_WBITS | 32)  # told apart by their first bytes
    most = IN_FORCE.get().max_tensor_body
    try:
        whole = worker.decompress(content, min(most + 1, sys.maxsize))
    except zlib.error:
        raise OrchError("bad-request", f"The body is not what {coding} makes.", "") from None
    if len(whole) > most:
        raise too_large(most, "MaxTensorBody")
    if not worker.eof or worker.unused_data:
        raise OrchError(
            "bad-request", f"The body is not what {coding} makes: it is cut off, or goes on behind its end."
        )
    return whole


def parse(text: memoryview, kind: type[T]) -> T:
    """The JSON as ``kind``; NaN and infinity may stand in it as bare words. Raises OrchError."""
    try:
        return parse_json(text, kind)
    except OrchError as error:
        whole = bytes(text)
        if error.problem != "bad-request" or (b"NaN" not in whole and b"Infinity" not in whole):
            raise
        try:
            return msgspec.convert(decode_bare_words(whole), kind)
        except (ValueError, RecursionError):  # the first complaint is the better one
            pass
        raise


class Tensors(Response):
    """JSON with raw tensors behind it."""

    def __init__(self, answer: dict[str, Any], buffers: Sequence[bytes]) -> None:
        head = encode(answer)
        super().__init__(b"", media_type="application/octet-stream")
        self.headers["Content-Length"] = str(len(head) + sum(map(len, buffers)))
        self.headers[HEADER] = str(len(head))
        self._parts = [head, *buffers]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's shape
        """Send it piece by piece, no faster than the client reads."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for part in self._parts:
            view = memoryview(part)
            for at in range(0, len(view), _CHUNK):
                await send({"type": "http.response.body", "body": view[at : at + _CHUNK], "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
