"""Workers as plain child processes, for where there is no user manager.

Owns the start of a child and the watch over its end (a pidfd, so no signal handler and no thread). The child ties
itself to this process (see ``child``), which is why it must be started from the thread that lives as long as the
daemon does. Must not know what is said to a worker; memory limits are not enforced here.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from typing import TYPE_CHECKING

from neuroshell_orch.errors import OrchError
from neuroshell_orch.workers.contract import Exit, WorkerSpec, exit_of
from neuroshell_orch.workers.environment import COMMAND, PARENT, worker_environment

if TYPE_CHECKING:
    import socket


class ChildHandle:
    """A running child process."""

    unit: str | None = None

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._pidfd = os.pidfd_open(process.pid)
        self._loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[Exit] = self._loop.create_future()
        self._loop.add_reader(self._pidfd, self._gone)

    @property
    def pid(self) -> int | None:
        """Its process id, None once it is gone: the number may be somebody else's by then."""
        return None if self.exited.done() else self._process.pid

    def _gone(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self.exited.set_result(exit_of(self._process.wait()))

    def kill(self) -> None:
        """End it at once; works on a stopped process too."""
        if not self.exited.done():
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)


class ChildLauncher:
    """Starts workers as children of this process."""

    kind = "child"

    async def launch(self, spec: WorkerSpec, stdin: socket.socket) -> ChildHandle:
        """Start one worker with ``stdin`` as its descriptor 0; its output goes where ours goes."""
        environment = worker_environment(os.environ, {PARENT: str(os.getpid()), **spec.environment})
        try:
            # A session of its own: Ctrl-C in the terminal of `nsorch ask` is for the daemon to handle, not for us.
            process = subprocess.Popen(COMMAND, stdin=stdin.fileno(), env=environment, start_new_session=True)  # noqa: ASYNC220
        except OSError as error:
            raise OrchError(
                "load-failed",
                f"The worker for {spec.name} could not be started: {error.strerror}.",
                "Is the machine out of processes or memory?",
            ) from error
        return ChildHandle(process)

    async def appoint(self, at: float) -> bool:  # noqa: ARG002 - the launcher's signature
        """Nobody is there who could start this program again."""
        return False

    async def close(self) -> None:
        """Nothing is held between launches."""
