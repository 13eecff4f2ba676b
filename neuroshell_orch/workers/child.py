"""The program that a worker runs: frames in on descriptor 0, a runtime, frames out.

Owns the process: its two threads, its limits, its end. The main thread runs operations in their order, and answers in
rounds: each that is being written gets one token in turn, so that a short one need not wait for a long one. A reader
thread (see ``connection``) takes frames off the socket meanwhile. Must not know any runtime; must never write a prompt
or an answer anywhere but into a frame, which is why even an unexpected error is printed without its message.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, assert_never

import msgspec

from neuroshell_orch import marks
from neuroshell_orch.errors import OrchError
from neuroshell_orch.runtimes import base
from neuroshell_orch.workers.connection import Connection
from neuroshell_orch.workers.environment import PARENT
from neuroshell_orch.workers.protocol import (
    Announce,
    Cancel,
    Done,
    Embed,
    Embedded,
    Failed,
    FromWorker,
    Generate,
    Hibernate,
    Hibernated,
    Hold,
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
)

if TYPE_CHECKING:
    from types import TracebackType

_PR_SET_PDEATHSIG: Final = 1


class Writing(NamedTuple):
    """One of the answers that are being written."""

    job: int
    stream: base.Stream


class Child:
    """Runs the daemon's requests on one runtime: answers side by side where it can, all else one after the other."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._runtime: base.Runtime | None = None
        self._streams: base.Streams | None = None
        """The same, where it writes several answers at once."""
        self._name = ""
        self._loaded = False
        self._writing: list[Writing] = []
        self._later: deque[ToWorker] = deque()
        """Requests that wait until nothing is being written."""

    def run(self) -> None:
        """Never returns."""
        connection, requests = self._connection, self._connection.requests
        while True:
            while self._later and (not self._writing or isinstance(self._later[0], Generate)):
                self._do(self._later.popleft())
            if self._writing:
                if not requests.empty() and (request := requests.get()) is not None:
                    self._take(request)
                self._round()
            elif (request := connection.get()) is not None:
                self._take(request)

    def _take(self, request: ToWorker) -> None:
        if isinstance(request, Generate) and not self._later and self._streams is not None:
            self._begin(self._streams, request)
        elif self._writing or self._later:
            self._later.append(request)
        else:
            self._do(request)

    def _do(self, request: ToWorker) -> None:
        if isinstance(request, Announce):
            self._get_ready(request)
            return
        if isinstance(request, Generate) and self._streams is not None:
            self._begin(self._streams, request)
            return
        job = request.job if isinstance(request, Generate | Infer | Embed) else 0
        try:
            self._end(job, self._perform(request))
        except OrchError as error:
            self._end(job, error)
        except MemoryError:
            self._end(job, _no_memory(job))

    def _end(self, job: int, outcome: FromWorker | OrchError) -> None:
        if isinstance(outcome, OrchError):
            outcome = Failed(outcome.problem, outcome.message, outcome.hint, job)
        self._connection.send(outcome)
        if job:
            self._connection.forget(job)

    # ---- answers, several at once ----

    def _begin(self, runtime: base.Streams, request: Generate) -> None:
        job, connection = request.job, self._connection
        try:
            self._model()
            if connection.is_cancelled(job):
                self._end(job, Done(job=job, reason="cancelled"))
                return
            stream = runtime.begin(request, self._emitter(job), lambda: connection.is_cancelled(job))
        except OrchError as error:
            self._end(job, error)
        except MemoryError:
            self._end(job, _no_memory(job))
        else:
            self._writing.append(Writing(job, stream))

    def _round(self) -> None:
        """Each answer goes on by one step, but for those that nobody reads; with none left, wait for news."""
        assert self._streams is not None  # noqa: S101 - nothing else writes several at once
        held = self._connection.is_held
        streams = [writing.stream for writing in self._writing if not held(writing.job)]
        if not streams:
            request = self._connection.get(writing=True)
            if request is not None:
                self._take(request)
            return
        self._streams.advance(streams)
        for writing in self._writing[:]:
            if (done := writing.stream.done) is not None:
                self._writing.remove(writing)
                self._end(writing.job, done)

    def _emitter(self, job: int) -> base.Emit:
        send, piece = self._connection.send, Piece

        def emit(text: str, tokens: int, scores: list[TokenScore] | None = None) -> None:
            send(piece(job=job, text=text, tokens=tokens, scores=scores or []))

        return emit

    # ---- one thing at a time ----

    def _perform(self, request: ToWorker) -> FromWorker:
        started = time.monotonic()
        match request:
            case Standby(runtime=name, path=path):
                runtime = self._use(name)
                version = runtime.standby()
                if path and isinstance(runtime, base.Readies):
                    runtime.make_ready(path)
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
            case Announce() | Cancel() | Hold():
                raise AssertionError("these are not answered")
            case _:
                assert_never(request)

    def _get_ready(self, request: Announce) -> None:
        threading.Thread(target=read_ahead, args=(request.path,), name="read-ahead", daemon=True).start()
        with suppress(OrchError):  # whoever then loads hears it
            self._use(request.runtime)

    def _load(self, request: Load, started: float) -> Loaded:
        if self._loaded:
            raise OrchError("load-failed", "This worker holds a model already.", "Start another worker.")
        loaded = self._use(request.runtime).load(request)
        self._loaded = True
        gc.freeze()  # what was imported stays: no answer is held up while a collection looks at it again
        marks.mark("loaded")
        return msgspec.structs.replace(loaded, seconds=time.monotonic() - started, marks=marks.marks())

    def _generate(self, request: Generate, job: int) -> Done:
        connection, pass_on = self._connection, self._emitter(job)
        if connection.is_cancelled(job):
            return Done(job=job, reason="cancelled")

        def emit(text: str, tokens: int, scores: list[TokenScore] | None = None) -> None:
            connection.wait_while_held(job)
            pass_on(text, tokens, scores)

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
            marks.mark("runtime")
            self._streams = self._runtime if isinstance(self._runtime, base.Streams) else None
            self._name = name
        return self._runtime

    def _model(self) -> base.Runtime:
        if self._runtime is None or not self._loaded:
            raise OrchError("internal", "This worker holds no model.", "Load one first.")
        return self._runtime


def _no_memory(job: int) -> OrchError:
    hint = "Close programs, choose a smaller model or a smaller context, or raise its MemoryMax."
    return OrchError("answer-failed" if job else "load-failed", "There was not enough memory.", hint)


def read_ahead(path: str) -> None:
    """Let the kernel read a model's files, which may take longer than everything before they are opened."""
    model = Path(path)
    try:
        for file in model.iterdir() if model.is_dir() else [model]:
            descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
            finally:
                os.close(descriptor)
    except OSError:
        return  # the load says what is wrong with them


def _die_with_parent() -> None:
    """Ask the kernel for SIGKILL when the daemon's thread ends, and notice if it has ended already."""
    parent = os.environ.pop(PARENT, "")
    if parent.isdigit():
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != int(parent):
            os._exit(0)


def _print_without_message(kind: type[BaseException], _error: BaseException, frames: TracebackType | None, /) -> None:
    """An exception's message may quote what a person wrote; its type and place do not."""
    import traceback  # noqa: PLC0415 - it takes a tenth of the time until this process takes orders

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
    marks.mark("ready")
    threading.Thread(target=connection.read_forever, name="reader", daemon=True).start()
    Child(connection).run()
