"""Workers as plain child processes, for where there is no user manager.

Owns the start of a child and the watch over its end (a pidfd, so no signal handler and no thread). The child ties
itself to this process (see ``child``), which is why it must be started from the thread that lives as long as the
daemon does. Must not know what is said to a worker; memory limits are not enforced here.
"""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

from neuroshell_orch.errors import OrchError
from neuroshell_orch.workers.bare import worker_process
from neuroshell_orch.workers.contract import Exit, WorkerSpec, exit_of

if TYPE_CHECKING:
    import socket


class ChildHandle:
    """A running child process."""

    unit: str | None = None

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._pidfd = os.pidfd_open(pid)
        self._loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[Exit] = self._loop.create_future()
        self._loop.add_reader(self._pidfd, self._gone)

    @property
    def pid(self) -> int | None:
        """Its process id, None once it is gone: the number may be somebody else's by then."""
        return None if self.exited.done() else self._pid

    def _gone(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        _pid, status = os.waitpid(self._pid, 0)
        self.exited.set_result(exit_of(os.waitstatus_to_exitcode(status)))

    def kill(self) -> None:
        """End it at once; works on a stopped process too."""
        if not self.exited.done():
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)


class ChildLauncher:
    """Starts workers as children of this process."""

    kind = "child"

    async def launch(self, spec: WorkerSpec, stdin: socket.socket) -> ChildHandle:
        """Start one worker with ``stdin`` as its descriptor 0; its output goes where ours goes."""
        try:
            pid = worker_process(stdin.fileno(), spec.environment)
        except OSError as error:
            raise OrchError(
                "load-failed",
                f"The worker for {spec.name} could not be started: {error.strerror}.",
                "Is the machine out of processes or memory?",
            ) from error
        return ChildHandle(pid)

    async def appoint(self, at: float) -> bool:  # noqa: ARG002 - the launcher's signature
        """Nobody is there who could start this program again."""
        return False

    async def close(self) -> None:
        """Nothing is held between launches."""
