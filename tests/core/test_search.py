"""A bounded search over all interleavings: whatever happens in whatever order, the engine keeps its promises.

The environment below is as free as the real one: clients come and go, a worker may do what it was told, fail, or
vanish at any moment, answers end when they like, the configuration changes, the clock runs to the next deadline.
After every single step the invariants are checked; from every state that was reached, an environment that behaves
from then on must bring every ask to its one end and the daemon to its exit.
"""

from __future__ import annotations

import pickle

import msgspec
import pytest

from neuroshell_orch.core import leases
from neuroshell_orch.core import messages as m
from neuroshell_orch.core.budget import Cost
from neuroshell_orch.core.lifecycle import Phase
from neuroshell_orch.core.modes import POLICIES, Parameters
from neuroshell_orch.core.state import Stage, State, next_deadline
from neuroshell_orch.core.step import step

NEWS = {m.StartStandby: m.Parked, m.StartLoad: m.Loaded, m.Load: m.Loaded, m.Hibernate: m.Hibernated, m.Wake: m.Woken}

# What a process takes from the moment it is told to go up, or has said that it went down.
HOLDS = {m.StartStandby: 10, m.StartLoad: 100, m.Load: 100, m.Wake: 100, m.Hibernated: 30}


class World(msgspec.Struct):
    """The engine's state and what the environment knows."""

    state: State
    now: float = 0.0
    asked: int = 0
    ends: dict = msgspec.field(default_factory=dict)
    """ask → how often it ended"""
    answering: dict = msgspec.field(default_factory=dict)
    """ask → its (model, worker)"""
    pending: dict = msgspec.field(default_factory=dict)
    """worker → the report that success would bring; None: the process lives and has nothing to do"""
    owner: dict = msgspec.field(default_factory=dict)
    holds: dict = msgspec.field(default_factory=dict)
    """worker → the message after which it holds what it holds"""
    dying: frozenset = frozenset()
    granted: dict = msgspec.field(default_factory=dict)
    """lease → the models that held something when it was granted"""
    used: frozenset = frozenset()
    """Events that may happen once only."""


def feed(world: World, event: m.Event) -> None:
    busy_before = {name for name, model in world.state.models.items() if model.running}
    overdue = any(a.give_up_at is not None and world.now >= a.give_up_at for a in world.state.asks.values())
    over = world.state.draining is not None and world.now >= world.state.draining
    actions = step(world.state, event, world.now)
    for action in actions:
        match action:
            case m.Refuse(ask=ask):
                world.ends[ask] = world.ends.get(ask, 0) + 1
                assert ask not in world.answering, "an ask that was dispatched was refused as well"
            case m.Dispatch(ask=ask, model=model, worker=worker):
                assert ask not in world.answering, "dispatched twice"
                assert world.pending.get(worker, "dead") is None, "dispatched to a worker that is not ready"
                assert worker not in world.dying
                world.answering[ask] = (model, worker)
            case m.StartStandby() | m.StartLoad():
                assert action.worker not in world.owner, "a worker's number was used twice"
                others = [w for w, name in world.owner.items() if name == action.model and w in world.pending]
                assert not others, "two workers for one model"
                world.owner[action.worker] = action.model
                world.holds[action.worker] = type(action)
                world.pending[action.worker] = NEWS[type(action)](action.model, action.worker)
            case m.Load() | m.Hibernate() | m.Wake():
                assert action.worker in world.pending
                assert action.worker not in world.dying
                if not isinstance(action, m.Hibernate):
                    world.holds[action.worker] = type(action)
                world.pending[action.worker] = NEWS[type(action)](action.model, action.worker)
            case m.Granted(lease=lease, held=held):
                assert lease not in world.granted, "a lease was granted twice"
                assert not held or world.now >= world.state.leases[lease].deadline, "granted late, but too soon"
                world.granted[lease] = frozenset(held)
            case m.Stop():
                assert action.worker in world.pending, "stopped a worker that is gone"
                assert action.worker not in world.dying, "stopped twice"
                world.dying |= {action.worker}
    per_model = [action.model for action in actions if isinstance(action, m.WorkerAction)]
    assert len(per_model) == len(set(per_model)), f"two lifecycle actions for one model in one step: {actions}"
    for action in actions:
        if isinstance(action, m.Stop | m.Hibernate) and action.model in busy_before:
            finished = isinstance(event, m.Finished)
            lost = isinstance(event, m.Failed)
            assert finished or lost or overdue or over, f"{action} ended an answer because of {event}"
    check_state(world, event)


