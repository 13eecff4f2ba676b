"""The program that a worker runs: frames in on descriptor 0, a runtime, frames out.

Owns the process: its two threads, its limits, its end. The main thread runs operations in their order; a reader
thread takes frames off the socket, so that Cancel overtakes and the end of file ends the process at once, whatever
the main thread is doing. Must not know any runtime; must never write a prompt or an answer anywhere but into a frame,
which is why even an unexpected error is printed without its message.
"""

from __future__ import annotations

import array
import ctypes
import os
import queue
import resource
import signal
import socket
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, Final, assert_never

import msgspec

from neuroshell_orch.errors import OrchError
from neuroshell_orch.runtimes import base
from neuroshell_orch.workers.environment import PARENT
from neuroshell_orch.workers.protocol import (
    HEADER,
    MAX_FRAME,
    Cancel,
    Done,
    Embed,
    Embedded,
    Failed,
    FromWorker,
    Generate,
    Hello,
    Hibernate,
    Hibernated,
    Infer,
    Load,
    Loaded,
    Outputs,
    Parked,
    Piece,
    Standby,
    TokenScore,
    ToWorker,
    Wake,
    Woken,
    decode_to_worker,
    encode,
)

if TYPE_CHECKING:
    from types import TracebackType

_PR_SET_PDEATHSIG: Final = 1
_EXIT_PROTOCOL: Final = 65


