"""One step of the engine: an event, the state and the time give the actions to perform.

Owns every decision about asks and workers. Pure: no clock, no I/O; the same events at the same times always give the
same actions. It promises, and the bounded search in the tests checks, that

* every ask gets exactly one end: dispatched and finished, or refused;
* no worker is stopped or hibernated while it writes an answer, but for a shutdown whose grace is over, an answer
  that did not stop within five seconds of being cancelled, or a worker that is gone already;
* a model gets at most one worker action in one step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

from neuroshell_orch.core import messages as msg
from neuroshell_orch.core.lifecycle import MOVING, WANT, Act, IllegalTransition, Phase, Trigger, move
from neuroshell_orch.core.modes import Wish, wish
from neuroshell_orch.core.state import Ask, Model, Stage, State, quiet
from neuroshell_orch.core.warmth import Warmth

CANCEL_SECONDS: Final = 5.0
"""How long a cancelled answer may take to stop before its worker is given up."""
MOVE_SECONDS: Final = 60.0
"""How long parking, hibernating and waking may take."""
RETRY_FIRST: Final = 10.0
RETRY_MOST: Final = 300.0
"""Seconds between loads that a mode wants while they fail; doubled after each, as LocalAI does for its clients."""

Actions = list[msg.Action]

_WORKER_ACTIONS: Final[dict[Act, Callable[[str, int], msg.WorkerAction]]] = {
    Act.START_STANDBY: msg.StartStandby,
    Act.START_LOAD: msg.StartLoad,
    Act.LOAD: msg.Load,
    Act.HIBERNATE: msg.Hibernate,
    Act.WAKE: msg.Wake,
    Act.STOP: msg.Stop,
}

_REPORTS: Final[dict[type[msg.Report], tuple[Trigger, str]]] = {
    msg.Parked: (Trigger.PARKED, "standby worker is ready"),
    msg.Loaded: (Trigger.LOADED, "loaded"),
    msg.Hibernated: (Trigger.HIBERNATED, "weights given back"),
    msg.Woken: (Trigger.WOKEN, "weights are back"),
}


def step(state: State, event: msg.Event, now: float) -> Actions:
    """Take ``event`` at ``now`` (seconds, any monotonic clock) into ``state``; returns what is to be done, in order.

    Raises IllegalTransition, with the state unchanged, for a report that cannot be true.
    """
    actions: Actions = []
    _HANDLERS[type(event)](state, event, now, actions)
    _mind_quiet(state, now, actions)
    return actions


# ---- what happened -----------------------------------------------------------------------------------------------


def _configured(state: State, event: msg.Configured, now: float, actions: Actions) -> None:
    state.plans, state.limits = event.plans, event.limits
    for name, plan in event.plans.items():
        if plan.eager and name not in state.models:
            _model(state, name, now)
    for model in list(state.models.values()):
        plan_now = event.plans.get(model.name)
        model.registered = plan_now is not None
        if plan_now is None:
            for ask in list(model.waiting):
                _refuse(state, model, ask, actions, "model-unknown", f"Model {model.name} was removed.")
        else:
            model.plan = plan_now
        _settle(state, model, now, actions)


def _tick(state: State, _event: msg.Tick, now: float, actions: Actions) -> None:
    overdue = {ask.model for ask in state.asks.values() if ask.give_up_at is not None and now >= ask.give_up_at}
    cut_off = state.draining is not None and now >= state.draining
    for ask in state.asks.values():
        if ask.model in overdue:
            ask.give_up_at = None
    for model in list(state.models.values()):
        if model.phase is not Phase.STOPPING and model.deadline is not None and now >= model.deadline:
            _out_of_time(state, model, now, actions)
        elif model.name in overdue and model.phase is not Phase.STOPPING:
            reason = f"an answer did not stop within {CANCEL_SECONDS:g} s of being cancelled"
            _fire(state, model, Trigger.FAILED, reason, now, actions)
        elif cut_off and model.phase not in {Phase.COLD, Phase.STOPPING}:
            _fire(state, model, Trigger.FAILED if model.running else Trigger.WANT_COLD, "shutting down", now, actions)
        else:
            _settle(state, model, now, actions)
    if cut_off:
        state.draining = math.inf  # done once; what is left waits for processes to be gone


def _ping(_state: State, _event: msg.Ping, _now: float, actions: Actions) -> None:
    actions.append(msg.Pong())


def _asked(state: State, event: msg.Asked, now: float, actions: Actions) -> None:
    if event.ask in state.asks:
        raise IllegalTransition(f"ask {event.ask} exists already")
    problem = _why_not(state, event.model)
    if problem is not None:
        actions.append(msg.Refuse(event.ask, *problem))
        return
    model = _model(state, event.model, now)
    state.asks[event.ask] = Ask(event.ask, event.model)
    model.waiting.append(event.ask)
    model.facts.unloaded = model.facts.lost = False
    if event.options.keep_alive is not None:
        model.facts.keep_alive = event.options.keep_alive
    _settle(state, model, now, actions)


def _finished(state: State, event: msg.Finished, now: float, actions: Actions) -> None:
    ask = state.asks.get(event.ask)
    if ask is None:
        return
    if ask.stage is Stage.WAITING:
        raise IllegalTransition(f"ask {event.ask} was never dispatched, so it cannot have finished")
    model = state.models[ask.model]
    _forget_ask(state, model, ask.name)
    if event.hold:
        model.facts.preloaded = now
    else:
        model.facts.answered, model.facts.preloaded = now, None
    _settle(state, model, now, actions)


def _cancelled(state: State, event: msg.Cancelled, now: float, actions: Actions) -> None:
    ask = state.asks.get(event.ask)
    if ask is None or ask.stage is Stage.CANCELLING:
        return
    model = state.models[ask.model]
    if ask.stage is Stage.WAITING:
        _refuse(state, model, ask.name, actions, "cancelled", "The client went away.")
        _settle(state, model, now, actions)
        return
    ask.stage = Stage.CANCELLING
    ask.give_up_at = now + CANCEL_SECONDS
    if model.worker is not None:
        actions.append(msg.CancelAnswer(ask.name, model.name, model.worker))


def _unload(state: State, event: msg.Unload, now: float, actions: Actions) -> None:
    model = state.models.get(event.model)
    if model is None:
        return
    model.facts.unloaded = True
    model.facts.preloaded = None
    _settle(state, model, now, actions)


def _report(state: State, event: msg.Report, now: float, actions: Actions) -> None:
    model = state.models.get(event.model)
    if model is None or model.worker != event.worker:
        return  # a worker that was given up: its news is old
    if isinstance(event, msg.Failed):
        _failed(state, model, event, now, actions)
    elif isinstance(event, msg.Gone):
        _gone(state, model, event, now, actions)
    else:
        trigger, reason = _REPORTS[type(event)]
        if isinstance(event, msg.Loaded):
            reason = f"loaded in {event.seconds:.2f} s"
            model.can_hibernate = event.can_hibernate
        _fire(state, model, trigger, reason, now, actions)
        if model.phase is Phase.HOT:
            model.failures, model.retry_at = 0, 0.0
        if model.phase not in MOVING:
            _settle(state, model, now, actions)


def _clients(state: State, event: msg.Clients, _now: float, _actions: Actions) -> None:
    state.clients = event.count


def _shutdown(state: State, event: msg.Shutdown, now: float, actions: Actions) -> None:
    if state.draining is None:
        state.draining = now + event.grace
    for model in list(state.models.values()):
        for ask in list(model.waiting):
            _refuse(state, model, ask, actions, *_STOPPING)
        _settle(state, model, now, actions)


def _stay(state: State, _event: msg.Stay, now: float, _actions: Actions) -> None:
    state.leaving = False
    state.quiet_since = now


# ---- what follows ------------------------------------------------------------------------------------------------

_STOPPING: Final = ("service-stopping", "The service is stopping.", "Try again: the socket starts it anew.")


def _why_not(state: State, model: str) -> tuple[str, str, str] | None:
    """Why a new ask for ``model`` cannot be taken, as a problem, or None."""
    if state.draining is not None:
        return _STOPPING
    if model not in state.plans:
        known = ", ".join(sorted(state.plans)[:8]) or "none"
        return "model-unknown", f"There is no model named {model}.", f"Registered models: {known}."
    if sum(ask.stage is Stage.WAITING for ask in state.asks.values()) >= state.limits.max_queue:
        return "queue-full", f"{state.limits.max_queue} asks are waiting already.", "Try again in a few seconds."
    return None


def _model(state: State, name: str, now: float) -> Model:
    """The record of a registered model, made on first use."""
    model = state.models.get(name)
    if model is None:
        model = state.models[name] = Model(name, state.plans[name], since=now)
    return model


def _settle(state: State, model: Model, now: float, actions: Actions) -> None:
    """Move ``model`` one step towards what its mode wants, then hand waiting asks to a HOT worker."""
    model.wish = _wish(state, model, now)
    held = model.phase is Phase.COLD and not model.waiting and now < model.retry_at
    if not held:
        _fire(state, model, WANT[model.wish.warmth], model.wish.reason, now, actions)
    if model.phase is Phase.HOT and model.worker is not None and not _stale(model):
        while model.waiting and len(model.running) < model.plan.parallel:
            ask = state.asks[model.waiting.popleft()]
            ask.stage = Stage.RUNNING
            model.running.add(ask.name)
            actions.append(msg.Dispatch(ask.name, model.name, model.worker))
    if model.phase is Phase.COLD and not model.registered and not model.busy:
        del state.models[model.name]


def _wish(state: State, model: Model, now: float) -> Wish:
    """The mode's wish, under what overrules every mode."""
    if model.running:
        return Wish(Warmth.HOT, "writing an answer")
    if state.draining is not None:
        return Wish(Warmth.COLD, "shutting down")
    if not model.registered:
        return Wish(Warmth.COLD, "the model was removed")
    if _stale(model):
        return Wish(Warmth.COLD, "the model's file or options changed")
    model.facts.asked = bool(model.waiting)
    model.facts.eager = model.plan.eager
    wanted = wish(model.plan.mode, model.facts, now)
    if wanted.warmth is Warmth.HIBERNATED and not model.can_hibernate:
        return Wish(Warmth.COLD, f"{wanted.reason}, and its weights cannot be given back without unloading it")
    return wanted


