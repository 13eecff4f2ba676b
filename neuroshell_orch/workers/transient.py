"""Workers as transient services of the user's systemd: sandboxed, accounted, killed as a whole.

Owns the start of such a unit and the watch over its end: a pidfd says that the process is gone, the manager says
how. What the unit looks like is written in ``unit``, how one talks to the manager in ``manager``. Must not know what
is said to a worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, Final, Self

from dbus_fast import Variant

from neuroshell_orch.errors import OrchError
from neuroshell_orch.workers.appointment import appoint
from neuroshell_orch.workers.contract import Exit, WorkerSpec, exit_of
from neuroshell_orch.workers.environment import worker_environment
from neuroshell_orch.workers.manager import BusError, Listener, Manager
from neuroshell_orch.workers.unit import FAILED_STEPS, unit_name, unit_path, unit_properties

if TYPE_CHECKING:
    import socket

    from neuroshell_orch.workers.unit import Property

_SERVICE: Final = "org.freedesktop.systemd1.Service"
_CLD_EXITED: Final = 1
_START_SECONDS: Final = 30.0
_REPORT_SECONDS: Final = 1.0
"""How long the manager may take to say how a process ended that is already gone."""


class UnitHandle:
    """A running transient service."""

    def __init__(self, unit: str, manager: Manager) -> None:
        loop = asyncio.get_running_loop()
        self.unit: str | None = unit
        self.exited: asyncio.Future[Exit] = loop.create_future()
        self.job: asyncio.Future[str] = loop.create_future()
        self.known: dict[str, Any] = {}
        self._manager = manager
        self._loop = loop
        self._listener = Listener(unit, unit_path(unit), self._job_done, self._changed)
        self._pidfd: int | None = None
        self._pid = 0
        manager.watch(self._listener)

    @property
    def pid(self) -> int | None:
        """Its main process, None once it is gone."""
        return None if self.exited.done() or not self._pid else self._pid

    def kill(self) -> None:
        """End it at once; the manager cleans up behind it."""
        if self._pidfd is not None:
            with contextlib.suppress(ProcessLookupError):  # gone, and reaped by the manager already
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def started(self) -> None:
        """Wait until its program runs, then watch the process. Raises OrchError, TimeoutError."""
        result = await asyncio.wait_for(self.job, _START_SECONDS)
        if result != "done":
            raise _not_started(self._listener.unit, result, self.known)
        if not self.known.get("ExecMainPID"):
            try:
                self.known.update(await self._manager.properties(self._listener.path, _SERVICE))
            except BusError:  # ended and collected already
                self._conclude()
                return
        self._pid = int(self.known.get("ExecMainPID") or 0)
        try:
            self._pidfd = os.pidfd_open(self._pid) if self._pid and not self.known.get("ExecMainCode") else None
        except ProcessLookupError:
            self._pidfd = None
        if self._pidfd is None:
            self._gone()
        else:
            self._loop.add_reader(self._pidfd, self._gone)

    def abandon(self) -> None:
        """The start failed or was given up: nothing will be watched."""
        self._manager.unwatch(self._listener)
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None

    def _job_done(self, result: str) -> None:
        if not self.job.done():
            self.job.set_result(result)

    def _changed(self, values: dict[str, Any]) -> None:
        self.known.update(values)
        if self._pid and self._pidfd is None and self.known.get("ExecMainCode"):
            self._conclude()

    def _gone(self) -> None:
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None
        if self.known.get("ExecMainCode") or not self._manager.connected:
            self._conclude()
        else:
            self._loop.call_later(_REPORT_SECONDS, self._conclude)

    def _conclude(self) -> None:
        self._manager.unwatch(self._listener)
        if not self.exited.done():
            self.exited.set_result(exit_of_service(self.known))


def exit_of_service(known: dict[str, Any]) -> Exit:
    """How a service's main process ended, from the properties that the manager told."""
    code, status = known.get("ExecMainCode", 0), known.get("ExecMainStatus", 0)
    if known.get("Result") == "oom-kill":
        return Exit(
            signal=int(signal.SIGKILL),
            sentence="was ended by the kernel for lack of memory",
            hint="Close programs, choose a smaller model or raise its MemoryMax.",
        )
    if not code:
        return Exit()
    return exit_of(status if code == _CLD_EXITED else -status)


