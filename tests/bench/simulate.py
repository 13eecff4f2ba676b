"""The engine in virtual time: the same ``core.step`` as in the daemon, with workers that only take their time.

Owns the clock, the made-up workers, what is counted, and the contestants: policies of other programs, our modes, and an
oracle that knows the future. Other people's policies run on our engine too, so that only the policy differs:
a fixed time and none at all are our modes timeout and dynamic; least-recently-used ones keep all they may and are
told to unload by a rule that stands here.

A cold start is an ask that found its model COLD, or on its way from there. A model that is woken from HIBERNATED or
PARKED is no cold start, but its wake is waited for and its memory is held. Memory counts from the moment a worker is
told to go up until its process is gone.
"""

from __future__ import annotations

import heapq
import itertools
import math
from bisect import bisect_right
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple
from unittest import mock

import msgspec

from neuroshell_orch.core import messages as m
from neuroshell_orch.core.budget import RAM, Cost
from neuroshell_orch.core.lifecycle import Phase
from neuroshell_orch.core.modes import POLICIES, Facts, Parameters, Wish
from neuroshell_orch.core.state import State, next_deadline
from neuroshell_orch.core.step import step
from neuroshell_orch.core.warmth import Warmth

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.bench.traces import Trace

MIB = 1 << 20
STOPS = 0.04
"""Seconds from the order to end a worker until it is gone."""
HIBERNATES = 0.02

SMALL = Cost({RAM: 198 * MIB}, {RAM: 75 * MIB}, {RAM: 50 * MIB}, 0.5, 0.35, 0.1, measured=True)
"""SmolLM2-135M in 4 bits, as measured: hibernated from its prepared copy; the page cache is warm."""

_TIMES = 4096 / 198
LARGE = Cost(
    {RAM: 4096 * MIB},
    {RAM: int((50 + 25 * _TIMES) * MIB)},
    {RAM: 50 * MIB},
    0.15 + 0.35 * _TIMES,
    0.35 * _TIMES,
    0.1 * _TIMES,
    measured=True,
)
"""A model of 4 GiB, scaled by its bytes: all but the runtime (50 MiB, 0.15 s to start) grows with the weights."""


class Contestant(NamedTuple):
    """A mode, and for the least-recently-used ones how many models, or bytes, may be there at once."""

    mode: Parameters
    count: int = 0
    size: int = 0


def contestants(cost: Cost) -> dict[str, Contestant]:
    """Everybody in the table, by name."""
    always = Parameters("keep", "timeout", idle=math.inf)
    return {
        "fixed 5 min": Contestant(Parameters("fixed", "timeout", idle=300.0)),
        "LRU, 3 models": Contestant(always, count=3),
        "LRU, memory of 8 models": Contestant(always, size=8 * cost.hot[RAM]),
        "no keep-alive = dynamic": Contestant(Parameters("dynamic", "dynamic")),
        "persistent": Contestant(Parameters("persistent", "persistent")),
        "dummy-swap": Contestant(Parameters("dummy-swap", "dummy-swap", idle=60.0)),
        "hibernate": Contestant(Parameters("hibernate", "hibernate", idle=60.0, forget=3600.0)),
        "adaptive": Contestant(Parameters("adaptive", "adaptive", idle=300.0)),
        "oracle": Contestant(Parameters("oracle", "oracle")),
    }


class Result(NamedTuple):
    """What one contestant made of one trace. ``waits``: seconds until each answer began, in order of size."""

    asks: int
    cold: int
    woken: int
    waits: list[float]
    held: float
    """GiB·h"""

    @property
    def mean(self) -> float:
        return sum(self.waits) / len(self.waits)

    def quantile(self, part: float) -> float:
        return self.waits[min(len(self.waits) - 1, int(part * len(self.waits)))]


def together(results: Iterable[Result]) -> Result:
    """Several runs as one."""
    found = list(results)
    asks, cold, woken, held = (sum(getattr(one, name) for one in found) for name in ("asks", "cold", "woken", "held"))
    return Result(asks, cold, woken, sorted(wait for one in found for wait in one.waits), held)


