"""One sentence on what would change a model's warmth: what it waits for, when it rests, who could end it.

Owns the sentences behind ``nsorch why``. Reads the engine's state and changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from neuroshell_orch.core import leases, room
from neuroshell_orch.core.budget import grown, missing, sentence
from neuroshell_orch.core.lifecycle import Phase
from neuroshell_orch.core.state import outlook

if TYPE_CHECKING:
    from neuroshell_orch.core.state import Model, State


def what_next(state: State, model: Model, now: float) -> str:
    """What would change the warmth of ``model``."""
    limit = leases.ceiling(state, model)
    if limit is not None:
        number = len(model.waiting)
        waits = f"; {number} {'ask waits' if number == 1 else 'asks wait'}" if number else ""
        return f"{limit.reason}, so it may be {limit.warmth.name} at most until that ends{waits}"
    if model.blocked and model.waiting:
        return _waits(state, model, now)
    if model.busy:
        return f"in use: {len(model.running)} running, {len(model.waiting)} waiting"
    if model.phase is Phase.COLD:
        if model.load_failed and now < model.retry_at:
            return f"its load failed; it is tried again in {_seconds(model.retry_at - now)}, or when its file changes"
        future = outlook(model)
        if future is None:
            return "; ".join(["the next ask loads it", *_habit(model)])
        soon = f"{future[1].warmth.name} in {_seconds(max(0.0, future[0] - now))}"
        return f"the next ask loads it; {soon} if nobody asks before: {future[1].reason}"
    parts = []
    if model.facts.answered is not None:
        parts.append(f"asked {_seconds(now - model.facts.answered)} ago")
    parts += _habit(model)
    future = outlook(model)
    if future is not None:
        parts.append(f"{future[1].warmth.name} in {_seconds(max(0.0, future[0] - now))} if nobody asks")
    else:
        parts.append(f"stays until something happens (mode {model.plan.mode.name})")
    if model.pinned:
        parts.append("pinned: no other model takes its place")
    elif state.limits.budget:
        parts.append("another model that needs its memory would unload it at once")
    return "; ".join(parts)


def _habit(model: Model) -> list[str]:
    """The numbers by which the adaptive mode leaves it where it is, if they are not its reason already."""
    told = model.plan.mode.policy != "adaptive" or model.wish.reason == model.reason
    return [] if told else [model.wish.reason]


def _waits(state: State, model: Model, now: float) -> str:
    short = missing(grown(model.reserved, model.plan.cost.hot), room.free(state, model.name))
    others = [m for m in state.models.values() if m is not model and any(m.reserved.get(r) for r in short)]
    holding = ", ".join(f"{m.name} {'writes an answer' if m.running else f'is {m.phase}'}" for m in others)
    since = room.oldest(state, model)
    latest = max(now if since is None else since, state.last_swap) + state.limits.swap_delay
    swap = f"; they swap in {_seconds(latest - now)} at the latest" if latest > now else "; they swap after that"
    return f"waits for {sentence(short)}: {holding}{swap}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