def check_state(world: World, event: m.Event) -> None:
    for name, model in world.state.models.items():
        assert not (model.running and model.phase not in {Phase.HOT, Phase.STOPPING}), (name, model)
        assert (model.worker is None) == (model.phase is Phase.COLD)
    known = {a for model in world.state.models.values() for a in (*model.waiting, *model.running)}
    assert known == set(world.state.asks)
    for resource, size in world.state.limits.budget.items():
        taken = sum(model.reserved.get(resource, 0) for model in world.state.models.values())
        assert taken <= size, f"{taken} of {size} {resource} are set aside"
        held = sum(HOLDS.get(world.holds[worker], 0) for worker in world.pending)
        assert held <= size, f"workers hold {held} of {size} {resource}"
    for lease in world.state.leases.values():
        if lease.granted:
            taken = {n for n, model in world.state.models.items() if leases.stands_in(lease, model)}
            assert taken <= world.granted[lease.name], f"{taken} took what is leased"
            world.granted[lease.name] &= taken
    deadline = next_deadline(world.state)
    if isinstance(event, m.Tick) and deadline is not None:
        assert deadline > world.now, "a tick must deal with its cause"


def finish(world: World, ask: str, *, hold: bool = False) -> None:
    del world.answering[ask]
    world.ends[ask] = world.ends.get(ask, 0) + 1
    feed(world, m.Finished(ask, hold))


def gone(world: World, worker: int) -> None:
    del world.pending[worker]
    world.dying -= {worker}
    feed(world, m.Gone(world.owner[worker], worker, "gone"))
    for ask, (_, its) in list(world.answering.items()):
        if its == worker:
            finish(world, ask)


def report(world: World, worker: int, news: m.Event | None = None) -> None:
    news = news or world.pending[worker]
    world.holds[worker] = type(news) if type(news) in HOLDS else world.holds[worker]
    world.pending[worker] = None
    feed(world, news)


def fail(world: World, worker: int) -> None:
    world.pending[worker] = None
    feed(world, m.Failed(world.owner[worker], worker, "load-failed", "no"))


def ask(world: World, model: str) -> None:
    world.asked += 1
    feed(world, m.Asked(str(world.asked), model))


def tick(world: World) -> None:
    world.now = next_deadline(world.state)
    feed(world, m.Tick())


def once(world: World, key: str, event: m.Event) -> None:
    world.used |= {key}
    feed(world, event)


def moves(world: World, models: list[str], max_asks: int, plans: dict[str, m.Event]):
    """Everything that can happen now, as (name, function)."""
    if world.asked < max_asks:
        for model in models:
            yield f"ask {model}", lambda w, model=model: ask(w, model)
    for name, record in world.state.asks.items():
        if record.stage is not Stage.CANCELLING:
            yield f"cancel {name}", lambda w, name=name: feed(w, m.Cancelled(name))
    for name in world.answering:
        yield f"finish {name}", lambda w, name=name: finish(w, name)
        yield f"hold {name}", lambda w, name=name: finish(w, name, hold=True)
    for worker, news in world.pending.items():
        yield f"gone {worker}", lambda w, worker=worker: gone(w, worker)
        if news is not None:
            yield f"report {worker}", lambda w, worker=worker: report(w, worker)
            if isinstance(news, m.Loaded) and news.can_hibernate:
                poor = m.Loaded(news.model, news.worker, can_hibernate=False)
                yield f"poor {worker}", lambda w, worker=worker, poor=poor: report(w, worker, poor)
            yield f"fail {worker}", lambda w, worker=worker: fail(w, worker)
    for key, event in plans.items():
        if key not in world.used and (not isinstance(event, m.Released) or event.lease in world.state.leases):
            yield key, lambda w, key=key, event=event: once(w, key, event)
    if next_deadline(world.state) is not None and not world.state.leaving:
        yield "tick", tick


def behave(world: World) -> None:
    """From now on workers obey, answers end, time passes. Everything must come to its end."""
    for _ in range(200):
        if world.dying:
            gone(world, min(world.dying))
        elif ready := [worker for worker, news in world.pending.items() if news is not None]:
            report(world, ready[0])
        elif world.answering:
            finish(world, min(world.answering))
        elif world.state.leases and all(lease.granted for lease in world.state.leases.values()):
            feed(world, m.Released(min(world.state.leases)))
        elif world.state.asks or (not world.state.leaving and next_deadline(world.state) is not None):
            assert next_deadline(world.state) is not None, f"asks wait for nothing: {world.state}"
            tick(world)
        else:
            break
    assert not world.state.asks, f"lost asks: {world.state.asks}"
    assert world.ends == {str(n): 1 for n in range(1, world.asked + 1)}, "an ask must end exactly once"


