"""The adaptive policy: where on the course of least expected cost a model is now, when it turns, and why in words.

Owns the decision at one moment and its sentence with the numbers. Must not know phases or workers, nor whether a wish
can be granted; the arithmetic is ``course``'s.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from neuroshell_orch.core.course import Costs, Turn, course, expected, held, waits
from neuroshell_orch.core.history import Gaps, probability
from neuroshell_orch.core.warmth import Warmth

LEAST: Final = 3
"""Gaps that must have been seen; before that the model stays hot for IdleSec=."""
WORTH: Final = 1.1
"""How many times IdleSec= of being hot one cold start is worth. From 1.0 to 1.2 the simulated traces say the same."""


class Decision(NamedTuple):
    """The wanted warmth, why, and when to ask again."""

    warmth: Warmth
    reason: str
    again_at: float | None


def decide(gaps: Gaps, costs: Costs, idle: float, now: float, *, fresh: bool) -> Decision | None:
    """What is wanted at ``now``; None while too little is known. ``idle``: IdleSec=, about what a cold start is worth.

    ``fresh``: nobody has asked since the program started, so the model is as cold as that left it.
    """
    if gaps.last is None or gaps.count < LEAST or gaps.weight <= 0.0:
        return None
    if math.isinf(idle):
        return Decision(Warmth.HOT, "asked, and IdleSec=infinity never lets go", None)
    turns = course(gaps, costs, WORTH * idle, Warmth.COLD if fresh else Warmth.HOT)
    at = sum(now >= gaps.last + turn.age for turn in turns[1:])
    turn, after = turns[at], turns[at + 1] if at + 1 < len(turns) else None
    key = (costs, idle, fresh, at)
    reason: str | None = gaps.memo.get(key)
    if reason is None:
        reason = gaps.memo[key] = _reason(gaps, costs, idle, turn, after)
    return Decision(turn.warmth, reason, None if after is None else gaps.last + after.age)


def _reason(gaps: Gaps, costs: Costs, idle: float, turn: Turn, after: Turn | None) -> str:
    """Why there is this turn, with the numbers that it rests on, as they are when it begins."""
    low, high, forecasted = window(gaps)
    regular = forecasted or 0.0 < high <= 2.0 * low
    habit = f"asks come every {between(low, high)}"
    if forecasted:
        habit = f"the next ask is forecast {between(low, high)} after the last"
    if regular and turn.age < high:
        if after is not None and after.warmth > turn.warmth:
            return f"{habit}; woken {_span(max(0.0, low - after.age))} before"
        if after is not None and turn.warmth is Warmth.HOT:
            return f"{habit}; hot until {_span(after.age)} after the last"
    horizon = idle if after is None or turn.warmth is not Warmth.HOT else after.age - turn.age
    chance = f"an ask in the next {_span(horizon)} has a chance of {100 * probability(gaps, turn.age, horizon):.0f} %"
    if regular:
        chance = f"{habit}, and none came by then"
    if turn.warmth is Warmth.COLD:
        return f"{chance}: less than its memory is worth"
    if turn.warmth is Warmth.HOT:
        return f"{chance}: worth its memory"
    part = 100 * held(costs)[turn.warmth]
    saved = 100 * (1.0 - waits(costs)[turn.warmth])
    return f"{chance}: worth {part:.0f} % of its memory, which saves {saved:.0f} % of a start"


def window(gaps: Gaps) -> tuple[float, float, bool]:
    """Between which gaps nine of ten asks come, and whether that is a forecast."""
    stretches, forecasted = expected(gaps)
    if forecasted:
        best = max(stretches, key=lambda s: s.weight)
        return best.low, best.high, True
    total = sum(s.weight for s in stretches)
    seen, low, high = 0.0, math.inf, 0.0
    for stretch in stretches:
        before, seen = seen, seen + stretch.weight
        if seen >= 0.05 * total:
            low = min(low, stretch.low)
        if before < 0.95 * total:
            high = max(high, stretch.high)
    return min(low, high), high, False


def between(low: float, high: float) -> str:
    """A window of time for people: ``58 to 63 s``."""
    size, unit = _unit(high)
    one, other = f"{low / size:.3g}", f"{high / size:.3g}"
    return f"{other} {unit}" if one == other else f"{one} to {other} {unit}"


def _span(seconds: float) -> str:
    size, unit = _unit(seconds)
    return f"{seconds / size:.2g} {unit}"


def _unit(seconds: float) -> tuple[float, str]:
    for size, unit in ((86400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2.0 * size:
            return size, unit
    return 1.0, "s"
