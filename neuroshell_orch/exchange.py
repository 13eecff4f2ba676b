"""One HTTP/1.1 exchange over a socket, with what our own daemon sends and no more.

Owns the head of a request and the reading of a response: its status, its headers, its body in whichever of the three
ways it is delimited. ``http.client`` can do more and would cost a third of the time that ``nsorch ask`` takes to start.
Must not know paths, JSON or who is asked.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping, Sequence

MOST = 1 << 20
"""Bytes of a head, or of a line between two chunks."""
_CHUNK = 1 << 16


class BrokenAnswerError(Exception):
    """The other side does not speak HTTP, or stopped in the middle."""


def beginning(method: str, path: str) -> bytes:
    """The first lines of every request, which may be sent before the rest is known."""
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n".encode("latin-1")


def send(sock: socket.socket, method: str, path: str, headers: Mapping[str, str], *, begun: bytes = b"") -> None:
    """The head of a request; ``begun`` was sent already. Raises OSError."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode("latin-1")
    sock.sendall((b"" if begun else beginning(method, path)) + lines + b"\r\n")


def send_body(sock: socket.socket, parts: Sequence[bytes | memoryview]) -> None:
    """What follows the head. An answer that came before all of it was read still counts."""
    with suppress(BrokenPipeError):
        for part in parts:
            sock.sendall(part)


class Response:
    """What came back; owns the socket. Raises OSError and BrokenAnswerError from every method that reads."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._held = b""
        self.status = 100
        while 100 <= self.status < 200:
            self._read_head()
        self._begun = False
        self._chunked = self.headers.get("transfer-encoding", "").lower() == "chunked"
        length = self.headers.get("content-length")
        if length is not None and not length.isdecimal():
            raise BrokenAnswerError
        self._left: int | None = 0 if self._chunked else None if length is None else int(length)
        """Bytes of the body or of the chunk that are still to come; None: until the connection ends."""
        self._over = self.status in {204, 304} or (not self._chunked and self._left == 0)

    def header(self, name: str) -> str | None:
        """The value of a header, whatever its case."""
        return self.headers.get(name.lower())

    def read1(self) -> bytes:
        """The next bytes of the body as soon as there are some; empty at its end."""
        if self._chunked and not self._over and self._left == 0:
            self._next_chunk()
        if self._over:
            return b""
        piece = self._held or self._sock.recv(_CHUNK)
        if self._left is None:
            self._over, self._held = not piece, b""
            return piece
        if not piece:
            raise BrokenAnswerError
        piece, self._held = piece[: self._left], piece[self._left :]
        self._left -= len(piece)
        self._over = self._left == 0 and not self._chunked
        return piece

    def read(self) -> bytes:
        """The whole body."""
        return b"".join(iter(self.read1, b""))

    def close(self) -> None:
        """End the connection."""
        self._sock.close()

    def _read_head(self) -> None:
        words = self._line().split(None, 2)
        if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
            raise BrokenAnswerError
        self.status = int(words[1])
        self.headers: dict[str, str] = {}
        while line := self._line():
            name, _, value = line.decode("latin-1").partition(":")
            self.headers[name.lower()] = value.strip()

    def _next_chunk(self) -> None:
        if self._begun and self._line():  # the end of the last chunk, which is not worth waiting for then
            raise BrokenAnswerError
        self._begun = True
        try:
            self._left = int(self._line().partition(b";")[0], 16)
        except ValueError as error:
            raise BrokenAnswerError from error
        if self._left == 0:
            while self._line():
                pass  # trailers
            self._over = True

    def _line(self) -> bytes:
        while (end := self._held.find(b"\r\n")) < 0:
            if len(self._held) > MOST:
                raise BrokenAnswerError
            more = self._sock.recv(_CHUNK)
            if not more:
                raise BrokenAnswerError
            self._held += more
        line, self._held = self._held[:end], self._held[end + 2 :]
        return line
