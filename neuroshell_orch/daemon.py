"""The composition root: builds everything, starts it, and stops it in the right order.

Owns the sockets it was handed, the signals, readiness and the watchdog, and the idle exit; what comes before it is
imported is ``start``'s. Decides nothing about models. Must not import a runtime, nor anything that opens a GPU.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from neuroshell_orch import __version__
from neuroshell_orch.api.app import build
from neuroshell_orch.api.server import Server
from neuroshell_orch.config.cache import load_kept
from neuroshell_orch.config.paths import cache_dir
from neuroshell_orch.config.tree import sources
from neuroshell_orch.core import messages as msg
from neuroshell_orch.core.settle import IDLE
from neuroshell_orch.core.state import due
from neuroshell_orch.errors import OrchError
from neuroshell_orch.marks import mark
from neuroshell_orch.sd import activation, journal
from neuroshell_orch.sd.notify import watchdog_interval
from neuroshell_orch.service import Service
from neuroshell_orch.start import state_file
from neuroshell_orch.workers import likely
from neuroshell_orch.workers.ahead import Ahead, frames
from neuroshell_orch.workers.contract import WorkerSpec
from neuroshell_orch.workers.launch import choose_launcher
from neuroshell_orch.workers.process import Worker
from neuroshell_orch.workers.spawn import ChildHandle

if TYPE_CHECKING:
    import socket
    from collections.abc import Coroutine

    from neuroshell_orch.sd.notify import Notifier
    from neuroshell_orch.start import Early
    from neuroshell_orch.workers.contract import Launcher

LEAD_SECONDS: Final = 10.0
"""How long before a model is due the daemon wants to be there."""
CLOSE_SECONDS: Final = 2.0
"""How long responses that are complete may take to leave."""

_RUNTIMES: Final = ("onnxruntime", "onnxruntime_genai")
_MACHINE: Final = "/etc/machine-id"
"""A home folder may be shared between machines; a note that was left on another one is void."""

_LEVELS: Final = {
    "debug": journal.DEBUG,
    "info": journal.INFO,
    "warning": journal.WARNING,
    "error": journal.ERR,
}


class Daemon:
    """One life of the daemon, from its sockets to its exit."""

    def __init__(self, parent_fd: int | None, sockets: list[socket.socket], notifier: Notifier, early: Early) -> None:
        self._parent = parent_fd
        self._early = early
        self._sockets = sockets
        self._notifier = notifier
        self._end: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False

    async def run(self) -> None:
        """Serve until idle or told to stop."""
        configuration = await asyncio.to_thread(load_kept, cache_dir() / "configuration")
        level = _LEVELS[configuration.settings.log_level]
        # A daemon that lives for one command shares its terminal: there it only speaks up when something is wrong.
        alone = self._parent is not None  # it ends with a command, and so must its workers
        journal.configure(min(level, journal.WARNING) if alone else level)
        launcher = await self._launcher("child" if alone else configuration.settings.worker_launcher)
        self.service = Service(
            configuration,
            launcher,
            unit=activation.own_unit(),
            pong=self._notifier.watchdog,
            leave=self._leave,
        )
        self.server = Server(build(self.service), self._clients, lambda: self.service.configuration.settings)
        if (ahead := self._ahead()) is not None:
            self.service.pool.keep(ahead)
        engine = asyncio.ensure_future(self.service.engine.run())
        self.service.start()
        for listener in self._sockets:
            self.server.listen(listener)
        self._handle_signals()
        self._watch_parent()
        if (interval := watchdog_interval()) is not None:
            self._spawn(self._ping(interval))
        self.server.resume()
        mark("ready")
        gc.freeze()  # all that was imported stays: a collection that looks at it again takes milliseconds
        for connection in self._early.connections:
            self.server.take(connection)
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
        self._leave_note()

    async def _appoint(self, reason: str) -> None:
        """What a mode wants warm later on is no reason to stay, but one to come back."""
        wanted = due(self.service.engine.state)
        if reason != IDLE or wanted is None:
            return
        at = self.service.engine.wall(wanted) - LEAD_SECONDS
        if await self.service.pool.launcher.appoint(at):
            clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
            journal.log(journal.INFO, f"To be started again at {clock}, when a model is expected to be asked.")

    # ---- the worker that is started ahead ----

    async def _launcher(self, preference: str) -> Launcher:
        """The one that has started a worker already, if it is the right one."""
        early = self._early.launcher
        if early is not None and preference in {"auto", early.kind}:
            return early
        if early is not None:
            await early.close()
        return await choose_launcher(preference)

    def _ahead(self) -> Ahead | None:
        early, note = self._early, self._early.note
        if note is None or early.sock is None:
            return None
        handle = early.handle or ChildHandle(early.pid or 0)
        worker = Worker(WorkerSpec(name=note.model, number=0, memory_max=note.memory_max), handle, early.sock)
        return Ahead(note, worker, note.launcher, early.began, loads=early.loads)

    def _leave_note(self) -> None:
        """Tell the next daemon which worker it will most likely need."""
        last, configuration = self.service.pool.last, self.service.configuration
        if last is None or last[0] not in configuration.models:
            return
        model, load, memory_max = last
        plan = self.service.engine.state.plans.get(model)
        budget = self.service.engine.state.limits.budget
        if plan is None or any(size > budget.get(name, size) for name, size in plan.cost.hot.items()):
            likely.forget(state_file(self._parent is not None))  # it would be refused
            return
        default = model == configuration.settings.default_model
        kind = self.service.pool.launcher.kind
        note = likely.Likely(kind, model, *frames(load), default=default, memory_max=memory_max)
        path = Path(load.path)
        runtimes = [spec.origin for name in _RUNTIMES if (spec := find_spec(name)) is not None and spec.origin]
        with suppress(OSError):
            files = [str(path), *(map(str, path.iterdir()) if path.is_dir() else ())]
            derived = [*sources(model, configuration.mode_of(model).name), *runtimes, *files, _MACHINE]
            likely.write(state_file(self._parent is not None), note, __version__, derived)

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
        parent = self._parent
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
        last, news = "", self.service.news
        while True:
            if (line := self.service.summary()) != last:
                self._notifier.status(line)
                last = line
            await news.wait()
            news.clear()

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
