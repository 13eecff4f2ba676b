"""All workers of this daemon: carries out what the engine decided, and reports what came of it.

Owns the live ``Worker`` of each number, the task that each action runs in, and the measurement of memory around an
unload. Reports every end exactly once. Must not decide anything: what it is told may be senseless, and still it does
it.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

import msgspec

from neuroshell_orch.api.schema import Freed, Memory
from neuroshell_orch.core import messages as msg
from neuroshell_orch.core.warmth import Warmth
from neuroshell_orch.errors import OrchError
from neuroshell_orch.sd import journal
from neuroshell_orch.workers import verify
from neuroshell_orch.workers.contract import Exit, Launcher, WorkerSpec
from neuroshell_orch.workers.process import Worker
from neuroshell_orch.workers.protocol import Load, Loaded

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from neuroshell_orch.planning import Order
    from neuroshell_orch.workers.ahead import Ahead, Taken
    from neuroshell_orch.workers.preparing import Preparer

NOTE_SECONDS: Final = 0.5
"""How often a serving worker's memory is measured at the most."""


class Pool:
    """Workers by number. ``post`` takes reports, ``order`` says how a model is loaded, ``freed`` hears measurements."""

    def __init__(
        self,
        launcher: Launcher,
        preparer: Preparer,
        post: Callable[[msg.Event], object],
        order: Callable[[str], Order],
        freed: Callable[[str, Freed], None],
        measured: Callable[[str, Warmth, int, tuple[Warmth, float] | None, int | None], None],
        driver: Callable[[int], Awaitable[dict[str, int]]] = verify.no_driver,
    ) -> None:
        self.launcher = launcher
        self._preparer = preparer
        self._post = post
        self._order = order
        self._freed = freed
        self._measured_cost = measured
        self._driver = driver
        self._workers: dict[int, Worker] = {}
        self._loaded: dict[int, Loaded] = {}
        self._started: dict[int, asyncio.Future[Worker | None]] = {}
        self._noted: dict[int, float] = {}
        self._ending: dict[int, tuple[verify.Before, asyncio.Future[None]]] = {}
        self._verifying: dict[str, asyncio.Task[None]] = {}
        self._asleep: set[int] = set()
        self._ahead: Ahead | None = None
        self._taking = asyncio.Lock()
        self.last: tuple[str, Load, int | None] | None = None
        """What was loaded last, how, and within how much memory."""
        self._tasks: set[asyncio.Task[None]] = set()

    def worker(self, number: int) -> Worker:
        """The live worker with this number. Raises OrchError when it is gone already."""
        try:
            return self._workers[number]
        except KeyError:
            message = "The model's worker ended before it could answer."
            raise OrchError("worker-died", message, "Ask again.") from None

    def find(self, number: int | None) -> Worker | None:
        """The live worker with this number, if there is one."""
        return None if number is None else self._workers.get(number)

    def loaded(self, number: int | None) -> Loaded | None:
        """What the worker said when its model was loaded."""
        return None if number is None else self._loaded.get(number)

    def memory(self, number: int | None) -> Memory | None:
        """What the worker takes right now, from the kernel."""
        worker = self.find(number)
        return None if worker is None else worker.memory()

    def note(self, model: str, number: int, warmth: Warmth, wake: tuple[Warmth, float] | None = None) -> None:
        """Measure what the worker takes on this rung, and tell it together with what a wake took.

        After an answer that is done at most every half second: reading it walks the page tables.
        """
        now = time.monotonic()
        if wake is None and warmth is Warmth.HOT and now < self._noted.get(number, 0.0) + NOTE_SECONDS:
            return
        self._noted[number] = now
        memory = self.memory(number)
        worker = self.find(number)
        size = 0 if memory is None else max(memory.pss, memory.cgroup or 0)
        self._measured_cost(model, warmth, size, wake, None if worker is None else worker.pid)

    def perform(self, action: msg.WorkerAction) -> None:
        """Start doing it; the outcome comes as a report."""
        match action:
            case msg.StartStandby() | msg.StartLoad():
                self._started[action.worker] = asyncio.get_running_loop().create_future()
                self._spawn(self._start(action))
            case msg.Load():
                self._spawn(self._load(action))
            case msg.Hibernate():
                self._spawn(self._hibernate(action))
            case msg.Wake():
                self._spawn(self._wake(action))
            case msg.Stop():
                self._spawn(self._stop(action))

    def keep(self, ahead: Ahead) -> None:
        """Use the worker that was started ahead, for the first that is wanted or not at all."""
        self._ahead = ahead
        ahead.give_up_later(self._spawn)

    async def close(self) -> None:
        """End every worker that is left and wait for all tasks. Only for the end of the daemon."""
        if self._ahead is not None:
            await self._ahead.drop()
        await self._preparer.close()
        await asyncio.gather(*(worker.stop() for worker in self._workers.values()))
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self.launcher.close()

    # ---- actions ----

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _start(self, action: msg.StartStandby | msg.StartLoad) -> None:
        number = action.worker
        try:
            order = self._order(action.model)
            taken = await self._take_ahead(action, order)
            if taken is None:
                spec = WorkerSpec(name=action.model, number=number, memory_max=order.memory_max)
                worker = await Worker.start(self.launcher, spec)
            else:
                worker = taken.worker
        except OrchError as error:
            self._started.pop(number).set_result(None)
            self._post(msg.Gone(action.model, number, error.message, error.hint))
            return
        self._workers[number] = worker
        self._started.pop(number).set_result(worker)
        worker.exited.add_done_callback(lambda done: self._exited(action.model, number, done.result()))
        if isinstance(action, msg.StartLoad):
            await self._load(action, taken)
            return
        try:
            await worker.standby(order.load.runtime, await self._preparer.path_now(order))
        except OrchError as error:
            self._failed(action, error)
        else:
            self._post(msg.Parked(action.model, number))
            self.note(action.model, number, Warmth.PARKED)

    async def _take_ahead(self, action: msg.StartStandby | msg.StartLoad, order: Order) -> Taken | None:
        async with self._taking:  # nobody starts another one before this one is taken or gone
            ahead, self._ahead = self._ahead, None
            if ahead is None:
                return None
            loads = ahead.loads and isinstance(action, msg.StartLoad)
            load = await self._load_of(action, order) if loads else None
            taken = await ahead.take(action.model, action.worker, self.launcher.kind, order, load)
        journal.log(journal.DEBUG, f"{action.model}: the worker started ahead is {'used' if taken else 'of no use'}")
        return taken

    async def _load_of(self, action: msg.WorkerAction, order: Order) -> Load:
        load = await self._preparer.load_of(order)
        if isinstance(action, msg.StartLoad | msg.Load) and action.device:
            load = msgspec.structs.replace(load, options={**load.options, "device": action.device})
        return load

    async def _load(self, action: msg.StartLoad | msg.Load, taken: Taken | None = None) -> None:
        began = time.monotonic() if taken is None else taken.began
        worker = await self._ready(action.worker)
        if worker is None:
            return
        try:
            order = self._order(action.model)
            if taken is None or taken.loads is None:
                load = await self._load_of(action, order)
                loaded = await worker.load(load)
            else:
                load, loading = taken.loads
                loaded = await loading
        except OrchError as error:
            self._failed(action, error)
            return
        self.last = (action.model, load, order.memory_max)
        self._loaded[action.worker] = loaded
        start = Warmth.PARKED if isinstance(action, msg.Load) else Warmth.COLD
        self.note(action.model, action.worker, Warmth.HOT, (start, time.monotonic() - began))
        # What lies on an accelerator is not given back by a page that goes: only the end of the process frees it.
        can_hibernate = loaded.can_hibernate and loaded.device == "cpu"
        self._post(msg.Loaded(action.model, action.worker, loaded.seconds, can_hibernate))

    async def _hibernate(self, action: msg.Hibernate) -> None:
        worker = await self._ready(action.worker)
        if worker is None:
            return
        before = worker.memory()
        try:
            done = await worker.hibernate()
        except OrchError as error:
            self._failed(action, error)
            return
        self._asleep.add(action.worker)
        self._verify(action.model, self._come_back(action, worker, before, done.given_back))
        self.note(action.model, action.worker, Warmth.HIBERNATED)
        self._post(msg.Hibernated(action.model, action.worker))

    async def _wake(self, action: msg.Wake) -> None:
        worker = await self._ready(action.worker)
        if worker is None:
            return
        self._asleep.discard(action.worker)
        try:
            woken = await worker.wake()
        except OrchError as error:
            self._failed(action, error)
        else:
            self._post(msg.Woken(action.model, action.worker))
            self.note(action.model, action.worker, Warmth.HOT, (Warmth.HIBERNATED, woken.seconds))

    async def _stop(self, action: msg.Stop) -> None:
        worker = await self._ready(action.worker)
        if worker is None:
            return  # it never came to life, or is gone: that was reported
        self._asleep.discard(action.worker)
        self._verify(action.model, self._end(action.model, worker))

    def _verify(self, model: str, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._verifying[model] = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda done: self._verifying.get(model) is done and self._verifying.pop(model))

    async def verified(self, model: str) -> None:
        """Wait until what the last unload of ``model`` gave back is known."""
        if (task := self._verifying.get(model)) is not None:
            await asyncio.wait([task])

    async def _end(self, model: str, worker: Worker) -> None:
        """A process that is gone has given back its own; one that is not after five seconds still holds it."""
        before = await verify.look(worker, self._driver)
        seen: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if worker.number in self._workers:
            self._ending[worker.number] = (before, seen)
        else:
            seen.set_result(None)  # it ended by itself meanwhile
        stopping = asyncio.ensure_future(worker.stop())
        await asyncio.wait([stopping], timeout=verify.GONE_SECONDS)
        if not stopping.done():
            lost = f"its process was still there {verify.GONE_SECONDS:g} s after it was killed"
            self._told(model, verify.freed(before, worker.memory(), lost))
        await stopping
        await seen

    async def _come_back(self, action: msg.Hibernate, worker: Worker, before: Memory | None, promised: int) -> None:
        """Look until what the worker gave back is back."""
        if before is None:
            return
        began, expected, lost = time.monotonic(), verify.enough(promised, before.pss), ""
        while (after := worker.memory()) is not None and before.pss - after.pss < expected:
            if action.worker not in self._asleep:
                return  # woken already: nothing can be said
            if time.monotonic() >= began + verify.GONE_SECONDS:
                short = verify.size(expected - (before.pss - after.pss))
                lost = f"the worker gave its weights back, and the kernel still counts {short} of them"
                break
            await asyncio.sleep(verify.POLL_SECONDS)
        left = 0 if after is None else after.pss
        group = (before.cgroup, None if after is None else after.cgroup)
        self._told(action.model, Freed(before.pss, left, time.monotonic() - began, expected, lost, *group))

    # ---- reports ----

    async def _ready(self, number: int) -> Worker | None:
        """The worker once it has been started; None when that failed or it is gone."""
        started = self._started.get(number)
        return await started if started is not None else self._workers.get(number)

    def _told(self, model: str, freed: Freed | None) -> None:
        if freed is not None:
            self._freed(model, freed)

    def _failed(self, action: msg.WorkerAction, error: OrchError) -> None:
        """An operation failed. A worker that died of it reports that by itself, once."""
        worker = self._workers.get(action.worker)
        if worker is not None and not worker.exited.done() and error.problem != "worker-died":
            self._post(msg.Failed(action.model, action.worker, error.problem, error.message, error.hint))

    def _exited(self, model: str, number: int, end: Exit) -> None:
        del self._workers[number]
        self._loaded.pop(number, None)
        self._noted.pop(number, None)
        before, seen = self._ending.pop(number, (None, None))
        gone = msg.Gone(model, number, f"The worker of {model} {end.sentence}.", end.hint)
        if before is None or seen is None:
            self._post(gone)
        elif before.beyond:
            self._spawn(self._seen_back(before, seen, gone))
        else:
            self._tell_end(verify.freed(before, None), seen, gone)

    async def _seen_back(self, before: verify.Before, seen: asyncio.Future[None], gone: msg.Gone) -> None:
        self._tell_end(await verify.see_back(before, self._driver), seen, gone)

    def _tell_end(self, freed: Freed | None, seen: asyncio.Future[None], gone: msg.Gone) -> None:
        """What came back is said before the end, so that who sees the model COLD sees that, too."""
        self._told(gone.model, freed)
        self._post(gone)
        seen.set_result(None)
