"""The daemon's end of the socket to one worker: frames in, frames out, on the event loop.

Owns descriptor, buffers and framing. Reads by itself rather than through a transport, because the worker's first
frame carries a descriptor along (its own memory accounting, see ``memory``). Must not know what a frame means.
"""

from __future__ import annotations

import array
import asyncio
import os
import socket
from collections import deque
from typing import TYPE_CHECKING, Final

import msgspec

from neuroshell_orch.workers.protocol import HEADER, MAX_FRAME, FromWorker, decode_from_worker

if TYPE_CHECKING:
    from collections.abc import Callable

_CHUNK: Final = 1 << 18
_USUAL: Final = 1 << 16
"""Read at once where no large frame is on its way: a larger buffer is mapped anew each time, 12 µs for each token."""


class Channel:
    """Calls ``received`` for each frame and ``closed`` once at the end, with what was wrong if anything was."""

    def __init__(
        self, sock: socket.socket, received: Callable[[FromWorker], None], closed: Callable[[str | None], None]
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._received = received
        self._closed = closed
        self._loop = asyncio.get_running_loop()
        self._inbox = bytearray()
        self._outbox: deque[memoryview] = deque()
        self._passed: int | None = None
        self._expects_descriptor = True
        self._loop.add_reader(sock, self._readable)

    @property
    def is_open(self) -> bool:
        """Whether the socket is still ours."""
        return self._sock.fileno() >= 0

    def take_descriptor(self) -> int | None:
        """The descriptor that came with the first frame, if one did; the caller owns it from now on."""
        passed, self._passed = self._passed, None
        return passed

    def send(self, frame: bytes | bytearray) -> None:
        """Send one encoded frame, now or as soon as the worker reads. Silently dropped when the worker is gone."""
        if not self.is_open:
            return
        if not self._outbox:
            try:
                sent = self._sock.send(frame)
            except BlockingIOError:
                sent = 0
            except OSError:  # the end of file on our side tells the story
                return
            if sent == len(frame):
                return
            self._loop.add_writer(self._sock, self._writable)
            self._outbox.append(memoryview(frame)[sent:])
        else:
            self._outbox.append(memoryview(frame))

    def close(self, problem: str | None = None) -> None:
        """Close our end, which ends the worker, and report it. Harmless when closed already."""
        if not self.is_open:
            return
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._sock.close()
        if self._passed is not None:
            os.close(self._passed)
            self._passed = None
        self._outbox.clear()
        self._closed(problem)

    def _writable(self) -> None:
        try:
            sent = self._sock.send(self._outbox[0][:_CHUNK])
        except BlockingIOError:
            return
        except OSError:
            self._outbox.clear()
        else:
            self._outbox[0] = self._outbox[0][sent:]
            if not self._outbox[0]:
                self._outbox.popleft()
        if not self._outbox:
            self._loop.remove_writer(self._sock)

    def _readable(self) -> None:
        try:
            data = self._receive()
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        if self._inbox:
            self._inbox += data
            if self._complete():
                # Taken out whole: a frame of many megabytes is decoded from where it was gathered.
                gathered, self._inbox = self._inbox, bytearray()
                taken = self._frames(gathered)
                self._inbox += memoryview(gathered)[taken:]
        else:
            self._inbox += data[self._frames(data) :]

    def _receive(self) -> bytes:
        if not self._expects_descriptor:
            return self._sock.recv(_CHUNK if self._inbox else _USUAL)
        descriptors = array.array("i")
        data, ancillary, _flags, _address = self._sock.recvmsg(
            _CHUNK, socket.CMSG_SPACE(descriptors.itemsize), socket.MSG_CMSG_CLOEXEC
        )
        self._expects_descriptor = False
        for level, kind, payload in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS) and len(payload) == descriptors.itemsize:
                descriptors.frombytes(payload)
                self._passed = descriptors[0]
        return data

    def _complete(self) -> bool:
        if len(self._inbox) < HEADER.size:
            return False
        (size,) = HEADER.unpack_from(self._inbox)
        return bool(size > MAX_FRAME or len(self._inbox) >= HEADER.size + size)

    def _frames(self, data: bytes | bytearray) -> int:
        """Hand on every complete frame at the start of ``data``; the number of bytes they took."""
        view, at = memoryview(data), 0
        while len(data) - at >= HEADER.size and self.is_open:
            (size,) = HEADER.unpack_from(data, at)
            if size > MAX_FRAME:
                self.close(f"announced a frame of {size} bytes")
                break
            end = at + HEADER.size + size
            if len(data) < end:
                break
            try:
                message = decode_from_worker(view[at + HEADER.size : end])
            except msgspec.MsgspecError:
                self.close("sent something that is not a frame")
                break
            at = end
            self._received(message)
        return at
