"""What a launcher is to the rest: the request for a process, the handle of one, and how one can end.

Owns WorkerSpec, Exit, the two protocols and the sentences about an end. Shared by both launchers and by
``process``; must not know how a process is started, nor what is said to it.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

if TYPE_CHECKING:
    import asyncio
    import socket


class WorkerSpec(msgspec.Struct, frozen=True):
    """The process that is wanted: ``name`` is the model's, ``number`` makes it unique within this daemon.

    ``memory_max`` is in bytes and holds only where the launcher can enforce it; ``environment`` is added last.
    """

    name: str
    number: int
    memory_max: int | None = None
    environment: dict[str, str] = {}


class Exit(msgspec.Struct, frozen=True):
    """How a process ended: ``code`` or ``signal`` is set, or neither where nobody could tell.

    ``sentence`` is for people and fits behind the name of the worker; ``hint`` says what to do about it.
    """

    code: int | None = None
    signal: int | None = None
    sentence: str = "ended; how is not known"
    hint: str = ""


class Handle(Protocol):
    """One started process."""

    @property
    def pid(self) -> int | None:
        """Its process id, or None where it is not known (any more)."""

    @property
    def unit(self) -> str | None:
        """Its systemd unit, or None where it is a child process."""

    @property
    def exited(self) -> asyncio.Future[Exit]:
        """Resolved once, when the process is gone."""

    def kill(self) -> None:
        """End it at once, whatever it does. Harmless when it is gone already."""


class Launcher(Protocol):
    """Starts workers."""

    @property
    def kind(self) -> str:
        """``systemd`` or ``child``."""

    async def launch(self, spec: WorkerSpec, stdin: socket.socket) -> Handle:
        """Start one worker with ``stdin`` as its descriptor 0. The caller closes its own copy. Raises OrchError."""

    async def appoint(self, at: float) -> bool:
        """Have this program started again at ``at`` (Unix seconds), though nobody connects; whether that will be."""

    async def close(self) -> None:
        """Let go of what the launcher itself holds. Workers are stopped by their owner."""


_JOURNAL: Final = "The journal of the service has its last words (journalctl --user -u 'nsorch*')."
_SIGNALS: Final[dict[int, str]] = {
    signal.SIGKILL: "Most often the kernel did this for lack of memory: close programs, choose a smaller model or "
    "raise its MemoryMax.",
    signal.SIGSEGV: "The runtime crashed in its own code; the model may be damaged or not fit this version of it.",
    signal.SIGBUS: "The model's file was changed or cut off while it was in use: fetch or add the model again.",
    signal.SIGABRT: "The runtime gave up, which is often lack of memory. " + _JOURNAL,
    signal.SIGILL: "The runtime used an instruction that this processor does not have.",
    signal.SIGSYS: "The runtime used a system call that the sandbox forbids. " + _JOURNAL,
}


def exit_of(returncode: int) -> Exit:
    """The end that ``subprocess`` and ``waitpid`` report as ``returncode``: below zero is a signal."""
    if returncode >= 0:
        return Exit(code=returncode, sentence=f"ended with exit code {returncode}", hint=_JOURNAL if returncode else "")
    number = -returncode
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    return Exit(signal=number, sentence=f"was killed by {name}", hint=_SIGNALS.get(number, _JOURNAL))
