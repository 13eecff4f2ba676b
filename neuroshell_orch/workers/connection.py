"""The worker's end of the socket to the daemon: frames in, frames out.

Owns the descriptor and what overtakes: which jobs are cancelled, and which are held because nobody reads them. Who has
nothing else to do reads: the main thread while it waits for a request, which saves small ones a change of threads, and
a reader thread while the main one is busy: at once where that lasts, and with the next tick where it may be over by
then. End of file ends the process, whatever the main thread is doing. Must not know runtimes, nor what a request means.
"""

from __future__ import annotations

import array
import os
import queue
import socket
import threading
from enum import Enum
from typing import Final

import msgspec

from neuroshell_orch.workers.protocol import (
    HEADER,
    MAX_FRAME,
    Cancel,
    Embed,
    FromWorker,
    Generate,
    Hello,
    Hold,
    Infer,
    ToWorker,
    decode_to_worker,
    encode,
)

_EXIT_PROTOCOL: Final = 65
_CHUNK: Final = 1 << 16
_TICK: Final = 0.01
"""Seconds. A request that takes no longer has nobody who reads beside it."""
_QUIET: Final = 100
"""Ticks without any request, after which the reader thread sleeps until there is one."""


class _Main(Enum):
    """What the main thread does."""

    WAITS = 0
    BRIEF = 1
    """Something that is over in a moment, as a rule."""
    BUSY = 2
    LISTENS = 3
    """It waits for what the reader thread reads, which had the socket when it came."""


class Connection:
    """The socket to the daemon; which jobs it has cancelled, and which it has told to wait."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.requests: queue.SimpleQueue[ToWorker | None] = queue.SimpleQueue()
        """None means that a job was cancelled, held or let go: somebody who waits should look again."""
        self._inbox = bytearray()
        self._reads = threading.Lock()
        """Held by the thread that reads."""
        self._main = _Main.BUSY
        self._turn = 0
        """Grows with each request that the main thread takes."""
        self._news = threading.Event()
        """The reader thread should look at once."""
        self._asleep = False
        self._changed = threading.Condition()
        self._cancelled: set[int] = set()
        self._held: set[int] = set()
        self._newest = 0
        self._ended: set[int] = set()
        self._ended_all = 0
        """Every job up to this one has ended; of the later ones those in ``_ended``."""

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

    def is_held(self, job: int) -> bool:
        """Whether nobody reads ``job`` at the moment."""
        return job in self._held and job not in self._cancelled

    def wait_while_held(self, job: int) -> None:
        """Return once ``job`` is read again, or cancelled."""
        if job in self._held:
            with self._changed:
                self._changed.wait_for(lambda: not self.is_held(job))

    def forget(self, job: int) -> None:
        """``job`` has ended: a Cancel that comes too late means nothing."""
        with self._changed:
            self._ended.add(job)
            while self._ended_all + 1 in self._ended:
                self._ended_all += 1
                self._ended.discard(self._ended_all)
            self._cancelled.discard(job)
            self._held.discard(job)

    # ---- reading ----

    def get(self, *, writing: bool = False) -> ToWorker | None:
        """The next request, for the main thread, which is ``writing`` answers meanwhile or does nothing else."""
        self._main = _Main.WAITS
        request: ToWorker | None
        if self.requests.empty():
            if self._reads.acquire(blocking=False):
                try:
                    if self.requests.empty():  # the reader thread may have put one there before it let go
                        self._read()
                finally:
                    self._reads.release()
            else:
                self._main = _Main.LISTENS
                self._news.set()  # the reader thread may be through with what it read, and must read on
        request = self.requests.get()  # what was read just now, or what the reader thread reads
        self._turn += 1
        lasts = writing or not isinstance(request, Infer | Embed | None)
        self._main = _Main.BUSY if lasts else _Main.BRIEF
        if lasts or self._asleep:
            self._news.set()
        return request

    def read_forever(self) -> None:
        """The reader thread: never returns."""
        seen, quiet = -1, 0
        while True:
            main, turn = self._main, self._turn
            reads = main in {_Main.BUSY, _Main.LISTENS} or (main is _Main.BRIEF and turn == seen)
            if reads and self._reads.acquire(blocking=False):
                try:
                    self._read()
                finally:
                    self._reads.release()
                continue
            quiet = quiet + 1 if turn == seen and main is _Main.WAITS else 0
            seen = turn
            if quiet > _QUIET:
                self._asleep = True
                if self._main is _Main.WAITS and self._turn == turn:  # else it saw that it need not wake anybody
                    self._news.wait()
                self._asleep, quiet = False, 0
            else:
                self._news.wait(_TICK)
            self._news.clear()

    def _read(self) -> None:
        """Wait for frames, and put what they ask into ``requests``: at least one thing, so that whoever waits looks."""
        try:
            self._gather()
        except msgspec.MsgspecError:
            os._exit(_EXIT_PROTOCOL)
        except OSError:
            os._exit(0)

    def _gather(self) -> None:
        taken = 0
        while not taken:
            missing = self._missing()
            if missing > _CHUNK:
                self._fill(missing)
            else:
                more = self._sock.recv(_CHUNK)
                if not more:
                    os._exit(0)
                self._inbox += more
            while self._missing(taken) == 0:
                (size,) = HEADER.unpack_from(self._inbox, taken)
                end = taken + HEADER.size + size
                with memoryview(self._inbox) as whole, whole[taken + HEADER.size : end] as payload:
                    self._take(decode_to_worker(payload))
                taken = end
        del self._inbox[:taken]

    def _fill(self, missing: int) -> None:
        """A large frame is read to where it is decoded from."""
        whole = bytearray(len(self._inbox) + missing)
        whole[: len(self._inbox)] = self._inbox
        with memoryview(whole) as view:
            at = len(self._inbox)
            while at < len(whole):
                count = self._sock.recv_into(view[at:])
                if not count:
                    os._exit(0)
                at += count
        self._inbox = whole

    def _missing(self, at: int = 0) -> int:
        """How many bytes of the frame at this place are not there yet."""
        there = len(self._inbox) - at
        if there < HEADER.size:
            return HEADER.size - there
        (size,) = HEADER.unpack_from(self._inbox, at)
        if size > MAX_FRAME:
            os._exit(_EXIT_PROTOCOL)
        return max(0, HEADER.size + int(size) - there)

    def _take(self, message: ToWorker) -> None:
        if isinstance(message, Cancel | Hold):
            self._change(message)
            self.requests.put(None)
            return
        if isinstance(message, Generate | Infer | Embed):
            self._newest = message.job
        self.requests.put(message)

    def _change(self, message: Cancel | Hold) -> None:
        job = message.job
        with self._changed:
            # Jobs are numbered upwards: one that is not known yet, or that has ended, can never be changed later.
            if not self._ended_all < job <= self._newest or job in self._ended:
                return
            if isinstance(message, Cancel):
                self._cancelled.add(job)
            elif message.held:
                self._held.add(job)
            else:
                self._held.discard(job)
            self._changed.notify_all()
