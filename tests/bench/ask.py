"""One ask over the socket by a client that does nothing else: times at the first and the last byte that matter.

Owns the request and the reading of the stream. Must not import the project's own client: that one is measured by the
command line's rows.
"""

from __future__ import annotations

import json
import socket
import time
from typing import TYPE_CHECKING, NamedTuple, Protocol

from tests.bench.bare import first_byte
from tests.bench.orchestrator import WAIT, Orchestrator, program
from tests.bench.registry import BenchError

if TYPE_CHECKING:
    from collections.abc import Callable


class Answer(NamedTuple):
    """``first``: seconds from connecting to the first token. ``rate``: tokens a second after it.

    ``tokens`` of the answer, and ``cached`` ones of the prompt, as the usage says; ``times`` at which text came.
    """

    first: float
    rate: float
    text: str
    tokens: int = 0
    cached: int = 0
    times: tuple[float, ...] = ()


def raw(
    service: Orchestrator, prompt: str, limit: int, midway: int = 0, then: Callable[[], None] | None = None
) -> Answer:
    """Connect, ask, read to the end; ``then`` is called after ``midway`` pieces. Raises BenchError."""
    whole = request(prompt, limit)
    began = time.perf_counter()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(WAIT)
        sock.connect(str(service.path))
        sock.sendall(whole)
        return read(sock, began, service, midway, then)


def request(prompt: str, limit: int) -> bytes:
    """The bytes of one streamed, greedy ask."""
    body = json.dumps(
        {
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": limit,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _more(sock: socket.socket, service: Tail) -> bytes:
    try:
        return sock.recv(65536)
    except TimeoutError:
        raise BenchError(f"no answer within {WAIT:.0f} s: {service.tail()}") from None


class Tail(Protocol):
    """Whoever can say what it said last."""

    def tail(self) -> str: ...


def read(sock: socket.socket, began: float, service: Tail, midway: int, then: Callable[[], None] | None) -> Answer:
    """One answer's stream to its end; ``then`` is called after ``midway`` pieces. Raises BenchError."""
    held, everything, pieces, times, tokens, cached = b"", b"", [], [], 0, 0
    while chunk := _more(sock, service):
        everything += chunk
        # An event is one line in one chunk; the lines of HTTP's own framing do not begin with "data:".
        *lines, held = (held + chunk).split(b"\n")
        for line in lines:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            usage = event.get("usage") or {}
            tokens = usage.get("completion_tokens", tokens)
            cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", cached)
            text = event["choices"][0]["delta"].get("content") if event.get("choices") else None
            if text:
                times.append(time.perf_counter())
                pieces.append(text)
                if then is not None and len(pieces) == midway:
                    then()
    if not everything.startswith(b"HTTP/1.1 200") or not everything.endswith(b"0\r\n\r\n") or not pieces:
        raise BenchError(f"the ask failed: {everything.decode(errors='replace')[-500:]} {service.tail()}")
    seconds = times[-1] - times[0]
    rate = (tokens - 1) / seconds if seconds > 0 else 0.0
    return Answer(times[0] - began, rate, "".join(pieces), tokens, cached, tuple(times))


def by_command(service: Orchestrator, prompt: str, limit: int) -> tuple[float, str]:
    """``nsorch ask``: seconds from exec to the first byte on its standard output, and the answer."""
    options = ["--max-tokens", str(limit), "--temperature", "0"]
    seconds, text = first_byte([*program(), "ask", *options, prompt], service.environment)
    return seconds, text.removesuffix("\n")
