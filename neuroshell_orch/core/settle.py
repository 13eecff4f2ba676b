"""What follows from the state: each model one step towards what is wanted of it, and waiting asks to HOT workers.

Owns the carrying out of wishes within the memory that there is: transitions of the lifecycle table, reservations,
victims, waiting for room, the idle exit. ``step`` calls it after each event. Pure, like all of the core.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import msgspec

from neuroshell_orch.core import leases, room
from neuroshell_orch.core import messages as msg
from neuroshell_orch.core.budget import Cost, grown, missing
from neuroshell_orch.core.course import Costs
from neuroshell_orch.core.history import Gaps
from neuroshell_orch.core.lifecycle import WANT, Act, IllegalTransition, Phase, Trigger, move
from neuroshell_orch.core.modes import Wish, wish
from neuroshell_orch.core.state import Model, Stage, State, leaves_at, quiet
from neuroshell_orch.core.warmth import Warmth

MOVE_SECONDS: Final = 60.0
"""How long parking, hibernating and waking may take."""
IDLE: Final = "idle"
"""Why the daemon leaves when nobody sent it away."""
RETRY_FIRST: Final = 10.0
RETRY_MOST: Final = 300.0
"""Seconds between loads while they fail; doubled after each, as LocalAI does for its clients."""

Actions = list[msg.Action]

_WORKER_ACTIONS: Final[dict[Act, Callable[[str, int], msg.WorkerAction]]] = {
    Act.START_STANDBY: msg.StartStandby,
    Act.START_LOAD: msg.StartLoad,
    Act.LOAD: msg.Load,
    Act.HIBERNATE: msg.Hibernate,
    Act.WAKE: msg.Wake,
    Act.STOP: msg.Stop,
}


def model(state: State, name: str, now: float) -> Model:
    """The record of a registered model, made on first use."""
    model = state.models.get(name)
    if model is None:
        model = state.models[name] = Model(name, state.plans[name], since=now)
        model.facts.history = state.histories.pop(name, None)
        price(model)
    return model


def settle(state: State, model: Model, now: float, actions: Actions) -> None:
    """Move ``model`` one step towards what its mode wants, then hand waiting asks to a HOT worker."""
    model.wish = _wanted(state, model, now)
    held = model.phase is Phase.COLD and not model.waiting and now < model.retry_at
    trigger = WANT[model.wish.warmth]
    model.blocked = not held and not _has_room(state, model, trigger, now, actions)
    if not held and not model.blocked:
        fire(state, model, trigger, model.wish.reason, now, actions)
    if model.phase is Phase.HOT and model.worker is not None and not _stale(state, model) and not model.yields_to:
        while model.waiting and len(model.running) < model.plan.parallel:
            ask = max((state.asks[name] for name in model.waiting), key=lambda a: room.urgency(a.rank, a.arrived, now))
            model.waiting.remove(ask.name)
            ask.stage = Stage.RUNNING
            model.running.add(ask.name)
            actions.append(msg.Dispatch(ask.name, model.name, model.worker))
    if model.phase is Phase.COLD and not model.registered and not model.busy:
        del state.models[model.name]


def _wanted(state: State, model: Model, now: float) -> Wish:
    """The mode's wish, under what overrules every mode."""
    if model.running:
        return Wish(Warmth.HOT, "writing an answer")
    if state.draining is not None:
        return Wish(Warmth.COLD, "shutting down")
    if not model.registered:
        return Wish(Warmth.COLD, "the model was removed")
    if _stale(state, model):
        return Wish(Warmth.COLD, "the model's file or options changed")
    if model.yields_to:
        return Wish(Warmth.COLD, f"making room for {model.yields_to}, which has waited for its turn")
    model.facts.asked = bool(model.waiting)
    model.facts.eager = model.plan.eager
    wanted = wish(model.plan.mode, model.facts, now)
    if wanted.warmth is Warmth.HIBERNATED and not model.can_hibernate:
        wanted = Wish(Warmth.COLD, f"{wanted.reason}, and its weights cannot be given back without unloading it")
    limit = leases.ceiling(state, model)
    if limit is not None and wanted.warmth > limit.warmth:
        return Wish(limit.warmth, limit.reason, wanted.again_at)
    return wanted


