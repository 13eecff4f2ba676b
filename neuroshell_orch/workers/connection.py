"""The worker's end of the socket to the daemon: frames in by a thread of their own, frames out.

Owns the descriptor and what overtakes: which jobs are cancelled, and which are held because nobody reads them. End of
file ends the process at once, whatever the main thread is doing. Must not know runtimes, nor what a request means.
"""

from __future__ import annotations

import array
import os
import queue
import socket
import threading
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


class Connection:
    """The socket to the daemon; which jobs it has cancelled, and which it has told to wait."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.requests: queue.SimpleQueue[ToWorker | None] = queue.SimpleQueue()
        """None means that a job was cancelled, held or let go: somebody who waits should look again."""
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

    def read_forever(self) -> None:
        """The reader thread: never returns."""
        try:
            while True:
                (size,) = HEADER.unpack(self._exactly(HEADER.size))
                if size > MAX_FRAME:
                    os._exit(_EXIT_PROTOCOL)
                message = decode_to_worker(memoryview(self._exactly(size)))
                if isinstance(message, Cancel | Hold):
                    self._change(message)
                    continue
                if isinstance(message, Generate | Infer | Embed):
                    self._newest = message.job
                self.requests.put(message)
        except msgspec.MsgspecError:
            os._exit(_EXIT_PROTOCOL)
        except OSError:
            os._exit(0)

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
        self.requests.put(None)

    def _exactly(self, size: int) -> bytearray:
        buffer = bytearray(size)
        view = memoryview(buffer)
        while view:
            count = self._sock.recv_into(view)
            if not count:
                os._exit(0)
            view = view[count:]
        return buffer