def _stale(model: Model) -> bool:
    return model.loaded is not None and model.loaded != model.plan.artefact


def _fire(state: State, model: Model, trigger: Trigger, reason: str, now: float, actions: Actions) -> None:
    """Take one transition of the lifecycle table and note the action it asks for. Raises IllegalTransition."""
    before = model.phase
    after, act = move(before, trigger)
    if model.running and (act is Act.HIBERNATE or (act is Act.STOP and trigger in WANT.values())):
        # Wishes never end an answer; only a failure or the end of a shutdown's grace may.
        raise IllegalTransition(f"{model.name} is writing an answer and cannot be taken to {after}")
    if act in {Act.START_STANDBY, Act.START_LOAD}:
        model.worker, state.next_worker = state.next_worker, state.next_worker + 1
    if act in {Act.START_LOAD, Act.LOAD}:
        model.loaded = model.plan.artefact
    if after is not before:
        model.phase, model.since, model.reason = after, now, reason
        model.deadline = _deadline(model, now)
        actions.append(msg.Changed(model.name, before, after, reason))
    if act is not None and model.worker is not None:
        actions.append(_WORKER_ACTIONS[act](model.name, model.worker))
    if after is Phase.COLD and before is not Phase.COLD:
        model.worker = model.loaded = None


def _deadline(model: Model, now: float) -> float | None:
    if model.phase is Phase.LOADING:
        seconds = model.plan.load_timeout
    elif model.phase in {Phase.PARKING, Phase.HIBERNATING, Phase.WAKING}:
        seconds = MOVE_SECONDS
    else:
        return None
    return None if math.isinf(seconds) else now + seconds