class Simulation:
    """One contestant's run of one trace."""

    def __init__(self, trace: Trace, cost: Cost, contestant: Contestant) -> None:
        self.cost, self.contestant = cost, contestant
        self.trace = trace
        self.state, self.now = State(), 0.0
        self.queue: list[tuple[float, int, m.Event]] = []
        self.numbers = itertools.count()
        self.seconds: dict[str, float] = {}
        self.arrived: dict[str, float] = {}
        self.holding: dict[str, tuple[float, int]] = {}
        self.origin: dict[str, Phase] = {}
        self.used: dict[str, float] = {}
        self.byte_seconds = 0.0
        self.cold = self.woken = 0
        self.waits: list[float] = []

    def run(self, until: float) -> Result:
        """The whole trace; memory is counted up to ``until``."""
        plans = {
            name: m.Plan(msgspec.structs.replace(self.contestant.mode, name=name), "v1", cost=self.cost, parallel=8)
            for name in {arrival.model for arrival in self.trace}
        }
        self.feed(m.Configured(plans, m.Limits(max_queue=10**6, idle_exit=math.inf)))
        for number, arrival in enumerate(self.trace):
            self.pass_time(arrival.at)
            self.ask(str(number), arrival.model, arrival.seconds)
        self.pass_time(until)
        while self.state.asks:
            self.pass_time(self.queue[0][0])
        for name in list(self.holding):
            self.hold(name, 0)
        assert len(self.waits) == len(self.trace), "an ask was not answered"
        return Result(len(self.trace), self.cold, self.woken, sorted(self.waits), self.byte_seconds / 2**30 / 3600)

    def pass_time(self, until: float) -> None:
        """Whatever happens up to ``until``."""
        ticks = 0
        while True:
            deadline = next_deadline(self.state)
            news = self.queue[0][0] if self.queue else math.inf
            if min(news, math.inf if deadline is None else deadline) > until:
                break
            if deadline is None or news <= deadline:
                self.now, _, event = heapq.heappop(self.queue)
                ticks = 0
            else:
                ticks = ticks + 1 if deadline <= self.now else 0
                assert ticks < 100, "the clock stands still"
                self.now, event = max(self.now, deadline), m.Tick()
            self.feed(event)
        self.now = until

    def ask(self, name: str, model: str, seconds: float) -> None:
        """Somebody asks now."""
        self.count(model)
        if self.contestant.count or self.contestant.size:
            self.evict(model)
        self.used[model] = self.now
        self.seconds[name], self.arrived[name] = seconds, self.now
        self.feed(m.Asked(name, model))

    def count(self, model: str) -> None:
        """What kind of start this ask meets."""
        record = self.state.models.get(model)
        phase = Phase.COLD if record is None else record.phase
        if phase is Phase.LOADING:
            phase = self.origin[model]
        if phase in {Phase.COLD, Phase.STOPPING, Phase.PARKING}:
            self.cold += 1
        elif phase is not Phase.HOT:
            self.woken += 1

    def evict(self, model: str) -> None:
        """Least recently used first, until ``model`` may be there as well."""
        there = [r for r in self.state.models.values() if r.phase not in {Phase.COLD, Phase.STOPPING}]
        if any(record.name == model for record in there):
            return
        room = self.contestant.count or self.contestant.size // self.cost.hot[RAM]
        idle = sorted((r.name for r in there if not r.busy), key=lambda name: self.used[name])
        for victim in idle[: max(0, len(there) + 1 - room)]:
            self.feed(m.Unload(victim))

    def feed(self, event: m.Event) -> None:
        """One step of the engine, and what its workers make of it."""
        for action in step(self.state, event, self.now):
            match action:
                case m.StartLoad():
                    self.later(self.cost.wake_cold, m.Loaded(action.model, action.worker))
                case m.Load():
                    self.later(self.cost.wake_parked, m.Loaded(action.model, action.worker))
                case m.StartStandby():
                    self.later(self.cost.wake_cold - self.cost.wake_parked, m.Parked(action.model, action.worker))
                case m.Wake():
                    self.later(self.cost.wake_hibernated, m.Woken(action.model, action.worker))
                case m.Hibernate():
                    self.later(HIBERNATES, m.Hibernated(action.model, action.worker))
                case m.Stop():
                    self.later(STOPS, m.Gone(action.model, action.worker, "stopped"))
                case m.Dispatch():
                    self.waits.append(self.now - self.arrived.pop(action.ask))
                    self.later(self.seconds.pop(action.ask), m.Finished(action.ask))
                case m.Changed():
                    self.origin[action.model] = Phase(action.before)
                    self.hold(action.model, self.state.models[action.model].reserved.get(RAM, 0))
                case m.Refuse():
                    raise AssertionError(action.message)

    def later(self, seconds: float, event: m.Event) -> None:
        heapq.heappush(self.queue, (self.now + seconds, next(self.numbers), event))

    def hold(self, model: str, size: int) -> None:
        """From now on ``model`` holds ``size`` bytes."""
        since, before = self.holding.get(model, (self.now, 0))
        self.byte_seconds += before * (self.now - since)
        self.holding[model] = (self.now, size)


@contextmanager
def oracle(trace: Trace, cost: Cost) -> Iterator[None]:
    """The policy that knows the future: nobody waits after a model's first ask, with the least memory for that."""
    future: dict[str, list[float]] = {}
    for arrival in trace:
        future.setdefault(arrival.model, []).append(arrival.at)
    lead = cost.wake_cold + 0.001

    def policy(mode: Parameters, _facts: Facts, now: float) -> Wish:
        arrivals = future[mode.name]
        at = bisect_right(arrivals, now)
        if at == len(arrivals):
            return Wish(Warmth.COLD, "nobody will ask")
        if now >= arrivals[at] - lead - STOPS:
            return Wish(Warmth.HOT, "somebody is about to ask")
        return Wish(Warmth.COLD, "nobody will ask before that", arrivals[at] - lead - STOPS)

    with mock.patch.dict(POLICIES, {"oracle": policy}):
        yield


def compare(trace: Trace, cost: Cost, until: float, names: Iterable[str] = ()) -> dict[str, Result]:
    """What each contestant (or those named) makes of ``trace``."""
    with oracle(trace, cost):
        return {
            name: Simulation(trace, cost, contestant).run(until)
            for name, contestant in contestants(cost).items()
            if not names or name in names
        }
