"""HTTP over the daemon's unix socket, for our own command line and for anybody's Python.

Owns how the socket is found, how a failure to reach it is told, how the error shapes of ``/orch``, ``/v1`` and
``/v2`` become one ``OrchError``, and how a streamed answer is read. Must not know what is asked or how it is shown.
It stands on the way to the first token: at import it needs nothing but ``socket``, and ``connect`` may be called
before anything else is imported, so that systemd starts the daemon while this process is still loading.
"""

from __future__ import annotations

import fcntl
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeAlias

from neuroshell_orch.errors import PROBLEMS, OrchError
from neuroshell_orch.exchange import BrokenAnswerError, Response, beginning, send, send_body

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

Json: TypeAlias = Any
"""Decoded JSON, before somebody checks it."""

CONTROL_SECONDS: Final = 30.0
"""How long a status or control request may take before the daemon counts as hung."""

BINARY: Final = "Inference-Header-Content-Length"
"""The header by which raw tensors lie behind the JSON of a body: the length of that JSON."""

LOOK: Final = "Look at it with: systemctl --user status nsorch.service; journalctl --user -u nsorch.service"


def runtime_dir() -> Path:
    """Where the socket and the lock of the running daemon lie."""
    from neuroshell_orch.config import paths

    return paths.runtime_dir()


def socket_path() -> Path:
    """The daemon's socket: ``$NSORCH_SOCKET``, else the one that systemd listens on for this user."""
    named = os.environ.get("NSORCH_SOCKET")
    return Path(named) if named else runtime_dir() / "api.sock"


def connect(path: Path | None = None) -> socket.socket:
    """A connection to the daemon; systemd starts it if it sleeps. Raises OrchError where there is none."""
    path = path or socket_path()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(str(path))
    except OSError as error:
        sock.close()
        _unreachable(path, error)
    return sock


def _unreachable(path: Path, error: OSError) -> NoReturn:
    doctor = "`nsorch doctor` says what is missing."
    if isinstance(error, PermissionError):
        message = f"Not allowed to connect to {path}: it belongs to another user, or a sandbox hides it."
        raise OrchError("not-allowed", message, "Run nsorch as the user whose service it is.") from error
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        message = f"No service listens: there is no socket {path}."
    elif isinstance(error, ConnectionRefusedError):
        message = f"No service listens on {path}: the socket is there, but nobody holds it."
    else:
        message = f"Cannot connect to {path}: {error.strerror or error}."
    raise OrchError("service-unreachable", message, doctor) from error