def _failed(state: State, model: Model, event: msg.Failed, now: float, actions: Actions) -> None:
    if model.phase is Phase.LOADING:
        _refuse_waiting(state, model, actions, event.problem, event.message, event.hint)
    _back_off(model, now)
    _fire(state, model, Trigger.FAILED, event.message, now, actions)


def _out_of_time(state: State, model: Model, now: float, actions: Actions) -> None:
    message = f"{model.name} was not done {model.phase} within its time"
    if model.phase is Phase.LOADING:
        message = f"{model.name} took longer than LoadTimeoutSec={model.plan.load_timeout:g} s to load."
        _refuse_waiting(state, model, actions, "load-timeout", message, "Raise LoadTimeoutSec= for this model.")
    _back_off(model, now)
    _fire(state, model, Trigger.FAILED, message, now, actions)


def _gone(state: State, model: Model, event: msg.Gone, now: float, actions: Actions) -> None:
    for ask in list(model.running):  # their replies come from the stream that just broke
        _forget_ask(state, model, ask)
        model.facts.answered = now
    if model.phase is Phase.LOADING:
        _refuse_waiting(state, model, actions, "load-failed", event.message, event.hint)
    reason = event.message
    if model.phase is Phase.STOPPING:
        reason = model.reason  # it was ended on purpose: how is of no interest, why is
    else:
        _back_off(model, now)
    _fire(state, model, Trigger.GONE, reason, now, actions)
    _settle(state, model, now, actions)


def _back_off(model: Model, now: float) -> None:
    model.failures += 1
    model.retry_at = now + min(RETRY_FIRST * 2.0 ** (model.failures - 1), RETRY_MOST)
    model.facts.preloaded = None
    model.facts.lost = True


def _refuse_waiting(state: State, model: Model, actions: Actions, problem: str, message: str, hint: str) -> None:
    for ask in list(model.waiting):
        _refuse(state, model, ask, actions, problem, message, hint)


def _refuse(state: State, model: Model, ask: str, actions: Actions, problem: str, message: str, hint: str = "") -> None:
    _forget_ask(state, model, ask)
    actions.append(msg.Refuse(ask, problem, message, hint))


def _forget_ask(state: State, model: Model, ask: str) -> None:
    del state.asks[ask]
    model.running.discard(ask)
    if ask in model.waiting:
        model.waiting.remove(ask)


def _mind_quiet(state: State, now: float, actions: Actions) -> None:
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
    if now >= state.quiet_since + state.limits.idle_exit:
        state.leaving = True
        actions.append(msg.Exit("idle"))


_Handler = Callable[[State, Any, float, Actions], None]

_HANDLERS: Final[dict[type[msg.Event], _Handler]] = {
    msg.Configured: _configured,
    msg.Tick: _tick,
    msg.Ping: _ping,
    msg.Asked: _asked,
    msg.Finished: _finished,
    msg.Cancelled: _cancelled,
    msg.Unload: _unload,
    msg.Parked: _report,
    msg.Loaded: _report,
    msg.Hibernated: _report,
    msg.Woken: _report,
    msg.Failed: _report,
    msg.Gone: _report,
    msg.Clients: _clients,
    msg.Shutdown: _shutdown,
    msg.Stay: _stay,
}