class Connection:
    """The socket to the daemon, and which jobs it has cancelled."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.requests: queue.SimpleQueue[ToWorker] = queue.SimpleQueue()
        self._cancelled: set[int] = set()
        self._newest = 0
        self._ended = 0

    def greet(self) -> None:
        """Say hello, and pass on the descriptor by which the daemon reads our memory (see ``memory``)."""
        rollup = os.open("/proc/self/smaps_rollup", os.O_RDONLY | os.O_CLOEXEC)
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [rollup]))
        try:
            self._sock.sendmsg([encode(Hello(pid=os.getpid()))], [rights])
        except BrokenPipeError:
            os._exit(0)
        os.close(rollup)

    def send(self, message: FromWorker) -> None:
        """Send one frame; waits while the daemon does not read. Without a daemon there is nothing left to do."""
        try:
            self._sock.sendall(encode(message))
        except (BrokenPipeError, ConnectionResetError):
            os._exit(0)

    def is_cancelled(self, job: int) -> bool:
        """Whether the daemon has cancelled ``job``."""
        return job in self._cancelled

    def forget(self, job: int) -> None:
        """``job`` has ended: a Cancel that comes too late means nothing."""
        self._ended = max(self._ended, job)
        self._cancelled.discard(job)

    def read_forever(self) -> None:
        """The reader thread: never returns."""
        try:
            while True:
                (size,) = HEADER.unpack(self._exactly(HEADER.size))
                if size > MAX_FRAME:
                    os._exit(_EXIT_PROTOCOL)
                message = decode_to_worker(memoryview(self._exactly(size)))
                if isinstance(message, Cancel):
                    self._cancel(message.job)
                    continue
                if isinstance(message, Generate | Infer | Embed):
                    self._newest = message.job
                self.requests.put(message)
        except msgspec.MsgspecError:
            os._exit(_EXIT_PROTOCOL)
        except OSError:
            os._exit(0)

    def _cancel(self, job: int) -> None:
        # Jobs are numbered upwards: one that is not known yet, or that has ended, can never be cancelled later.
        if self._ended < job <= self._newest:
            self._cancelled.add(job)

    def _exactly(self, size: int) -> bytearray:
        buffer = bytearray(size)
        view = memoryview(buffer)
        while view:
            count = self._sock.recv_into(view)
            if not count:
                os._exit(0)
            view = view[count:]
        return buffer


class Child:
    """Runs the daemon's requests on one runtime, one after the other."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._runtime: base.Runtime | None = None
        self._name = ""
        self._loaded = False

    def run(self) -> None:
        """Never returns."""
        while True:
            request = self._connection.requests.get()
            job = request.job if isinstance(request, Generate | Infer | Embed) else 0
            try:
                self._connection.send(self._perform(request))
            except OrchError as error:
                self._connection.send(Failed(error.problem, error.message, error.hint, job))
            except MemoryError:
                problem = "answer-failed" if job else "load-failed"
                hint = "Close programs, choose a smaller model or a smaller context, or raise its MemoryMax."
                self._connection.send(Failed(problem, "There was not enough memory.", hint, job))
            self._connection.forget(job)

    def _perform(self, request: ToWorker) -> FromWorker:
        started = time.monotonic()
        match request:
            case Standby(runtime=name):
                version = self._use(name).standby()
                return Parked(runtime_version=version, seconds=time.monotonic() - started)
            case Load():
                return self._load(request, started)
            case Hibernate():
                given_back = self._model().hibernate()
                return Hibernated(given_back=given_back, seconds=time.monotonic() - started)
            case Wake():
                self._model().wake()
                return Woken(seconds=time.monotonic() - started)
            case Generate(job=job):
                return self._generate(request, job)
            case Infer(job=job):
                if self._connection.is_cancelled(job):
                    raise OrchError("cancelled", "The request was cancelled before it ran.")
                tensors = self._model().infer(request, lambda: self._connection.is_cancelled(job))
                return Outputs(job=job, tensors=tensors)
            case Embed(job=job):
                return self._embed(request, job)
            case Cancel():
                raise AssertionError("the reader thread handles Cancel")
            case _:
                assert_never(request)

    def _load(self, request: Load, started: float) -> Loaded:
        if self._loaded:
            raise OrchError("load-failed", "This worker holds a model already.", "Start another worker.")
        loaded = self._use(request.runtime).load(request)
        self._loaded = True
        return msgspec.structs.replace(loaded, seconds=time.monotonic() - started)

    def _generate(self, request: Generate, job: int) -> Done:
        connection, encode_piece = self._connection, Piece
        if connection.is_cancelled(job):
            return Done(job=job, reason="cancelled")

        def emit(text: str, tokens: int, scores: list[TokenScore] | None = None) -> None:
            connection.send(encode_piece(job=job, text=text, tokens=tokens, scores=scores or []))

        return self._model().generate(request, emit, lambda: connection.is_cancelled(job))

    def _embed(self, request: Embed, job: int) -> Embedded:
        model = self._model()
        if not isinstance(model, base.Embeds):
            raise OrchError("unsupported", "This model makes no vectors of texts.", "Use an encoder, such as MiniLM.")
        if self._connection.is_cancelled(job):
            raise OrchError("cancelled", "The request was cancelled before it ran.")
        return model.embed(request, lambda: self._connection.is_cancelled(job))

    def _use(self, name: str) -> base.Runtime:
        if self._runtime is None or self._name != name:
            self._runtime = base.create(name)
            self._name = name
        return self._runtime

    def _model(self) -> base.Runtime:
        if self._runtime is None or not self._loaded:
            raise OrchError("internal", "This worker holds no model.", "Load one first.")
        return self._runtime


def _die_with_parent() -> None:
    """Ask the kernel for SIGKILL when the daemon's thread ends, and notice if it has ended already."""
    parent = os.environ.pop(PARENT, "")
    if parent.isdigit():
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != int(parent):
            os._exit(0)


def _print_without_message(kind: type[BaseException], _error: BaseException, frames: TracebackType | None, /) -> None:
    """An exception's message may quote what a person wrote; its type and place do not."""
    sys.stderr.write("".join(traceback.format_tb(frames)) + f"{kind.__name__} in a worker\n")


def _take_socket() -> socket.socket:
    """Descriptor 0 as a socket under another number; 0 becomes /dev/null for whatever reads standard input."""
    private = os.dup(0)
    nothing = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(nothing, 0, inheritable=False)
    os.close(nothing)
    sock = socket.socket(fileno=private)
    sock.setblocking(True)
    return sock


def main() -> None:
    """Run until the daemon is gone."""
    _die_with_parent()
    sys.excepthook = _print_without_message
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    connection = Connection(_take_socket())
    connection.greet()
    threading.Thread(target=connection.read_forever, name="reader", daemon=True).start()
    Child(connection).run()


if __name__ == "__main__":
    main()
