"""One connection: uvicorn's protocol, with bounds on what a client may send and on how slowly.

Owns two clocks. One runs while a request is being read: its head must be there in time and its body must get on. The
other runs while there is something to be taken and nobody takes it. What is refused here is answered by the application
as far as there is a request, so that it has the convention's shape. Half of a connection is none: a client that shuts
its side has left. Must not know routes.
"""

from __future__ import annotations

import socket
import struct
import sys
from typing import TYPE_CHECKING, Any, Final, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from neuroshell_orch.api.limits import CLIENT, PRESENCE, PROCESS, REFUSED, Presence
from neuroshell_orch.api.problems import body_of, encode
from neuroshell_orch.config.values import format_size, format_timespan
from neuroshell_orch.errors import OrchError
from neuroshell_orch.sd import journal

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from uvicorn.config import Config
    from uvicorn.server import ServerState

    from neuroshell_orch.config.schema import Settings

STRIDE: Final = 64 << 10
"""Bytes of a body that must come in one period of RequestTimeoutSec."""
LINGER: Final = 2.0
"""Seconds in which a client that has its answer may stop sending."""
_JOINED: Final = 1 << 16
"""Bytes of a body that are copied to leave in one write with their head."""
CONTROL: Final = b"/orch"
"""Where a connection too many is served nevertheless: nobody could look or free memory otherwise."""


