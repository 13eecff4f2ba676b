"""What the engine knows: one record per model in use, one per ask, and the few facts about the daemon itself.

Owns the shape of the state and the questions that can be answered by looking at it. Changes nothing: only ``step``
writes here. A registered model that nobody has touched has a plan and no record, so a thousand of them cost nothing.
"""

from __future__ import annotations

import math
from collections import deque
from enum import Enum, auto
from typing import Final

import msgspec

from neuroshell_orch.core.budget import Bytes
from neuroshell_orch.core.history import Gaps
from neuroshell_orch.core.leases import Lease
from neuroshell_orch.core.lifecycle import WARMTH, Phase
from neuroshell_orch.core.messages import Limits, Plan
from neuroshell_orch.core.modes import Facts, Wish, wish
from neuroshell_orch.core.warmth import Warmth

NEAR: Final = 600.0
"""A model that its mode wants to be warm within so many seconds keeps the daemon from its idle exit."""

NOTHING_YET = Wish(Warmth.COLD, "nobody has asked")


class Stage(Enum):
    """Where an ask is. An ask that is over has no record."""

    WAITING = auto()
    RUNNING = auto()
    CANCELLING = auto()


class Ask(msgspec.Struct):
    """One request in flight.

    ``give_up_at`` is when a cancelled answer must have ended, ``expires_at`` when its client has no more patience.
    """

    name: str
    model: str
    arrived: float = 0.0
    rank: int = 1
    stage: Stage = Stage.WAITING
    give_up_at: float | None = None
    expires_at: float | None = None


class Model(msgspec.Struct):
    """One model in use."""

    name: str
    plan: Plan
    phase: Phase = Phase.COLD
    worker: int | None = None
    since: float = 0.0
    reason: str = "nobody has asked"
    wish: Wish = NOTHING_YET
    facts: Facts = msgspec.field(default_factory=Facts)
    waiting: deque[str] = msgspec.field(default_factory=deque)
    running: set[str] = msgspec.field(default_factory=set)
    deadline: float | None = None
    """When the move under way must be over."""
    failures: int = 0
    load_failed: bool = False
    """It was a load that failed last: asks are refused until ``retry_at``, too."""
    retry_at: float = 0.0
    """No policy may start a worker before this; an ask may."""
    loaded: str | None = None
    """The artefact that the worker holds."""
    detoured: bool = False
    """Its worker was told to stay off the accelerators, because of a lease."""
    can_hibernate: bool = True
    reserved: Bytes = msgspec.field(default_factory=dict)
    """What is set aside for its worker."""
    blocked: bool = False
    """It should go up and there is no memory for it yet."""
    yields_to: str = ""
    """The model that waits for this one's memory: no new answers here until it has gone."""
    registered: bool = True

    @property
    def warmth(self) -> Warmth:
        """The rung that this model stands on."""
        return WARMTH[self.phase]

    @property
    def pinned(self) -> bool:
        """Its mode promises that it stays: it never goes for another."""
        return self.plan.mode.policy == "persistent"

    @property
    def rising(self) -> bool:
        """It is COLD and its mode wants a worker, though not before ``retry_at``. Hibernation needs a load first."""
        return self.phase is Phase.COLD and self.wish.warmth in {Warmth.PARKED, Warmth.HOT}

    @property
    def busy(self) -> bool:
        """Somebody waits for it, or it is writing an answer."""
        return bool(self.waiting or self.running)


class State(msgspec.Struct):
    """Everything. ``draining`` is the instant at which answers are cut off, or None in normal life."""

    plans: dict[str, Plan] = msgspec.field(default_factory=dict)
    limits: Limits = msgspec.field(default_factory=Limits)
    models: dict[str, Model] = msgspec.field(default_factory=dict)
    asks: dict[str, Ask] = msgspec.field(default_factory=dict)
    next_worker: int = 1
    clients: int = 0
    started: float = 0.0
    quiet_since: float | None = None
    draining: float | None = None
    leaving: bool = False
    promised: dict[str, Bytes] = msgspec.field(default_factory=dict)
    """What others are making room with, by the model that they make it for: nobody else may take it."""
    last_swap: float = -math.inf
    """When a model was last made to go for another."""
    leases: dict[str, Lease] = msgspec.field(default_factory=dict)
    histories: dict[str, Gaps] = msgspec.field(default_factory=dict)
    """When models that have no record yet were asked, before this run."""
    look_again: float | None = None
    """When blocked models should be looked at again."""


def quiet(state: State) -> bool:
    """Nothing is warm, wanted or asked, and nobody is connected."""
    return (
        not state.asks
        and not state.leases
        and state.clients == 0
        and all(model.phase is Phase.COLD and not model.rising for model in state.models.values())
    )


def due(state: State) -> float | None:
    """When a mode will first want a model warm that is COLD now, if nobody asks; None if none will."""
    times = [
        future[0]
        for model in state.models.values()
        if model.phase is Phase.COLD and (future := outlook(model)) is not None and future[1].warmth > Warmth.COLD
    ]
    return min(times, default=None)


def leaves_at(state: State) -> float | None:
    """When the daemon may go because nothing has been going on; None while it may not."""
    if state.quiet_since is None:
        return None
    at, wanted = state.quiet_since + state.limits.idle_exit, due(state)
    return at if wanted is None or wanted > at + NEAR else None


def next_deadline(state: State) -> float | None:
    """The instant at which a Tick can change something, or None."""
    times: list[float] = []
    for model in state.models.values():
        if model.deadline is not None:
            times.append(model.deadline)
        if model.wish.again_at is not None and not model.busy:
            times.append(model.wish.again_at)
        if model.rising and not model.blocked:
            times.append(model.retry_at)
    times.extend(lease.deadline for lease in state.leases.values() if not lease.granted)
    if state.look_again is not None:
        times.append(state.look_again)
    times.extend(ask.expires_at for ask in state.asks.values() if ask.expires_at is not None)
    times.extend(ask.give_up_at for ask in state.asks.values() if ask.give_up_at is not None)
    if state.draining is not None:
        if not math.isinf(state.draining):
            times.append(state.draining)
    elif not state.leaving and (leaves := leaves_at(state)) is not None:
        times.append(leaves)
    return min(times, default=None)


def outlook(model: Model) -> tuple[float, Wish] | None:
    """When the mode will change its mind if nobody asks, and what it will want then; None if it will not."""
    now_wish = model.wish
    if now_wish.again_at is None or model.busy:
        return None
    then = wish(model.plan.mode, model.facts, now_wish.again_at)
    return None if then.warmth is model.warmth else (now_wish.again_at, then)