def _has_room(state: State, model: Model, trigger: Trigger, now: float, actions: Actions) -> bool:
    """Whether the memory that ``trigger`` would take is there. If not, and somebody asks, others are made to go."""
    after, act = move(model.phase, trigger)
    if act in {None, Act.STOP, Act.HIBERNATE}:
        return True
    needs = grown(model.reserved, _cost(state, model, after).at(after))
    if not missing(needs, room.free(state, model.name)):
        return True
    if model.waiting:
        for victim in room.victims(state, model, needs, now) or []:
            state.last_swap = now
            state.promised[model.name] = needs
            _step_down(state, state.models[victim.name], victim.to, model.name, now, actions)
    return False


def _step_down(state: State, victim: Model, to: Warmth, asker: str, now: float, actions: Actions) -> None:
    cap(victim, to, f"making room for {asker}")
    if victim.busy:
        victim.yields_to = asker
    settle(state, victim, now, actions)


def cap(model: Model, to: Warmth, reason: str) -> None:
    """No warmer than ``to`` until it is asked again."""
    model.facts.cap, model.facts.cap_reason, model.facts.preloaded = to, reason, None


def _cost(state: State, model: Model, phase: Phase) -> Cost:
    """What ``model`` costs on the way to ``phase``: a worker to come may have to stay off the accelerators."""
    detoured = leases.detour(state, model) if phase is Phase.LOADING else model.detoured
    return leases.on_processor(model.plan.cost) if detoured else model.plan.cost


def expect(state: State, now: float) -> None:
    """A model that an adaptive mode knows from before may be wanted before anybody asks: it gets its record."""
    for name in [n for n in state.histories if n in state.plans and state.plans[n].mode.policy == "adaptive"]:
        model(state, name, now)


def learn(model: Model, now: float) -> None:
    """When a model is asked is remembered in every mode: who makes room for whom depends on it."""
    if model.facts.history is None:
        model.facts.history = Gaps()
    model.facts.history.observe(now)
    price(model)


def price(model: Model) -> None:
    """An adaptive mode knows what each rung costs."""
    if model.plan.mode.policy != "adaptive":
        return
    cost = model.plan.cost
    model.facts.costs = Costs(
        hot_bytes=sum(cost.hot.values()),
        hibernated_bytes=sum(cost.hibernated.values()),
        parked_bytes=sum(cost.parked.values()),
        wake_hibernated=cost.wake_hibernated,
        wake_parked=cost.wake_parked,
        wake_cold=cost.wake_cold,
        hibernates=model.can_hibernate,
    )


def reserve(model: Model) -> None:
    """Set aside what the model's phase costs. A worker on its way out keeps what it had until it is gone."""
    if model.phase is not Phase.STOPPING:
        cost = leases.on_processor(model.plan.cost) if model.detoured else model.plan.cost
        model.reserved = dict(cost.at(model.phase))


def _stale(state: State, model: Model) -> bool:
    """What the worker holds is not what is wanted now: another file, or another device."""
    if model.loaded is None:
        return False
    return model.loaded != model.plan.artefact or model.detoured != leases.detour(state, model)


def fire(state: State, model: Model, trigger: Trigger, reason: str, now: float, actions: Actions) -> None:
    """Take one transition of the lifecycle table and note the action it asks for. Raises IllegalTransition."""
    before = model.phase
    after, act = move(before, trigger)
    if model.running and (act is Act.HIBERNATE or (act is Act.STOP and trigger in WANT.values())):
        # Wishes never end an answer; only a failure or the end of a shutdown's grace may.
        raise IllegalTransition(f"{model.name} is writing an answer and cannot be taken to {after}")
    if act in {Act.START_STANDBY, Act.START_LOAD}:
        model.worker, state.next_worker = state.next_worker, state.next_worker + 1
    if act in {Act.START_LOAD, Act.LOAD}:
        model.loaded, model.detoured = model.plan.artefact, leases.detour(state, model)
    if after is not before:
        model.phase, model.since, model.reason = after, now, reason
        model.deadline = _deadline(model, now)
        reserve(model)
        actions.append(msg.Changed(model.name, before, after, reason))
    if act is not None and model.worker is not None:
        action = _WORKER_ACTIONS[act](model.name, model.worker)
        if model.detoured and isinstance(action, msg.StartLoad | msg.Load):
            action = msgspec.structs.replace(action, device=leases.ON_CPU)
        actions.append(action)
    if after is Phase.COLD and before is not Phase.COLD:
        model.worker, model.loaded, model.detoured = None, None, False
        model.yields_to = ""


