"""The next gap from the order of the last ones, for models whose histogram says little.

Owns two small estimates on the logarithms of gaps, an autoregressive one and seasonal ones, and the test of which of
them would have been right so far. Must not know what the gaps are for.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

LEAST: Final = 12
"""Gaps that are needed before any estimate is tried."""
LEARN: Final = 6
"""Gaps before the first one that an estimate is tried on."""
SEASONS: Final = range(2, 9)
"""After how many asks a pattern may repeat itself: up to a week of daily ones."""
SHARP: Final = math.log(1.5)
"""A forecast is of use when its window is no wider than this, end to end."""
FLOOR: Final = 0.5


class Forecast(NamedTuple):
    """The next gap lies between ``low`` and ``high`` seconds; ``hits`` of the past ones did."""

    low: float
    high: float
    hits: float


def forecast(gaps: Sequence[float]) -> Forecast | None:
    """What the order of ``gaps``, the oldest first, says of the next; None where it says nothing of use."""
    if len(gaps) < LEAST:
        return None
    series = [math.log(max(gap, FLOOR)) for gap in gaps]
    best: Forecast | None = None
    for estimate in (_autoregressive, *(_seasonal(season) for season in SEASONS)):
        found = _tried(series, estimate)
        if found is not None and (best is None or found.high / found.low < best.high / best.low):
            best = found
    return best


Estimate = Callable[[Sequence[float]], float]


def _autoregressive(series: Sequence[float]) -> float:
    """The mean, and as much of the last one's distance from it as the past says is kept: AR(1)."""
    mean = sum(series) / len(series)
    apart = [value - mean for value in series]
    square = sum(value * value for value in apart[:-1])
    kept = sum(a * b for a, b in itertools.pairwise(apart)) / square if square > 0.0 else 0.0
    return mean + max(-1.0, min(1.0, kept)) * apart[-1]


def _seasonal(season: int) -> Estimate:
    """The same as ``season`` asks ago."""
    return lambda series: series[-season] if len(series) >= season else series[-1]


def _tried(series: Sequence[float], estimate: Estimate) -> Forecast | None:
    """``estimate`` of the next value, with a window that most of its errors so far would have fitted into."""
    first = max(LEARN, len(series) // 2)
    errors = sorted(series[at] - estimate(series[:at]) for at in range(first, len(series)))
    cut = len(errors) // 8
    low, high = errors[cut], errors[-1 - cut]
    if high - low > SHARP:
        return None
    middle, room = estimate(series), (high - low) / len(errors) + 0.005
    hits = (len(errors) - 2 * cut) / (len(errors) + 1)
    return Forecast(math.exp(middle + low - room), math.exp(middle + high + room), hits)