def daemon_pid() -> int | None:
    """The running daemon's pid, or None while it sleeps. Asking does not wake it."""
    try:
        lock = os.open(runtime_dir() / "daemon.lock", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    text = b""
    try:
        text = os.read(lock, 32).strip()
        # Only where the last holder may still live is the lock itself tried: trying it while a daemon starts, which
        # has no pid in there yet, could make that daemon believe that there is another one.
        if not text.isdigit() or not Path(f"/proc/{int(text)}").exists():
            return None
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return int(text)
    finally:
        os.close(lock)
    return None


class Client:
    """Requests to one daemon, each on its own connection.

    ``open_socket`` makes a connection; ``ready`` is one that was made early and is used first, on which ``begun`` may
    have been sent already; ``look`` says where to look when the daemon itself fails.
    """

    def __init__(
        self,
        open_socket: Callable[[], socket.socket] | None = None,
        ready: socket.socket | None = None,
        look: str = LOOK,
        begun: bytes = b"",
    ) -> None:
        self._open = open_socket or connect
        self._ready = ready
        self._begun = begun
        self._look = look

    def reach(self) -> None:
        """Make sure that somebody listens; the connection is kept for the first request. Raises OrchError."""
        self._ready = self._ready or self._open()

    def close(self) -> None:
        """Drop a connection that was made early and not used."""
        if self._ready is not None:
            self._ready.close()
            self._ready = None

    def call(self, method: str, path: str, body: object = None, timeout: float | None = CONTROL_SECONDS) -> Json:
        """The JSON answer to one request; ``timeout`` None waits as long as it takes."""
        import json

        response = self._send(method, path, body, timeout)
        try:
            payload = response.read()
        except (OSError, BrokenAnswerError) as error:
            self._broken(error, timeout)
        finally:
            response.close()
        if response.status >= 400:
            raise error_from(response.status, payload)
        try:
            return json.loads(payload) if payload else None
        except ValueError as error:
            message = f"The service answered {method} {path} with something that is not JSON."
            raise OrchError("internal", message, self._look) from error

    def call_binary(self, path: str, body: object, parts: Sequence[bytes | memoryview]) -> tuple[Json, memoryview]:
        """POST JSON with raw ``parts`` behind it: the answer's JSON, and what lies behind that."""
        import json

        response = self._send("POST", path, body, None, parts)
        try:
            payload = response.read()
        except (OSError, BrokenAnswerError) as error:
            self._broken(error, None)
        finally:
            response.close()
        if response.status >= 400:
            raise error_from(response.status, payload)
        try:
            length = int(response.header(BINARY) or len(payload))
            return json.loads(payload[:length]), memoryview(payload)[length:]
        except ValueError as error:
            message = f"The service answered POST {path} with something that is not JSON."
            raise OrchError("internal", message, self._look) from error

    def events(
        self,
        path: str,
        body: object,
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
        on_comment: Callable[[bytes], None] | None = None,
    ) -> Generator[Json, None, None]:
        """The JSON events of one streamed answer, as they arrive. Closing the generator cancels the answer."""
        import json

        response = self._send(method, path, body, None, headers=headers)
        try:
            if response.status >= 400:
                raise error_from(response.status, response.read())
            for data in _server_sent(response, on_comment):
                if data == b"[DONE]":
                    return
                event = json.loads(data)
                if isinstance(event, dict) and "error" in event:
                    raise error_from(500, data)
                yield event
            self._broken(None, None)
        except (OSError, ValueError, BrokenAnswerError) as error:
            self._broken(error, None)
        finally:
            response.close()

    def _send(
        self,
        method: str,
        path: str,
        body: object,
        timeout: float | None,
        parts: Sequence[bytes | memoryview] = (),
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        import json

        headers = {"Connection": "close", "Accept": "*/*", **(headers or {})}
        payload: list[bytes | memoryview] | None = None
        if body is not None:
            head = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
            payload = [head, *parts]
            headers["Content-Type"] = "application/octet-stream" if parts else "application/json"
            headers["Content-Length"] = str(sum(map(len, payload)))
            if parts:
                headers[BINARY] = str(len(head))
        ready, self._ready = self._ready, None
        if ready is not None and (not self._begun or self._begun.startswith(beginning(method, path))):
            # It may have waited for a long time, for somebody's standard input, and have been closed meanwhile.
            with suppress(ConnectionError, BrokenAnswerError):
                return _exchange(ready, method, path, payload, headers, timeout, self._begun)
        elif ready is not None:
            ready.close()
        try:
            return _exchange(self._open(), method, path, payload, headers, timeout)
        except (OSError, BrokenAnswerError) as error:
            self._broken(error, timeout)

    def _broken(self, error: Exception | None, timeout: float | None) -> NoReturn:
        if isinstance(error, TimeoutError):
            message = f"The service took the connection but did not answer within {timeout:.0f} s."
            raise OrchError("service-unreachable", message, self._look) from error
        message = "The service ended the connection in the middle of the answer."
        raise OrchError("service-unreachable", message, f"Ask again. {self._look}") from error


def _exchange(
    sock: socket.socket,
    method: str,
    path: str,
    payload: list[bytes | memoryview] | None,
    headers: dict[str, str],
    timeout: float | None,
    begun: bytes = b"",
) -> Response:
    try:
        sock.settimeout(timeout)
        send(sock, method, path, headers, begun=begun)
        send_body(sock, payload or ())
        return Response(sock)
    except BaseException:
        sock.close()
        raise


def quoted(name: str) -> str:
    """``name`` as one part of a URL's path."""
    from urllib.parse import quote

    return quote(name, safe="")


def _server_sent(response: Response, on_comment: Callable[[bytes], None] | None) -> Generator[bytes, None, None]:
    """The data of each server-sent event."""
    held, data = b"", []
    while chunk := response.read1():
        *lines, held = (held + chunk).split(b"\n")
        for raw in lines:
            line = raw.rstrip(b"\r")
            if line.startswith(b"data:"):
                data.append(line[5:].removeprefix(b" "))
            elif not line and data:
                yield b"\n".join(data)
                data = []
            elif line.startswith(b":") and on_comment is not None:
                on_comment(line[1:].strip())


def error_from(status: int, payload: bytes) -> OrchError:
    """The error in an answer's body, whichever of our three shapes it has."""
    import json

    try:
        body = json.loads(payload)
    except ValueError:
        body = None
    if isinstance(body, dict) and isinstance(body.get("error"), dict):
        inner = body["error"]
        problem, message, hint = inner.get("code"), inner.get("message"), inner.get("hint")
    elif isinstance(body, dict):
        problem, message, hint = body.get("problem"), body.get("message") or body.get("error"), body.get("hint")
    else:
        problem = message = hint = None
    if problem not in PROBLEMS:
        problem = {400: "bad-request", 403: "not-allowed", 404: "not-found", 429: "queue-full"}.get(status, "internal")
    hint = str(hint or "")
    sentence = str(message or f"The service answered with status {status}.").removesuffix(hint).rstrip()
    return OrchError(problem, sentence or hint, hint if sentence else "")
