"""The lifecycle of one model, as a table.

Owns which phases there are, what can happen in each, and the one action that each happening asks for. Every mode
shares it. Must not know about time, asks or modes: whoever fires a trigger has already decided that it is right.

``TABLE[phase][trigger]`` is ``(next phase, action or None)``. A pair that is missing cannot happen in a correct
program; firing it raises IllegalTransition and changes nothing. Reports of a worker that is no longer the model's
own must be dropped before they get here.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from neuroshell_orch.core.warmth import Warmth


class Phase(StrEnum):
    """A rung of the ladder (capitals) or the move between two of them (small letters)."""

    COLD = "COLD"
    PARKING = "parking"
    PARKED = "PARKED"
    LOADING = "loading"
    HOT = "HOT"
    HIBERNATING = "hibernating"
    HIBERNATED = "HIBERNATED"
    WAKING = "waking"
    STOPPING = "stopping"


class Trigger(StrEnum):
    """What can happen: four wishes of the policy, and six reports about the worker."""

    WANT_COLD = "want-cold"
    WANT_PARKED = "want-parked"
    WANT_HIBERNATED = "want-hibernated"
    WANT_HOT = "want-hot"
    PARKED = "parked"
    LOADED = "loaded"
    HIBERNATED = "hibernated"
    WOKEN = "woken"
    FAILED = "failed"
    """The operation under way failed, ran out of time, or the worker must be given up."""
    GONE = "gone"
    """The worker's process no longer exists."""


class Act(StrEnum):
    """What to do to the worker."""

    START_STANDBY = "start-standby"
    START_LOAD = "start-load"
    LOAD = "load"
    HIBERNATE = "hibernate"
    WAKE = "wake"
    STOP = "stop"


WANT: Final = {
    Warmth.COLD: Trigger.WANT_COLD,
    Warmth.PARKED: Trigger.WANT_PARKED,
    Warmth.HIBERNATED: Trigger.WANT_HIBERNATED,
    Warmth.HOT: Trigger.WANT_HOT,
}

WARMTH: Final = {
    Phase.COLD: Warmth.COLD,
    Phase.PARKING: Warmth.COLD,
    Phase.PARKED: Warmth.PARKED,
    Phase.LOADING: Warmth.COLD,
    Phase.HOT: Warmth.HOT,
    Phase.HIBERNATING: Warmth.HOT,
    Phase.HIBERNATED: Warmth.HIBERNATED,
    Phase.WAKING: Warmth.HIBERNATED,
    Phase.STOPPING: Warmth.COLD,
}
"""The rung that a phase can vouch for: while moving, the lower one, but for giving memory back, the higher one."""

MOVING: Final = frozenset({Phase.PARKING, Phase.LOADING, Phase.HIBERNATING, Phase.WAKING, Phase.STOPPING})

_STAY_STOPPING: Final = (Phase.STOPPING, None)
_STOP: Final = (Phase.STOPPING, Act.STOP)
_LOST: Final = (Phase.COLD, None)

Row = dict[Trigger, tuple[Phase, Act | None]]

