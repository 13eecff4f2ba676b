"""The composition root: builds everything, starts it, and stops it in the right order.

Owns the sockets it was handed, the lock that tells others it is awake, the signals, readiness and the watchdog, and
the idle exit. Decides nothing about models. Must not import a runtime, nor anything that opens a GPU.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
import stat
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec

from neuroshell_orch import __version__
from neuroshell_orch.api.app import build
from neuroshell_orch.api.server import Server
from neuroshell_orch.config.load import load
from neuroshell_orch.config.paths import runtime_dir
from neuroshell_orch.core import messages as msg
from neuroshell_orch.core.settle import IDLE
from neuroshell_orch.core.state import due
from neuroshell_orch.errors import EXIT_UNAVAILABLE, OrchError
from neuroshell_orch.sd import activation, journal
from neuroshell_orch.sd.notify import Notifier, watchdog_interval
from neuroshell_orch.service import Service
from neuroshell_orch.workers.launch import choose_launcher

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path

LEAD_SECONDS: Final = 10.0
"""How long before a model is due the daemon wants to be there."""
CLOSE_SECONDS: Final = 2.0
"""How long responses that are complete may take to leave."""

_LEVELS: Final = {
    "debug": journal.DEBUG,
    "info": journal.INFO,
    "warning": journal.WARNING,
    "error": journal.ERR,
}


class ServeOptions(msgspec.Struct, frozen=True):
    """How the daemon was started. ``parent_fd``: at end of file there, the daemon ends."""

    parent_fd: int | None = None


class Lock:
    """Held while the daemon is awake: a client that finds it free knows that nothing is warm, and wakes nobody."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = folder / "daemon.lock"
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def take(self) -> None:
        """Raises OrchError when another daemon of this user is awake."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip()
            os.close(self._fd)
            hint = "Stop it first: systemctl --user stop nsorch.service"
            raise OrchError("not-allowed", f"Another nsorch serves this user already (pid {holder}).", hint) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Free it."""
        os.close(self._fd)


