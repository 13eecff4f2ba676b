"""Room for a model: what is free, who may be asked to go, and who waits for whom.

Owns the rules of a swap. A victim is idle and not pinned. While models keep taking each other's place, one that was
just used is left alone for a moment, since its client may come right back. Asks for a model that is there go first,
but not for ever: when an ask has waited ``swap_delay`` and the last swap is that long ago, the models in its way take
no new answers until they have gone. So two models that do not fit together are swapped at most once in
``swap_delay``, and no ask waits longer than that for each model before its own.

Reads the state and names victims; must not change anything (``step`` does).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from neuroshell_orch.core.budget import Bytes, grown, left, missing, sentence, total
from neuroshell_orch.core.history import probability
from neuroshell_orch.core.lifecycle import Phase
from neuroshell_orch.core.placement import Candidate, Option, Step, choose
from neuroshell_orch.core.warmth import Warmth

if TYPE_CHECKING:
    from neuroshell_orch.core.state import Model, State

LINGER: Final = 0.5
"""Seconds for which a model that was just used is spared while models take each other's place."""
HORIZON: Final = 300.0
"""How likely a model is to be asked within so many seconds says how much its absence would be regretted."""
RANKS: Final = {"background": 0, "normal": 1, "interactive": 2}
AGEING: Final = 30.0
"""Seconds of waiting that are worth one rank, so that nobody starves."""

_RESTING: Final = frozenset({Phase.PARKED, Phase.HIBERNATED, Phase.HOT})


def urgency(rank: int, arrived: float, now: float) -> float:
    """How urgent an ask is: its rank and its age."""
    return rank + (now - arrived) / AGEING


def free(state: State, name: str = "") -> Bytes:
    """What of the budget ``name`` may take: what is set aside for nobody and promised to nobody else."""
    taken = [model.reserved for model in state.models.values()]
    return left(state.limits.budget, total([*taken, *(p for other, p in state.promised.items() if other != name)]))


def coming(state: State) -> Bytes:
    """What will be free when the moves under way have ended, and the answers of models that yield."""
    parts = [m.reserved for m in state.models.values() if m.phase is Phase.STOPPING or m.yields_to]
    parts += [
        grown(model.plan.cost.hibernated, model.reserved)
        for model in state.models.values()
        if model.phase is Phase.HIBERNATING
    ]
    return total(parts)


def never_fits(state: State, model_cost: Bytes, name: str) -> str:
    """The arithmetic of why a model can never be loaded, or nothing."""
    budget = state.limits.budget
    pinned = [m for m in state.models.values() if m.pinned and m.name != name]
    room = left(budget, total(m.reserved for m in pinned))
    short = missing(model_cost, room)
    if not short:
        return ""
    needs = sentence({resource: model_cost[resource] for resource in short})
    allowed = sentence({resource: budget[resource] for resource in short})
    kept = f", of which {', '.join(m.name for m in pinned)} keeps its part" if pinned else ""
    return f"needs {needs}, and the budget allows {allowed}{kept}"


def oldest(state: State, model: Model) -> float | None:
    """When the ask that waits longest for ``model`` arrived."""
    return min((state.asks[name].arrived for name in model.waiting), default=None)


def may_force(state: State, model: Model, now: float) -> bool:
    """Whether those in the way of ``model`` must make room even if they are in use."""
    since = oldest(state, model)
    delay = state.limits.swap_delay
    return since is not None and now >= since + delay and now >= state.last_swap + delay


def victims(state: State, model: Model, needs: Bytes, now: float) -> list[Step] | None:
    """Who must step down so that ``model`` can take ``needs`` more; None when that cannot be had now."""
    short = missing(needs, left(free(state, model.name), {r: -size for r, size in coming(state).items()}))
    if not short:
        return []
    steps = choose(short, [_candidate(m, now) for m in _eligible(state, model, now, force=False)])
    if steps is None and may_force(state, model, now):
        steps = choose(short, [_candidate(m, now) for m in _eligible(state, model, now, force=True)])
    return steps


def overdrawn(state: State, now: float) -> list[Step]:
    """Who must step down because a measurement showed that more is taken than the budget allows."""
    soon = coming(state)
    taken = total(model.reserved for model in state.models.values())
    lack = {resource: -size for resource, size in left(state.limits.budget, taken).items() if size < 0}
    short = missing(lack, {resource: soon.get(resource, 0) for resource in lack})
    if not short:
        return []
    idle = [m for m in state.models.values() if m.phase in _RESTING and not (m.busy or m.pinned)]
    return choose(short, [_candidate(m, now) for m in idle]) or []


def look_again(state: State, model: Model, now: float) -> float | None:
    """The next instant at which waiting alone can change what ``model`` gets."""
    since = oldest(state, model)
    if since is None:
        return None
    delay = state.limits.swap_delay
    times = [max(since, state.last_swap) + delay]
    times += [_used(m) + LINGER for m in state.models.values() if m is not model and m.phase in _RESTING and not m.busy]
    return min((at for at in times if at > now), default=None)


def _used(model: Model) -> float:
    return max(model.since, model.facts.answered if model.facts.answered is not None else model.since)


def _eligible(state: State, asker: Model, now: float, *, force: bool) -> list[Model]:
    found = []
    for model in state.models.values():
        if model is asker or model.phase not in _RESTING or model.pinned or model.yields_to:
            continue
        if model.busy and not force:
            continue
        contended = now < state.last_swap + state.limits.swap_delay
        if contended and not force and model.phase is Phase.HOT and now < _used(model) + LINGER:
            continue
        found.append(model)
    return found


def _candidate(model: Model, now: float) -> Candidate:
    cost, phase = model.plan.cost, model.phase
    here = cost.at(phase)
    options = []
    if phase is Phase.HOT and not model.busy:
        if model.can_hibernate:
            options.append(Option(Warmth.HIBERNATED, grown(cost.hibernated, here), cost.wake(Phase.HIBERNATED)))
        if _parks(model):
            options.append(Option(Warmth.PARKED, grown(cost.parked, here), cost.wake(Phase.PARKED)))
    options.append(Option(Warmth.COLD, model.reserved, max(0.0, cost.wake(Phase.COLD) - cost.wake(phase))))
    history = model.facts.history
    idle = max(0.0, now - _used(model)) if history is None else history.idle(now)
    return Candidate(model.name, tuple(options), 1.0 if model.busy else probability(history, idle, HORIZON))


def _parks(model: Model) -> bool:
    """Whether a standby worker is a rung of its mode: elsewhere starting one while another model loads is no gain."""
    mode = model.plan.mode
    return mode.policy in {"dummy-swap", "adaptive"} or (mode.policy == "dynamic" and mode.standby)