class SystemdLauncher:
    """Starts workers as transient services. Made by ``connect``."""

    kind = "systemd"

    def __init__(self, manager: Manager, bind_to: str | None) -> None:
        self._manager = manager
        self._bind_to = bind_to

    @classmethod
    async def connect(cls) -> Self:
        """Raises OrchError where there is no user manager."""
        manager = await Manager.connect()
        return cls(manager, await own_service(manager))

    async def launch(self, spec: WorkerSpec, stdin: socket.socket) -> UnitHandle:
        """Start one worker; returns once its program runs. Raises OrchError naming the unit and the setting."""
        if not self._manager.connected:
            self._manager = await Manager.connect()
        try:
            return await self._start(spec, unit_name(spec), stdin)
        except BusError as error:
            if not error.name.endswith(".UnitExists"):
                raise refused(unit_name(spec), error) from error
        # Left over by a daemon that was killed a moment ago: it is ending, so take another name.
        other = unit_name(spec, f"-{os.getpid()}")
        try:
            return await self._start(spec, other, stdin)
        except BusError as error:
            raise refused(other, error) from error

    async def appoint(self, at: float) -> bool:
        """Have this service started again at ``at`` (Unix seconds); False where it is none, or that cannot be."""
        if self._bind_to is None or not self._manager.connected:
            return False
        return await appoint(self._manager, self._bind_to, at)

    async def close(self) -> None:
        """Disconnect from the bus."""
        self._manager.close()

    async def _start(self, spec: WorkerSpec, name: str, stdin: socket.socket) -> UnitHandle:
        properties = unit_properties(
            spec,
            worker_environment(os.environ, spec.environment),
            descriptor_index=0,
            bind_to=self._bind_to,
            runtime_dir=os.environ.get("XDG_RUNTIME_DIR"),
        )
        return await start_unit(self._manager, name, properties, stdin)


async def start_unit(manager: Manager, name: str, properties: list[Property], stdin: socket.socket) -> UnitHandle:
    """Start the transient service ``name``; returns once its program runs. Raises OrchError, BusError."""
    body = [name, "fail", [[key, Variant(kind, value)] for key, kind, value in properties], []]
    handle = UnitHandle(name, manager)
    try:
        await manager.call("StartTransientUnit", "ssa(sv)a(sa(sv))", body, [stdin.fileno()])
        await handle.started()
    except (TimeoutError, EOFError, OSError) as error:
        handle.abandon()
        raise OrchError(
            "load-failed",
            f"systemd did not start {name}: {type(error).__name__} on the session bus.",
            "Is the session bus well? Set Launcher=child to go without units.",
        ) from error
    except BaseException:
        handle.abandon()
        raise
    return handle


async def own_service(manager: Manager) -> str | None:
    """The service of the user manager that this very process runs in, or None."""
    try:
        path = await manager.call("GetUnitByPID", "u", [os.getpid()])
        properties = await manager.properties(path, "org.freedesktop.systemd1.Unit")
    except BusError:
        return None
    name = str(properties.get("Id", ""))
    return name if name.endswith(".service") else None


def refused(unit: str, error: BusError) -> OrchError:
    """What to say when the manager does not want a unit."""
    return OrchError(
        "load-failed",
        f"systemd refused to start {unit}: {error.text or error.name}",
        "The setting it names is not known to this systemd. Set Launcher=child to go without units.",
    )


def _not_started(unit: str, result: str, known: dict[str, Any]) -> OrchError:
    status = known.get("ExecMainStatus", 0) if known.get("ExecMainCode") == _CLD_EXITED else 0
    step = FAILED_STEPS.get(status)
    what = f"could not apply {step} (status {status})" if step else f"ended with {known.get('Result') or result}"
    sys.stderr.write(f"{unit}: systemd {what}\n")
    return OrchError(
        "load-failed",
        f"The unit {unit} did not start: systemd {what}.",
        "Set Launcher=child to go without the sandbox, or see: journalctl --user -u " + unit,
    )
