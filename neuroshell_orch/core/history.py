"""When a model was asked: a bounded histogram of the gaps between asks, and what it says about the next one.

Owns the counts and the probability of an ask. Instants are arguments on the caller's clock; nothing here knows who
asked, or what. Must not know modes, rungs or costs (``adaptive`` does).

Bins grow geometrically, so that a second and a week fit into about a hundred of them, and each remembers the
least and the greatest gap that fell into it, so that a regular caller is known to the second all the same. Where
nothing is known yet, a prior with a long tail stands in: the longer nobody asked, the less likely the next ask.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, Final, NamedTuple

import msgspec

SHORTEST: Final = 0.5
"""Gaps below this, in seconds, are not told apart: they belong to one conversation."""
LONGEST: Final = 14 * 86400.0
"""Gaps above this are out of bounds: that they happened is counted, not where."""
PER_OCTAVE: Final = 4
"""Bins for each doubling: about 19 % wide."""
RECENT: Final = 32
"""Gaps that are remembered one by one, for their order."""
FULL: Final = 1024.0
"""At this weight everything is halved, so that old habits fade."""
PRIOR: Final = 1.0
"""How many gaps the prior weighs as much as."""
PRIOR_MEDIAN: Final = 300.0
GRAIN: Final = 0.0005
"""No gap is known more exactly than to this part of it."""
DOUBT: Final = 0.5
"""A gap that was seen once may as well be this part longer or shorter; the doubt falls with the times."""
BINS: Final = 2 + math.ceil(math.log2(LONGEST / SHORTEST) * PER_OCTAVE)
"""The most bins that there can be."""


class Bin(msgspec.Struct, array_like=True):
    """Gaps of about one length: their (faded) number, the least and the greatest."""

    weight: float
    low: float
    high: float


class Stretch(NamedTuple):
    """From ``low`` to ``high`` seconds after an ask, ``weight`` asks came."""

    low: float
    high: float
    weight: float


class Gaps(msgspec.Struct, dict=True):
    """The gaps between the asks for one model."""

    last: float | None = None
    """When it was asked last."""
    count: int = 0
    """Gaps that were ever seen."""
    bins: dict[int, Bin] = msgspec.field(default_factory=dict)
    beyond: float = 0.0
    """The weight of gaps out of bounds."""
    recent: list[float] = msgspec.field(default_factory=list)

    def observe(self, now: float) -> None:
        """An ask arrived at ``now``."""
        before, self.last = self.last, now
        self.__dict__.clear()  # what was worked out from the gaps so far
        if before is None or now < before:
            return
        gap = now - before
        self.count += 1
        self.recent.append(gap)
        del self.recent[:-RECENT]
        if gap > LONGEST:
            self.beyond += 1.0
        else:
            self._add(gap)
        if self.weight >= FULL:
            self._fade()

    def follow(self, later: Gaps | None) -> None:
        """What ``later`` saw happened after all that is known here; of long ago it knows no more than the gaps."""
        if later is None or later.last is None:
            return
        asks = [later.last]
        for gap in reversed(later.recent):
            asks.append(asks[-1] - gap)
        for ask in reversed(asks):
            self.observe(ask)

    @property
    def weight(self) -> float:
        """How many gaps are still remembered."""
        return self.beyond + sum(item.weight for item in self.bins.values())

    def idle(self, now: float) -> float:
        """Seconds since the last ask; for ever if there was none."""
        return math.inf if self.last is None else max(0.0, now - self.last)

    @cached_property
    def memo(self) -> dict[Any, Any]:
        """What others worked out from these gaps. Gone with the next ask; no part of the value."""
        return {}

    @cached_property
    def stretches(self) -> tuple[Stretch, ...]:
        """Where asks are to be expected, ordered: wider than seen, by what so few leave uncertain."""
        found = []
        for item in self.bins.values():
            room = (item.high - item.low) / (item.weight + 1.0) + 0.01
            doubt = 1.0 + GRAIN + DOUBT / item.weight**1.5
            found.append(Stretch(max(0.0, item.low / doubt - room), item.high * doubt + room, item.weight))
        return tuple(sorted(found))

    def spread(self) -> float:
        """The coefficient of variation of the bins: high when few of them hold nearly all gaps."""
        inside = self.weight - self.beyond
        if inside <= 0.0:
            return 0.0
        squares = sum(item.weight * item.weight for item in self.bins.values())
        return math.sqrt(max(0.0, BINS * squares / (inside * inside) - 1.0))

    def _add(self, gap: float) -> None:
        index = 0 if gap <= SHORTEST else 1 + int(math.log2(gap / SHORTEST) * PER_OCTAVE)
        item = self.bins.get(index)
        if item is None:
            self.bins[index] = Bin(1.0, gap, gap)
        else:
            item.weight += 1.0
            item.low, item.high = min(item.low, gap), max(item.high, gap)

    def _fade(self) -> None:
        self.beyond /= 2.0
        for index, item in list(self.bins.items()):
            item.weight /= 2.0
            if item.weight < 0.1:
                del self.bins[index]


def survival(gaps: Gaps | None, age: float) -> float:
    """The part of all gaps that are longer than ``age`` seconds."""
    prior = PRIOR * PRIOR_MEDIAN / (PRIOR_MEDIAN + age)
    if gaps is None:
        return prior / PRIOR
    longer, weight = prior + gaps.beyond, PRIOR + gaps.beyond
    for low, high, part in gaps.stretches:
        weight += part
        if age < low:
            longer += part
        elif age < high:
            longer += part * (high - age) / (high - low)
    return longer / weight


def probability(gaps: Gaps | None, idle: float, horizon: float) -> float:
    """The chance that an ask comes within ``horizon`` seconds, given that none came for ``idle``."""
    if horizon <= 0.0 or math.isinf(idle):
        return 0.0
    if math.isinf(horizon):
        return 1.0
    still = survival(gaps, idle)
    return min(1.0, max(0.0, 1.0 - survival(gaps, idle + horizon) / still)) if still > 0.0 else 1.0