def search(world: World, models: list[str], *, depth: int, asks: int, events: dict[str, m.Event]) -> int:
    """Breadth first, each distinct world once; returns how many were seen."""
    seen = {repr(world)}
    frontier = [world]
    for _ in range(depth):
        following = []
        for here in frontier:
            frozen = pickle.dumps(here)  # several times as fast as a deep copy
            for name, change in moves(here, models, asks, events):
                there = pickle.loads(frozen)  # noqa: S301 - our own
                try:
                    change(there)
                except Exception as error:
                    error.add_note(f"on {name!r} from {here}")
                    raise
                key = repr(there)
                if key not in seen:
                    seen.add(key)
                    following.append(there)
        frontier = following
    for here in frontier:
        behave(here)
    return len(seen)


def world_of(policy: str, models: list[str]) -> tuple[World, m.Limits]:
    limits = m.Limits(max_queue=2, idle_exit=30.0)
    mode = Parameters(policy, policy, idle=10.0, forget=20.0, standby=policy == "dynamic")
    world = World(State())
    feed(world, m.Configured({name: m.Plan(mode, "v1", eager=name == "a") for name in models}, limits))
    return world, limits


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_one_model_every_interleaving(policy):
    world, limits = world_of(policy, ["a"])
    other = Parameters("dummy-swap" if policy != "dummy-swap" else "hibernate", "dummy-swap", idle=1.0)
    events = {
        "unload": m.Unload("a"),
        "shutdown": m.Shutdown(3.0),
        "changed": m.Configured({"a": m.Plan(other, "v2")}, limits),
        "removed": m.Configured({}, limits),
    }
    assert search(world, ["a"], depth=6, asks=2, events=events) > 1000


@pytest.mark.parametrize("policy", ["dynamic", "hibernate"])
def test_two_models_every_interleaving(policy):
    world, _limits = world_of(policy, ["a", "b"])
    assert search(world, ["a", "b"], depth=6, asks=3, events={"shutdown": m.Shutdown(3.0)}) > 500


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_deep_with_few_events(policy):
    """A longer story without shutdown and reload: loads, idle, hibernation, failures and a second ask."""
    world, _limits = world_of(policy, ["a"])
    assert search(world, ["a"], depth=9, asks=2, events={}) > 300


@pytest.mark.parametrize("policy", ["timeout", "hibernate", "dummy-swap", "dynamic"])
def test_two_models_that_do_not_fit_together(policy):
    """The budget holds one hot model and what the other one keeps while it rests, never two hot ones."""
    mode = Parameters(policy, policy, idle=10.0, forget=20.0, standby=policy == "dynamic")
    cost = Cost({"RAM": 100}, {"RAM": 30}, {"RAM": 10})
    limits = m.Limits(max_queue=3, idle_exit=30.0, budget={"RAM": 135}, swap_delay=5.0)
    world = World(State())
    feed(world, m.Configured({name: m.Plan(mode, "v1", cost=cost) for name in ("a", "b")}, limits))
    assert search(world, ["a", "b"], depth=7, asks=3, events={}) > 1000


def test_a_pinned_model_never_goes_and_who_cannot_fit_beside_it_is_told():
    limits = m.Limits(budget={"RAM": 150}, swap_delay=5.0)
    cost = Cost({"RAM": 100})
    plans = {
        "a": m.Plan(Parameters("persistent", "persistent"), "v1", eager=True, cost=cost),
        "b": m.Plan(Parameters("timeout", "timeout", idle=10.0), "v1", cost=cost),
    }
    world = World(State())
    feed(world, m.Configured(plans, limits))
    report(world, 1)
    ask(world, "b")
    assert world.ends == {"1": 1}
    assert world.state.models["a"].phase is Phase.HOT


@pytest.mark.parametrize("memory", [False, True])
@pytest.mark.parametrize("on_lease", ["queue", "refuse", "cpu"])
def test_leases_every_interleaving(on_lease, memory):
    """Nothing warm on what is leased once it is granted, no lost ask, and everything comes to its end."""
    mode = Parameters("timeout", "timeout", idle=10.0)
    cost = Cost({"RAM": 100, "cuda:0": 100}, {"RAM": 30}, {"RAM": 10})
    limits = m.Limits(max_queue=3, idle_exit=30.0, budget={"cuda:0": 150}, on_lease=on_lease)
    world = World(State())
    feed(world, m.Configured({"a": m.Plan(mode, "v1", cost=cost)}, limits))
    events = {"lease": m.Leased("l", "a game", memory), "release": m.Released("l")}
    events |= {"other": m.Leased("k", "a renderer", not memory), "shutdown": m.Shutdown(3.0)}
    assert search(world, ["a"], depth=6, asks=2, events=events) > 1000
