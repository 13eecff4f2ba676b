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

import msgspec

from neuroshell_orch.core import leases, room, settle
from neuroshell_orch.core import messages as msg
from neuroshell_orch.core.lifecycle import MOVING, IllegalTransition, Phase, Trigger
from neuroshell_orch.core.state import Ask, Model, Stage, State
from neuroshell_orch.core.warmth import Warmth

CANCEL_SECONDS: Final = 5.0
"""How long a cancelled answer may take to stop before its worker is given up."""
LEASED_HINT: Final = "Ask again when it has ended, or set OnLease=queue to wait for it."
QUEUE_SECONDS: Final = 2.0
"""When to come back to a full queue."""

Actions = list[msg.Action]

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
    settle.mind_blocked(state, now, actions)
    settle.mind_leases(state, now, actions)
    settle.mind_quiet(state, now, actions)
    return actions


# ---- what happened -----------------------------------------------------------------------------------------------


def _configured(state: State, event: msg.Configured, now: float, actions: Actions) -> None:
    state.plans, state.limits = event.plans, event.limits
    for name, plan in event.plans.items():
        if plan.eager and name not in state.models:
            settle.model(state, name, now)
    settle.expect(state, now)
    for model in list(state.models.values()):
        plan_now = event.plans.get(model.name)
        model.registered = plan_now is not None
        if plan_now is None:
            for ask in list(model.waiting):
                settle.refuse(state, model, ask, actions, "model-unknown", f"Model {model.name} was removed.")
        else:
            if _differs(model.plan, plan_now):
                model.failures, model.retry_at, model.load_failed = 0, now, False
            model.plan = plan_now
            settle.price(model)
            settle.reserve(model)
        settle.settle(state, model, now, actions)
    settle.mind_overdraft(state, now, actions)


def _recalled(state: State, event: msg.Recalled, now: float, actions: Actions) -> None:
    for name, gaps in event.histories.items():
        model = state.models.get(name)
        if model is None:
            state.histories[name] = gaps
        else:
            gaps.follow(model.facts.history)
            model.facts.history = gaps
    settle.expect(state, now)
    for name in event.histories:
        if (model := state.models.get(name)) is not None:
            settle.settle(state, model, now, actions)


def _differs(before: msg.Plan, after: msg.Plan) -> bool:
    """Whether what is loaded, or how, changed."""
    return (before.artefact, before.load_timeout) != (after.artefact, after.load_timeout)


def _tick(state: State, _event: msg.Tick, now: float, actions: Actions) -> None:
    overdue = {ask.model for ask in state.asks.values() if ask.give_up_at is not None and now >= ask.give_up_at}
    cut_off = state.draining is not None and now >= state.draining
    for ask in list(state.asks.values()):
        if ask.model in overdue:
            ask.give_up_at = None
        if ask.expires_at is not None and now >= ask.expires_at:
            ask.expires_at = None
            if ask.stage is Stage.WAITING:
                message = "Its turn did not come within the time that the client gave it."
                settle.refuse(state, state.models[ask.model], ask.name, actions, "timed-out", message)
    for model in list(state.models.values()):
        if model.phase is not Phase.STOPPING and model.deadline is not None and now >= model.deadline:
            _out_of_time(state, model, now, actions)
        elif model.name in overdue and model.phase is not Phase.STOPPING:
            reason = f"an answer did not stop within {CANCEL_SECONDS:g} s of being cancelled"
            settle.fire(state, model, Trigger.FAILED, reason, now, actions)
        elif cut_off and model.phase not in {Phase.COLD, Phase.STOPPING}:
            settle.fire(
                state, model, Trigger.FAILED if model.running else Trigger.WANT_COLD, "shutting down", now, actions
            )
        else:
            settle.settle(state, model, now, actions)
    if cut_off:
        state.draining = math.inf  # done once; what is left waits for processes to be gone


def _ping(_state: State, _event: msg.Ping, _now: float, actions: Actions) -> None:
    actions.append(msg.Pong())


def _asked(state: State, event: msg.Asked, now: float, actions: Actions) -> None:
    if event.ask in state.asks:
        raise IllegalTransition(f"ask {event.ask} exists already")
    refusal = _why_not(state, event.ask, event.model, now)
    if refusal is not None:
        actions.append(refusal)
        return
    model = settle.model(state, event.model, now)
    patience = event.options.patience
    state.asks[event.ask] = Ask(
        event.ask,
        event.model,
        arrived=now,
        rank=room.RANKS.get(event.options.priority, 1),
        expires_at=None if patience is None else now + patience,
    )
    model.waiting.append(event.ask)
    settle.learn(model, now)
    model.facts.cap, model.facts.lost = Warmth.HOT, False
    if event.options.keep_alive is not None:
        model.facts.keep_alive = event.options.keep_alive
    settle.settle(state, model, now, actions)