TABLE: Final[dict[Phase, Row]] = {
    Phase.COLD: {
        Trigger.WANT_COLD: (Phase.COLD, None),
        Trigger.WANT_PARKED: (Phase.PARKING, Act.START_STANDBY),
        # Nothing was ever loaded, so there is nothing to hibernate; the model stays where it is.
        Trigger.WANT_HIBERNATED: (Phase.COLD, None),
        Trigger.WANT_HOT: (Phase.LOADING, Act.START_LOAD),
    },
    Phase.PARKING: {
        Trigger.WANT_COLD: _STOP,
        Trigger.WANT_PARKED: (Phase.PARKING, None),
        Trigger.WANT_HIBERNATED: (Phase.PARKING, None),
        # The worker runs its frames in order, so the load may be sent before it has parked.
        Trigger.WANT_HOT: (Phase.LOADING, Act.LOAD),
        Trigger.PARKED: (Phase.PARKED, None),
        Trigger.FAILED: _STOP,
        Trigger.GONE: _LOST,
    },
    Phase.PARKED: {
        Trigger.WANT_COLD: _STOP,
        Trigger.WANT_PARKED: (Phase.PARKED, None),
        Trigger.WANT_HIBERNATED: (Phase.PARKED, None),
        Trigger.WANT_HOT: (Phase.LOADING, Act.LOAD),
        Trigger.GONE: _LOST,
    },
    Phase.LOADING: {
        # A load cannot be interrupted from inside; cancelling it means giving up the worker.
        Trigger.WANT_COLD: _STOP,
        Trigger.WANT_PARKED: _STOP,
        Trigger.WANT_HIBERNATED: (Phase.LOADING, None),
        Trigger.WANT_HOT: (Phase.LOADING, None),
        Trigger.PARKED: (Phase.LOADING, None),
        Trigger.LOADED: (Phase.HOT, None),
        Trigger.FAILED: _STOP,
        Trigger.GONE: _LOST,
    },
    Phase.HOT: {
        Trigger.WANT_COLD: _STOP,
        # A worker that held weights is replaced, not emptied: that is the only unload we trust.
        Trigger.WANT_PARKED: _STOP,
        Trigger.WANT_HIBERNATED: (Phase.HIBERNATING, Act.HIBERNATE),
        Trigger.WANT_HOT: (Phase.HOT, None),
        Trigger.FAILED: _STOP,
        Trigger.GONE: _LOST,
    },
    Phase.HIBERNATING: {
        Trigger.WANT_COLD: _STOP,
        Trigger.WANT_PARKED: _STOP,
        Trigger.WANT_HIBERNATED: (Phase.HIBERNATING, None),
        # Milliseconds: let it end, then wake.
        Trigger.WANT_HOT: (Phase.HIBERNATING, None),
        Trigger.HIBERNATED: (Phase.HIBERNATED, None),
        Trigger.FAILED: _STOP,
        Trigger.GONE: _LOST,
    },
    Phase.HIBERNATED: {
        Trigger.WANT_COLD: _STOP,
        Trigger.WANT_PARKED: _STOP,
        Trigger.WANT_HIBERNATED: (Phase.HIBERNATED, None),
        Trigger.WANT_HOT: (Phase.WAKING, Act.WAKE),
        Trigger.GONE: _LOST,
    },
    Phase.WAKING: {
        Trigger.WANT_COLD: _STOP,
        Trigger.WANT_PARKED: _STOP,
        # Let it end, then hibernate again.
        Trigger.WANT_HIBERNATED: (Phase.WAKING, None),
        Trigger.WANT_HOT: (Phase.WAKING, None),
        Trigger.WOKEN: (Phase.HOT, None),
        Trigger.FAILED: _STOP,
        Trigger.GONE: _LOST,
    },
    Phase.STOPPING: {
        # Whatever is wanted next waits until the process is really gone. Late reports mean nothing any more.
        Trigger.WANT_COLD: _STAY_STOPPING,
        Trigger.WANT_PARKED: _STAY_STOPPING,
        Trigger.WANT_HIBERNATED: _STAY_STOPPING,
        Trigger.WANT_HOT: _STAY_STOPPING,
        Trigger.PARKED: _STAY_STOPPING,
        Trigger.LOADED: _STAY_STOPPING,
        Trigger.HIBERNATED: _STAY_STOPPING,
        Trigger.WOKEN: _STAY_STOPPING,
        Trigger.FAILED: _STAY_STOPPING,
        Trigger.GONE: _LOST,
    },
}


class IllegalTransition(Exception):  # noqa: N818 - it names what happened, and is never shown to a person
    """A trigger was fired in a phase where it cannot happen: a defect of the caller."""


def move(phase: Phase, trigger: Trigger) -> tuple[Phase, Act | None]:
    """The phase after ``trigger``, and the action that it asks for. Raises IllegalTransition."""
    try:
        return TABLE[phase][trigger]
    except KeyError:
        raise IllegalTransition(f"{trigger} cannot happen while {phase}") from None
