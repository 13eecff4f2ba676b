"""The engine: the one task that owns all state. Events go into its inbox, actions come out and are performed.

Owns the inbox, the clock, the waiting askers and the history of transitions. Decides nothing (``core.step`` does) and
does nothing to a worker (the pool does). Everything here runs on one event loop, so there are no locks.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextvars import Context, copy_context
from typing import Final

from neuroshell_orch.api.schema import Transition
from neuroshell_orch.core import messages as msg
from neuroshell_orch.core.state import State, next_deadline
from neuroshell_orch.core.step import step
from neuroshell_orch.errors import OrchError

HISTORY: Final = 64
"""Transitions remembered for each model."""


class Engine:
    """Runs ``core.step``. ``perform`` carries out worker actions; ``changed`` hears of each transition.

    ``pong`` is called for each Ping that went round the inbox, ``leave`` when the core wants to exit.
    """

    def __init__(
        self,
        perform: Callable[[msg.WorkerAction], None],
        *,
        changed: Callable[[msg.Changed], None],
        pong: Callable[[], None],
        leave: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.state = State(started=clock())
        self.history: dict[str, deque[Transition]] = {}
        self._perform = perform
        self._changed = changed
        self._pong = pong
        self._leave = leave
        self._clock = clock
        self._inbox: deque[msg.Event] = deque()
        self._news: asyncio.Future[None] | None = None
        """What ``run`` waits for, while it waits."""
        self._alarm: asyncio.TimerHandle | None = None
        self._context = Context()
        self._waiting: dict[str, asyncio.Future[int]] = {}
        self._grants: dict[str, asyncio.Future[list[str]]] = {}
        self._cancels: dict[str, Callable[[], None]] = {}
        self._watchers: set[asyncio.Event] = set()
        self._names = itertools.count(1)
        self._posted = 0
        self.taken = 0

    @property
    def idle(self) -> bool:
        """Whether everything that was posted has been dealt with."""
        return not self._inbox

    def post(self, event: msg.Event) -> int:
        """Put ``event`` into the inbox. Returns its number: once ``taken`` is at least that, it has been dealt with."""
        self._inbox.append(event)
        self._posted += 1
        self._wake()
        return self._posted

    async def run(self) -> None:
        """Take events until cancelled."""
        self._context = copy_context()
        try:
            while True:
                self._drain()
                self._news = asyncio.get_running_loop().create_future()
                try:
                    await self._news
                finally:
                    self._news = None
        finally:
            if self._alarm is not None:
                self._alarm.cancel()

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def _at_once(self) -> None:
        """What ``run`` would do when its turn comes, while it waits anyway: an ask saves two turns of the event loop.

        It happens in the engine's own context, so that what it says is not said on behalf of a request.
        """
        news = self._news
        if news is None or news.done():
            return
        self._news = None
        try:
            self._context.run(self._drain)
        except BaseException as defect:
            news.set_exception(defect)  # the engine ends of it as if it had come upon it by itself
            raise
        self._news = news

    def _drain(self) -> None:
        """Deal with what is in the inbox, or with the time that has come; sees to it that nobody oversleeps."""
        while self._inbox:
            event = self._inbox.popleft()
            self.taken += 1
            self._take(event)
        deadline = next_deadline(self.state)
        if deadline is not None and deadline <= self._clock():
            self._take(msg.Tick())
            deadline = next_deadline(self.state)
        if deadline is not None or self._inbox:
            self._set_alarm(0.0 if deadline is None or self._inbox else deadline - self._clock())

    def _set_alarm(self, seconds: float) -> None:
        """One that would ring earlier may stay: whoever is woken too early looks at the clock and sets it anew."""
        loop = asyncio.get_running_loop()
        at = loop.time() + max(0.0, seconds)
        if self._alarm is not None:
            if self._alarm.when() <= at:
                return
            self._alarm.cancel()
        self._alarm = loop.call_at(at, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self._wake()

    def _take(self, event: msg.Event) -> None:
        for action in step(self.state, event, self._clock()):
            self._do(action)
        for watcher in self._watchers:
            watcher.set()

    def _do(self, action: msg.Action) -> None:
        match action:
            case msg.WorkerAction():
                self._perform(action)
            case msg.Dispatch():
                self._answer(action.ask, action.worker)
            case msg.Refuse():
                self._answer(action.ask, OrchError(action.problem, action.message, action.hint, action.retry_after))
            case msg.CancelAnswer():
                if (cancel := self._cancels.get(action.ask)) is not None:
                    cancel()
            case msg.Changed():
                self._remember(action)
                self._changed(action)
            case msg.Granted():
                if (grant := self._grants.get(action.lease)) is not None and not grant.done():
                    grant.set_result(list(action.held))
            case msg.Pong():
                self._pong()
            case msg.Exit():
                self._leave(action.reason)

    # ---- asks ----

    async def ask(self, model: str, options: msg.AskOptions = msg.NO_OPTIONS) -> tuple[str, int]:
        """Wait for a turn with ``model``: the ask's name and the number of the worker that will answer.

        Whoever got it must end it with ``finished``. Raises OrchError when refused. Giving up waiting withdraws it.
        """
        name = f"ask-{next(self._names)}"
        turn: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting[name] = turn
        self._inbox.append(msg.Asked(name, model, options))
        self._posted += 1
        self._at_once()
        try:
            return name, await turn
        except asyncio.CancelledError:
            dispatched = turn.done() and not turn.cancelled() and turn.exception() is None
            self.post(msg.Finished(name) if dispatched else msg.Cancelled(name))
            raise

    def _answer(self, name: str, outcome: int | OrchError) -> None:
        turn = self._waiting.pop(name)
        if turn.done():  # its asker left while this was decided
            if isinstance(outcome, int):
                self.post(msg.Finished(name))
        elif isinstance(outcome, int):
            turn.set_result(outcome)
        else:
            turn.set_exception(outcome)

    def cancel(self, name: str, stop: Callable[[], None]) -> None:
        """The client of a dispatched ask is gone; ``stop`` tells its worker. It still ends with ``finished``."""
        self._cancels[name] = stop
        self.post(msg.Cancelled(name))

    def finished(self, name: str, *, hold: bool = False) -> None:
        """A dispatched ask is over; with ``hold`` it was there only to make the model ready."""
        self._cancels.pop(name, None)
        self.post(msg.Finished(name, hold))

    async def lease(
        self, label: str, memory: bool, holder: tuple[int, int] | None = None
    ) -> AsyncGenerator[list[str], None]:
        """Take a lease; yields once, when it is granted, the models that still hold something. Ends with the loop."""
        name = f"lease-{next(self._names)}"
        grant = self._grants[name] = asyncio.get_running_loop().create_future()
        self.post(msg.Leased(name, label, memory, holder))
        try:
            yield await grant
            await asyncio.get_running_loop().create_future()  # until the holder is gone
        finally:
            del self._grants[name]
            self.post(msg.Released(name))

    # ---- what others may see ----

    async def until(self, fact: Callable[[], bool]) -> None:
        """Wait until ``fact`` is true; it is looked at again after each event."""
        watcher = asyncio.Event()
        self._watchers.add(watcher)
        try:
            while not fact():
                await watcher.wait()
                watcher.clear()
        finally:
            self._watchers.discard(watcher)

    def wall(self, instant: float) -> float:
        """``instant`` of the engine's clock in Unix seconds."""
        return time.time() + (instant - self._clock())

    def now(self) -> float:
        """The engine's clock."""
        return self._clock()

    def _remember(self, change: msg.Changed) -> None:
        past = self.history.setdefault(change.model, deque(maxlen=HISTORY))
        past.append(Transition(time.time(), change.before, change.after, change.reason))