def _deadline(model: Model, now: float) -> float | None:
    if model.phase is Phase.LOADING:
        seconds = model.plan.load_timeout
    elif model.phase in {Phase.PARKING, Phase.HIBERNATING, Phase.WAKING}:
        seconds = MOVE_SECONDS
    else:
        return None
    return None if math.isinf(seconds) else now + seconds


def back_off(model: Model, now: float) -> None:
    """Its worker failed or was lost: no policy starts another one before some time has passed."""
    model.failures += 1
    model.load_failed = model.phase is Phase.LOADING
    model.retry_at = now + min(RETRY_FIRST * 2.0 ** (model.failures - 1), RETRY_MOST)
    model.facts.preloaded = None
    model.facts.lost = True


def refuse_waiting(
    state: State, model: Model, actions: Actions, problem: str, message: str, hint: str, after: float | None = None
) -> None:
    """Everybody who waits for ``model`` gets this error, and may try again ``after`` so many seconds."""
    for ask in list(model.waiting):
        refuse(state, model, ask, actions, problem, message, hint, after)


def refuse(
    state: State,
    model: Model,
    ask: str,
    actions: Actions,
    problem: str,
    message: str,
    hint: str = "",
    after: float | None = None,
) -> None:
    """This ask gets this error, and that is its end."""
    forget_ask(state, model, ask)
    actions.append(msg.Refuse(ask, problem, message, hint, after))


def forget_ask(state: State, model: Model, ask: str) -> None:
    """The ask is over."""
    del state.asks[ask]
    model.running.discard(ask)
    if ask in model.waiting:
        model.waiting.remove(ask)


def mind_blocked(state: State, now: float, actions: Actions) -> None:
    """Look again at models that wait for memory, the most urgent first; whoever yields to nobody's need goes on."""
    blocked = [model for model in state.models.values() if model.blocked]
    state.look_again = None
    if not blocked and not state.promised:
        return
    blocked.sort(key=lambda model: -_urgency(state, model, now))
    for model in blocked:
        settle(state, model, now, actions)
    waiting = {model.name for model in blocked if model.blocked and model.waiting}
    state.promised = {name: size for name, size in state.promised.items() if name in waiting}
    for model in list(state.models.values()):
        if model.yields_to and model.yields_to not in waiting and model.phase is not Phase.STOPPING:
            model.yields_to = ""
            settle(state, model, now, actions)
    times = [at for model in blocked if model.blocked and (at := room.look_again(state, model, now)) is not None]
    state.look_again = min(times, default=None)


def _urgency(state: State, model: Model, now: float) -> float:
    asks = [state.asks[name] for name in model.waiting]
    return max((room.urgency(ask.rank, ask.arrived, now) for ask in asks), default=-math.inf)


def mind_leases(state: State, now: float, actions: Actions) -> None:
    """Grant what is free, and what was waited for long enough."""
    for lease in state.leases.values():
        held = () if lease.granted else tuple(leases.holders(state, lease))
        if not lease.granted and (not held or now >= lease.deadline):
            lease.granted = True
            actions.append(msg.Granted(lease.name, held))


def mind_overdraft(state: State, now: float, actions: Actions) -> None:
    """A measurement or a new budget may show that too much is taken: idle models give it back."""
    for victim in room.overdrawn(state, now):
        model = state.models[victim.name]
        cap(model, victim.to, "more memory is taken than the budget allows")
        settle(state, model, now, actions)


def mind_quiet(state: State, now: float, actions: Actions) -> None:
    """Leave when nothing has been going on for long enough, or as soon as a shutdown is complete."""
    if state.leaving:
        return
    if state.draining is not None:
        if not state.asks and all(model.phase is Phase.COLD for model in state.models.values()):
            state.leaving = True
            actions.append(msg.Exit("shut down"))
        return
    if not quiet(state):
        state.quiet_since = None
        return
    if state.quiet_since is None:
        state.quiet_since = now
    leaves = leaves_at(state)
    if leaves is not None and now >= leaves:
        state.leaving = True
        actions.append(msg.Exit(IDLE))