class Connection(HttpToolsProtocol):
    """``surplus``: there are as many as may be without this one. ``count`` is called when it is gone."""

    def __init__(
        self, config: Config, state: ServerState, count: Callable[[], None], settings: Settings, *, surplus: bool
    ) -> None:
        super().__init__(config=config, server_state=state, app_state={})
        self._count = count
        self._settings = settings
        self._surplus = surplus
        self._who = ""
        self._presence = Presence()
        self._process: tuple[int, int] | None = None
        self._reading = "head"
        """head, body, or an empty string between requests."""
        self._heard = 0
        """Bytes of the head, or of the body since the clock was set."""
        self._clock: asyncio.TimerHandle | None = None
        self._taking: asyncio.TimerHandle | None = None
        self._left = 0
        """Bytes that were to be taken when somebody looked."""

    # ---- from the socket ----

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Somebody connected."""
        super().connection_made(transport)
        self._together = _Together(transport, self.loop)
        self._process = _peer(transport)
        self._who = "" if self._process is None else f"process {self._process[0]}"
        self._set_clock()

    def data_received(self, data: bytes) -> None:
        """Something came."""
        before = self._reading
        if before == "head":
            self._heard += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            self._stop_clock()
        elif self._reading == "head" and self._heard > self._settings.max_header_size:
            self._end_with(self._head_too_large())
        elif self._reading != before:
            self._set_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._stop_clock()
        if self._taking is not None:
            self._taking.cancel()
        super().connection_lost(exc)
        self._presence.leave()
        self._count()

    def pause_writing(self) -> None:
        """The client takes less than it is given."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """It has taken most of it."""
        super().resume_writing()
        self._left = sys.maxsize

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's signature
        """It does not speak HTTP."""
        self._end_with(OrchError("bad-request", "This is not HTTP as it is understood here.", ""))

    # ---- from the parser ----

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        if self._reading != "head":
            self._reading, self._heard = "head", 1

    def on_headers_complete(self) -> None:
        """Its head is there."""
        scope = cast("dict[str, Any]", self.scope)
        scope |= {CLIENT: self._who, PROCESS: self._process, PRESENCE: self._presence}
        refusal = self._objection()
        if refusal is not None:
            scope[REFUSED] = refusal
        super().on_headers_complete()
        # Only its write and close matter to the cycle. It begins to serve when this call is over.
        self.cycle.transport = self._together  # type: ignore[assignment]
        self._reading, self._heard = "body", 0

    def on_body(self, body: bytes) -> None:
        """Some of its body."""
        self._heard += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """All of it is there."""
        self._reading = ""
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The answer was given, perhaps before the request was read."""
        self._together.flush()
        super().on_response_complete()
        if self.transport.get_write_buffer_size():
            self._watch()
        if self._reading == "body" and self.cycle.response_complete and not self.transport.is_closing():
            self._stop_clock()
            self._clock = self.loop.call_later(LINGER, self.transport.abort)

    # ---- bounds ----

    def _objection(self) -> OrchError | None:
        if self._surplus and not self.url.startswith(CONTROL):
            message = f"{self._settings.max_connections} connections are open, and no more are served at once."
            return OrchError("too-many-connections", message, "Try again, or raise MaxConnections= in nsorch.conf.")
        most = self._settings.max_headers
        if len(self.headers) > most:
            message = f"The request has more than {most} headers."
            return OrchError("headers-too-large", message, "Send fewer, or raise MaxHeaders= in nsorch.conf.")
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        return self._head_too_large() if size > self._settings.max_header_size else None

    def _head_too_large(self) -> OrchError:
        size = format_size(self._settings.max_header_size)
        message = f"The first line and the headers are longer than {size} together."
        return OrchError("headers-too-large", message, "Send less, or raise MaxHeaderSize= in nsorch.conf.")

    def _set_clock(self) -> None:
        self._stop_clock()
        if self._reading:
            self._clock = self.loop.call_later(self._settings.request_timeout_sec, self._too_slow)

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _too_slow(self) -> None:
        self._clock = None
        limit = format_timespan(self._settings.request_timeout_sec)
        hint = "Send it faster, or raise RequestTimeoutSec= in nsorch.conf."
        if self._reading == "head":
            if self._heard:
                self._end_with(OrchError("request-timeout", f"The head was not there within {limit}.", hint))
            else:
                self.transport.close()  # it has asked nothing, so it is told nothing
        elif self.flow.read_paused or self._heard >= STRIDE:
            self._heard = 0
            self._set_clock()
        else:
            message = f"Less than {format_size(STRIDE)} of the body came within {limit}."
            cycle = self.cycle
            cycle.scope[REFUSED] = OrchError("request-timeout", message, hint)  # type: ignore[typeddict-unknown-key]
            cycle.keep_alive = False
            cycle.more_body = False
            cycle.message_event.set()

    def _watch(self) -> None:
        if self._taking is None:
            self._left = self.transport.get_write_buffer_size()
            self._taking = self.loop.call_later(self._settings.reader_timeout_sec, self._look)

    def _look(self) -> None:
        """Whether anything was taken since the last look, as long as there is something."""
        self._taking = None
        left = self.transport.get_write_buffer_size()
        over = self.cycle.response_complete  # something was written, so there was a request
        if not left or not (over or self.flow.write_paused):
            return
        if left < self._left:
            self._watch()
            return
        limit = format_timespan(self._settings.reader_timeout_sec)
        journal.log(journal.INFO, f"A client took nothing of its answer for {limit}, and its connection was ended.")
        self.transport.abort()

    def _end_with(self, error: OrchError) -> None:
        """Say it where there is no request that could be answered, and close."""
        self._stop_clock()
        cycle: Any = self.cycle
        if cycle is None or cycle.response_complete or not cycle.response_started:
            body = encode(body_of(self.url.decode("latin-1"), error))
            head = (
                f"HTTP/1.1 {error.kind.status} {error.problem}\r\nserver: nsorch\r\nconnection: close\r\n"
                f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        self.transport.close()


class _Together:
    """A transport by which the head of a response leaves in one write with the beginning of its body, if that is there.

    A body that comes later does not keep its head waiting for more than a turn of the event loop.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head: bytes | None = None
        self.flushing: asyncio.Handle | None = None

    def write(self, data: bytes | memoryview) -> None:
        """Some of a response. What looks like a head and is none arrives as well."""
        if self._head is not None:
            if len(data) <= _JOINED:
                data, self._head = self._head + data, None
            self.flush()
            self._transport.write(data)
        elif data[:9] == b"HTTP/1.1 ":
            self._head = bytes(data)
            self.flushing = self._loop.call_soon(self.flush)
        else:
            self._transport.write(data)

    def close(self) -> None:
        """Close it once all has left."""
        self.flush()
        self._transport.close()

    def flush(self) -> None:
        """Let a head leave without a body."""
        if self.flushing is not None:
            self.flushing.cancel()
            self.flushing = None
        head, self._head = self._head, None
        if head is not None:
            self._transport.write(head)


def _peer(transport: asyncio.Transport) -> tuple[int, int] | None:
    """The process at the other end of a unix socket, and its user."""
    peer = transport.get_extra_info("socket")
    if peer is None or peer.family != socket.AF_UNIX:
        return None
    size = struct.calcsize("3i")
    pid, uid, _gid = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return pid, uid