def _finished(state: State, event: msg.Finished, now: float, actions: Actions) -> None:
    ask = state.asks.get(event.ask)
    if ask is None:
        return
    if ask.stage is Stage.WAITING:
        raise IllegalTransition(f"ask {event.ask} was never dispatched, so it cannot have finished")
    model = state.models[ask.model]
    settle.forget_ask(state, model, ask.name)
    if event.hold:
        model.facts.preloaded = now
    else:
        model.facts.answered, model.facts.preloaded = now, None
    settle.settle(state, model, now, actions)


def _cancelled(state: State, event: msg.Cancelled, now: float, actions: Actions) -> None:
    ask = state.asks.get(event.ask)
    if ask is None or ask.stage is Stage.CANCELLING:
        return
    model = state.models[ask.model]
    if ask.stage is Stage.WAITING:
        settle.refuse(state, model, ask.name, actions, "cancelled", "The client went away.")
        settle.settle(state, model, now, actions)
        return
    ask.stage = Stage.CANCELLING
    ask.give_up_at = now + CANCEL_SECONDS
    if model.worker is not None:
        actions.append(msg.CancelAnswer(ask.name, model.name, model.worker))


def _unload(state: State, event: msg.Unload, now: float, actions: Actions) -> None:
    model = state.models.get(event.model)
    if model is None:
        return
    settle.cap(model, event.to, event.reason)
    settle.settle(state, model, now, actions)


def _forgive(state: State, event: msg.Forgive, now: float, actions: Actions) -> None:
    model = state.models.get(event.model)
    if model is not None and model.failures:
        model.failures, model.retry_at, model.load_failed = 0, now, False
        settle.settle(state, model, now, actions)


def _costed(state: State, event: msg.Costed, now: float, actions: Actions) -> None:
    plan = state.plans.get(event.model)
    if plan is not None:
        state.plans[event.model] = msgspec.structs.replace(plan, cost=event.cost)
    model = state.models.get(event.model)
    if model is not None:
        model.plan = msgspec.structs.replace(model.plan, cost=event.cost)
        settle.reserve(model)
        settle.mind_overdraft(state, now, actions)
        if state.leases and model.phase not in MOVING:
            settle.settle(state, model, now, actions)


def _leased(state: State, event: msg.Leased, now: float, actions: Actions) -> None:
    lease = leases.Lease(event.lease, event.label, event.memory, now, now + leases.GRANT_SECONDS, event.holder)
    lease.was = {m.name: leases.warm_now(m) for m in state.models.values() if leases.stands_in(lease, m)}
    state.leases[event.lease] = lease
    _turn_away(state, actions)
    for model in list(state.models.values()):
        settle.settle(state, model, now, actions)


def _turn_away(state: State, actions: Actions) -> None:
    for model in list(state.models.values()):
        message = leases.refusal(state, model.name) if model.name in state.plans else ""
        if message:
            settle.refuse_waiting(state, model, actions, "leased", message, LEASED_HINT)


def _released(state: State, event: msg.Released, now: float, actions: Actions) -> None:
    lease = state.leases.pop(event.lease, None)
    if lease is None:
        return
    for name, warmth in lease.was.items():
        model = state.models.get(name)
        if model is None:
            continue
        other = leases.covering(state, model.plan.cost)
        if other is not None:
            other.was.setdefault(name, warmth)
        elif warmth >= Warmth.HIBERNATED and model.facts.cap is Warmth.HOT:
            model.facts.preloaded = now  # its mode lets it rest again from here
    for model in list(state.models.values()):
        settle.settle(state, model, now, actions)


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
        settle.fire(state, model, trigger, reason, now, actions)
        if model.phase is Phase.HOT:
            model.failures, model.retry_at, model.load_failed = 0, 0.0, False
        if model.phase not in MOVING:
            settle.settle(state, model, now, actions)


def _clients(state: State, event: msg.Clients, _now: float, _actions: Actions) -> None:
    state.clients = event.count


def _shutdown(state: State, event: msg.Shutdown, now: float, actions: Actions) -> None:
    if state.draining is None:
        state.draining = now + event.grace
    for model in list(state.models.values()):
        for ask in list(model.waiting):
            settle.refuse(state, model, ask, actions, *_STOPPING)
        settle.settle(state, model, now, actions)