class Daemon:
    """One life of the daemon, from its sockets to its exit."""

    def __init__(self, options: ServeOptions, sockets: list[socket.socket], notifier: Notifier) -> None:
        self._options = options
        self._sockets = sockets
        self._notifier = notifier
        self._end: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False

    async def run(self) -> None:
        """Serve until idle or told to stop."""
        configuration = await asyncio.to_thread(load, lenient=True)
        level = _LEVELS[configuration.settings.log_level]
        # A daemon that lives for one command shares its terminal: there it only speaks up when something is wrong.
        journal.configure(level if self._options.parent_fd is None else min(level, journal.WARNING))
        alone = self._options.parent_fd is not None  # it ends with a command, and so must its workers
        launcher = await choose_launcher("child" if alone else configuration.settings.worker_launcher)
        self.service = Service(
            configuration,
            launcher,
            unit=activation.own_unit(),
            pong=self._notifier.watchdog,
            leave=self._leave,
        )
        self.server = Server(build(self.service), self._clients, lambda: self.service.configuration.settings)
        engine = asyncio.ensure_future(self.service.engine.run())
        self.service.start()
        for listener in self._sockets:
            self.server.listen(listener)
        self._handle_signals()
        self._watch_parent()
        if (interval := watchdog_interval()) is not None:
            self._spawn(self._ping(interval))
        self.server.resume()
        self._notifier.ready()
        journal.log(
            journal.NOTICE,
            f"nsorch {__version__} is ready: mode {configuration.settings.mode}, "
            f"{len(configuration.models)} models, workers by {launcher.kind}.",
            message_id=journal.STARTED,
            mode=configuration.settings.mode,
        )
        self._spawn(self._tell_status())
        both: tuple[asyncio.Future[None], asyncio.Future[str]] = (engine, self._end)
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if engine.done():
            engine.result()  # a defect: let it surface, and the manager start us anew
        await self._close(self._end.result())
        engine.cancel()
        with suppress(asyncio.CancelledError):
            await engine

    async def _close(self, reason: str) -> None:
        journal.log(journal.NOTICE, f"Stopping: {reason}.", message_id=journal.STOPPING, reason=reason)
        self._notifier.stopping()
        for task in self._tasks:
            task.cancel()
        self.service.listeners.close(reason)
        await self.server.close(CLOSE_SECONDS)
        for close in self.service.closing:
            await close()
        await self.service.desk.close()
        await self._appoint(reason)
        await self.service.pool.close()
        await self.service.accounts.close()
        await self.service.habits.close()

    async def _appoint(self, reason: str) -> None:
        """What a mode wants warm later on is no reason to stay, but one to come back."""
        wanted = due(self.service.engine.state)
        if reason != IDLE or wanted is None:
            return
        at = self.service.engine.wall(wanted) - LEAD_SECONDS
        if await self.service.pool.launcher.appoint(at):
            clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
            journal.log(journal.INFO, f"To be started again at {clock}, when a model is expected to be asked.")

    # ---- leaving ----

    def _leave(self, reason: str) -> None:
        """The core wants to exit. Whoever connected in the meantime is served first."""
        self.server.pause()
        asyncio.get_running_loop().call_soon(self._leave_if_alone, reason)

    def _leave_if_alone(self, reason: str) -> None:
        shutting_down = self.service.engine.state.draining is not None
        if shutting_down or (self.server.connections <= self.service.listeners.count and self.service.engine.idle):
            if not self._end.done():
                self._end.set_result(reason)
            return
        if not self._stopping:
            self.server.resume()
        self.service.engine.post(msg.Stay())

    def _shutdown(self) -> None:
        """SIGTERM, SIGINT, or the parent is gone: finish answers, take nothing new."""
        self._stopping = True
        self._notifier.stopping()
        self.server.pause()
        self.service.engine.post(msg.Shutdown(self.service.configuration.settings.stop_timeout_sec))

    # ---- the outside ----

    def _clients(self, count: int) -> None:
        self.service.clients(count)

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._shutdown)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._spawn(self._reload()))

    async def _reload(self) -> None:
        self._notifier.reloading()
        with suppress(OrchError):  # said in the journal and in the status; the old configuration stays
            await self.service.reload()
        self._notifier.ready()

    def _watch_parent(self) -> None:
        parent = self._options.parent_fd
        if parent is not None:
            loop = asyncio.get_running_loop()

            def gone() -> None:
                loop.remove_reader(parent)
                self._shutdown()

            loop.add_reader(parent, gone)

    async def _ping(self, interval: float) -> None:
        while True:
            self.service.engine.post(msg.Ping())
            await asyncio.sleep(interval)

    async def _tell_status(self) -> None:
        last = ""

        def news() -> bool:
            return self.service.summary() != last

        while True:
            await self.service.engine.until(news)
            last = self.service.summary()
            self._notifier.status(last)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _own_socket() -> socket.socket:
    """The socket of a daemon that was started by hand: the path the unit would listen on."""
    path = runtime_dir() / "api.sock"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with suppress(FileNotFoundError):
            if stat.S_ISSOCK(path.lstat().st_mode) and not _answers(path):
                path.unlink()  # left by a daemon that was killed; we hold the lock, so nobody serves it
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        listener.listen(128)
    except OSError as error:
        listener.close()
        hint = "If nsorch.socket is active, the service is there already: nsorch status"
        raise OrchError("not-allowed", f"Cannot listen on {path}: {error.strerror}.", hint) from error
    return listener


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


def main(options: ServeOptions | None = None) -> int:
    """Run the daemon in the foreground; returns its exit code."""
    began = time.monotonic()
    journal.configure()
    notifier = Notifier()
    try:
        given = activation.listen_sockets()
        lock = Lock(runtime_dir())
        lock.take()
        sockets = [listener for listeners in given.values() for listener in listeners] or [_own_socket()]
    except OrchError as error:
        journal.log(journal.ERR, str(error))
        notifier.close()
        return error.kind.exit_code or EXIT_UNAVAILABLE

    async def serve() -> None:
        await Daemon(options or ServeOptions(), sockets, notifier).run()

    try:
        asyncio.run(serve())
    finally:
        if not given:
            with suppress(FileNotFoundError):
                (runtime_dir() / "api.sock").unlink()  # it was ours; an activated one is systemd's
        lock.release()
        notifier.close()
    journal.log(journal.DEBUG, f"Gone after {time.monotonic() - began:.1f} s.")
    return 0
