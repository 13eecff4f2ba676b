"""The course of rungs with the least expected cost until the next ask, from when asks came so far.

Owns the arithmetic. Being on a rung costs the memory that it holds, and an ask that finds the model there costs the
seconds of the wake; both are counted in seconds of being hot, of which one cold start is worth ``worth``. From the gaps
between asks follows how likely an ask is at each age (the time since the last one), and a short dynamic programme
backwards over the ages where that changes finds the course with the least expected sum, wakes ahead of an expected
ask included. Must not know phases or workers, nor modes.

The idea of head and tail, of a test whether the histogram says anything, and of a forecast where it does not, is that
of the Azure Functions study (Shahrad et al., USENIX ATC 2020).
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final, NamedTuple

import msgspec

from neuroshell_orch.core.forecast import forecast
from neuroshell_orch.core.history import PRIOR, PRIOR_MEDIAN, Gaps, Stretch
from neuroshell_orch.core.warmth import Warmth

REPRESENTATIVE: Final = 1.5
"""The coefficient of variation of the bins from which on the histogram is trusted."""
EFFORT: Final = 0.1
"""What a wake costs that nobody waits for, as a part of one that somebody does: processor, disk, battery."""
FRICTION: Final = 0.002
"""What any change costs, so that nothing changes for next to nothing."""
SLACK: Final = 0.2
"""A wake ahead of an ask starts this many seconds and a quarter of its length earlier than needed."""
REACH: Final = 4.0
"""The course ends at this multiple of the longest gap: after that the model is cold."""

UNKNOWN: Final = 0.98
HOPED: Final = 0.2
"""Who seems to hold as much hibernated as hot was never hibernated: this part is hoped for, so that it is tried."""


class Costs(msgspec.Struct, frozen=True):
    """What a model holds on each rung, in bytes, and the seconds from there to HOT."""

    hot_bytes: float = 1024.0 * 1048576
    hibernated_bytes: float = 384.0 * 1048576
    parked_bytes: float = 64.0 * 1048576
    wake_hibernated: float = 0.2
    wake_parked: float = 0.7
    wake_cold: float = 1.0
    hibernates: bool = True
    """Its weights can be given back while it stays loaded."""


class Turn(NamedTuple):
    """From ``age`` seconds after the last ask on, ``warmth`` is wanted."""

    age: float
    warmth: Warmth


class Curve(NamedTuple):
    """The part of asks that are still to come at each age; straight between the ages."""

    ages: list[float]
    alive: list[float]

    def at(self, age: float) -> float:
        """The part still to come at ``age``."""
        right = bisect_right(self.ages, age)
        if right >= len(self.ages):
            return self.alive[-1]
        left = right - 1
        part = (age - self.ages[left]) / (self.ages[right] - self.ages[left])
        return self.alive[left] + part * (self.alive[right] - self.alive[left])


def course(gaps: Gaps, costs: Costs, idle: float, start: Warmth) -> tuple[Turn, ...]:
    """The rungs to be on from the last ask on, if no other comes; the first at age 0."""
    key = (costs, idle, start)
    found: tuple[Turn, ...] | None = gaps.memo.get(key)
    if found is None:
        found = gaps.memo[key] = _cheapest(_curve(gaps, costs), costs, idle, start)
    return found


def expected(gaps: Gaps) -> tuple[tuple[Stretch, ...], bool]:
    """Where the next ask is to be expected, and whether that is a forecast and not the histogram."""
    stretches = gaps.stretches
    if gaps.spread() >= REPRESENTATIVE and gaps.beyond < gaps.weight / 2.0:
        return stretches, False
    guess = forecast(gaps.recent)
    if guess is None:
        return stretches, False
    others = [Stretch(s.low, s.high, s.weight * (1.0 - guess.hits)) for s in stretches]
    return tuple(sorted([*others, Stretch(guess.low, guess.high, gaps.weight * guess.hits)])), True


def _curve(gaps: Gaps, costs: Costs) -> Curve:
    """The part of asks still to come, at all ages where it may be worth while to change the rung."""
    stretches, _ = expected(gaps)
    weight = PRIOR + gaps.beyond + sum(s.weight for s in stretches)
    ends = {0.0}
    slopes: dict[float, float] = {}
    seen = 0.0
    leads = {ahead(wake) for wake in (costs.wake_hibernated, costs.wake_parked, costs.wake_cold)}
    for low, high, part in stretches:
        ends.update((low, high))
        slopes[low] = slopes.get(low, 0.0) + part / (high - low)
        slopes[high] = slopes.get(high, 0.0) - part / (high - low)
        ends.update(low - lead for lead in leads if low - lead > seen)  # after a silence: in time for what follows
        seen = max(seen, high)
    last = max(seen, PRIOR_MEDIAN) * REACH
    age = 1.0
    while age < last:
        ends.add(age)
        age *= 2.0
    ages = sorted({*ends, last})
    alive, slope, coming, before = [], 0.0, weight - PRIOR, 0.0
    for age in ages:
        coming -= slope * (age - before)
        slope += slopes.get(age, 0.0)
        before = age
        alive.append((max(0.0, coming) + PRIOR * PRIOR_MEDIAN / (PRIOR_MEDIAN + age)) / weight)
    return Curve(ages, alive)


def ahead(wake: float) -> float:
    """How long before an ask a wake of so many seconds is begun."""
    return 1.25 * wake + SLACK


def _cheapest(curve: Curve, costs: Costs, worth: float, start: Warmth) -> tuple[Turn, ...]:
    """Backwards over the ages: what each rung costs from there on at best, and the rung to change to for that."""
    share, delay = held(costs), waits(costs)
    rungs = [w for w in Warmth if w is not Warmth.HIBERNATED or costs.hibernates]
    seconds = dict(zip(Warmth, (costs.wake_cold, costs.wake_parked, costs.wake_hibernated, 0.0), strict=True))
    standing = [(int(r), share[r], worth * delay[r]) for r in rungs]
    moves = [
        (int(a), int(b), worth * _effort(a, b, delay), worth * (delay[a] - delay[b]), seconds[a] - seconds[b])
        for a in rungs
        for b in rungs
        if a is not b and not (b is Warmth.HIBERNATED and a < b)  # who was never loaded cannot be hibernated
    ]
    ages, alive = curve
    rest = [alive[-1] * worth] * len(Warmth)
    choices: list[list[int]] = []
    for at in range(len(ages) - 2, -1, -1):
        here = alive[at]
        came = here - alive[at + 1]
        area = (ages[at + 1] - ages[at]) * (here + alive[at + 1]) / 2.0
        stay = rest.copy()
        for rung, part, wait in standing:
            stay[rung] += part * area + wait * came
        rest, choice = stay.copy(), [0, 1, 2, 3]
        for source, target, effort, gain, span in moves:
            cost = stay[target] + effort * here
            if cost < rest[source]:
                if gain > 0.0 and came > 0.0:  # whoever comes while it wakes waits for that
                    cost += gain * (here - curve.at(ages[at] + span))
                if cost < rest[source]:
                    rest[source], choice[source] = cost, target
        choices.append(choice)
    turns: list[Turn] = []
    rung = int(start)
    for age, choice in zip(ages, reversed(choices), strict=False):
        if not turns or choice[rung] != rung:
            rung = choice[rung]
            turns.append(Turn(age, Warmth(rung)))
    if rung:
        turns.append(Turn(ages[-1], Warmth.COLD))
    return tuple(turns)


def held(costs: Costs) -> dict[Warmth, float]:
    """Memory on each rung, as a part of what HOT holds."""
    hot = max(costs.hot_bytes, 1.0)
    hibernated = costs.hibernated_bytes
    if hibernated >= UNKNOWN * hot:
        hibernated = costs.parked_bytes + HOPED * hot
    parts = (0.0, costs.parked_bytes / hot, hibernated / hot, 1.0)
    return dict(zip(Warmth, (min(part, 1.0) for part in parts), strict=True))


def waits(costs: Costs) -> dict[Warmth, float]:
    """The wake from each rung, as a part of a cold start."""
    cold = max(costs.wake_cold, 1e-3)
    parts = (1.0, costs.wake_parked / cold, costs.wake_hibernated / cold, 0.0)
    return dict(zip(Warmth, (min(part, 1.0) for part in parts), strict=True))


def _effort(source: Warmth, target: Warmth, delay: dict[Warmth, float]) -> float:
    """What a change costs that nobody waits for."""
    if target is Warmth.PARKED and source > target:
        return FRICTION + EFFORT * (delay[Warmth.COLD] - delay[Warmth.PARKED])  # a new worker takes its place
    return FRICTION + EFFORT * max(0.0, delay[source] - delay[target])