def _stay(state: State, _event: msg.Stay, now: float, _actions: Actions) -> None:
    state.leaving = False
    state.quiet_since = now


def _failed(state: State, model: Model, event: msg.Failed, now: float, actions: Actions) -> None:
    settle.back_off(model, now)
    if model.phase is Phase.LOADING:
        after = model.retry_at - now
        settle.refuse_waiting(state, model, actions, event.problem, event.message, event.hint, after)
    settle.fire(state, model, Trigger.FAILED, event.message, now, actions)


def _out_of_time(state: State, model: Model, now: float, actions: Actions) -> None:
    settle.back_off(model, now)
    message = f"{model.name} was not done {model.phase} within its time"
    if model.phase is Phase.LOADING:
        message = f"{model.name} took longer than LoadTimeoutSec={model.plan.load_timeout:g} s to load."
        hint, after = "Raise LoadTimeoutSec= for this model.", model.retry_at - now
        settle.refuse_waiting(state, model, actions, "load-timeout", message, hint, after)
    settle.fire(state, model, Trigger.FAILED, message, now, actions)


def _gone(state: State, model: Model, event: msg.Gone, now: float, actions: Actions) -> None:
    for ask in list(model.running):  # their replies come from the stream that just broke
        settle.forget_ask(state, model, ask)
        model.facts.answered = now
    reason = event.message
    if model.phase is Phase.STOPPING:
        reason = model.reason  # it was ended on purpose: how is of no interest, why is
    else:
        settle.back_off(model, now)
    if model.phase is Phase.LOADING:
        after = model.retry_at - now
        settle.refuse_waiting(state, model, actions, "load-failed", event.message, event.hint, after)
    settle.fire(state, model, Trigger.GONE, reason, now, actions)
    settle.settle(state, model, now, actions)


# ---- whether it can be taken at all ----

_STOPPING: Final = ("service-stopping", "The service is stopping.", "Try again: the socket starts it anew.")


def _why_not(state: State, ask: str, name: str, now: float) -> msg.Refuse | None:
    """The refusal of a new ask that cannot be taken, or None."""
    if state.draining is not None:
        return msg.Refuse(ask, *_STOPPING)
    if name not in state.plans:
        known = ", ".join(sorted(state.plans)[:8]) or "none"
        return msg.Refuse(ask, "model-unknown", f"There is no model named {name}.", f"Registered models: {known}.")
    if sum(other.stage is Stage.WAITING for other in state.asks.values()) >= state.limits.max_queue:
        message = f"{state.limits.max_queue} asks are waiting already."
        return msg.Refuse(ask, "queue-full", message, "Try again in a few seconds.", QUEUE_SECONDS)
    leased = leases.refusal(state, name)
    if leased:
        return msg.Refuse(ask, "leased", leased, LEASED_HINT, QUEUE_SECONDS)
    too_much = room.never_fits(state, state.plans[name].cost.hot, name)
    if too_much:
        hint = "Raise MemoryBudget=, make its ContextLength= smaller, or choose a smaller model."
        return msg.Refuse(ask, "over-budget", f"{name} {too_much}.", hint)
    model = state.models.get(name)
    if model is not None and model.load_failed and model.phase is Phase.COLD and now < model.retry_at:
        wait = model.retry_at - now
        hint = f"It is tried again in {wait:.0f} s, or at once when its file or its configuration changes."
        return msg.Refuse(ask, "load-failed", f"{name} failed to load just now: {model.reason}", hint, wait)
    return None


_Handler = Callable[[State, Any, float, Actions], None]

_HANDLERS: Final[dict[type[msg.Event], _Handler]] = {
    msg.Configured: _configured,
    msg.Recalled: _recalled,
    msg.Tick: _tick,
    msg.Ping: _ping,
    msg.Asked: _asked,
    msg.Finished: _finished,
    msg.Cancelled: _cancelled,
    msg.Unload: _unload,
    msg.Forgive: _forgive,
    msg.Costed: _costed,
    msg.Parked: _report,
    msg.Loaded: _report,
    msg.Hibernated: _report,
    msg.Woken: _report,
    msg.Failed: _report,
    msg.Gone: _report,
    msg.Clients: _clients,
    msg.Shutdown: _shutdown,
    msg.Stay: _stay,
    msg.Leased: _leased,
    msg.Released: _released,
}
