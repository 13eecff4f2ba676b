"""When models are asked, made up: five kinds of traces, the same ones at every run.

Owns the traces and their documentation. A trace is a list of asks in order of time; each has a model's name and the
seconds that its answer takes. Must not know who serves them. Every trace has a seed of its own.

* poisson: five models, asked at random every 2, 5, 10, 20 and 60 minutes on average, day and night.
* diurnal: three models, at random too, but 12 times as often at two in the afternoon as at two in the night (a cosine
  between), every 4, 10 and 30 minutes on average at the height of the day.
* bursty: three models in conversations, on and off. One has 3 to 9 asks, each 2 to 40 seconds after the answer before,
  as somebody reads and writes; the next begins 10 minutes to 1, 2 and 4 hours later, the logarithm at random. (What
  comes sooner than ten minutes is the same conversation.)
* periodic: five jobs: every 5, 10, 30 and 60 minutes and once a day, each up to 2 seconds late, with an answer of 20
  to 30 seconds (a report).
* zipf: fifty models; somebody asks every 15 seconds on average, the k-th model in proportion to 1/k, at random.
"""

from __future__ import annotations

import heapq
import math
import random
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0


class Arrival(NamedTuple):
    """Somebody asks ``model`` at ``at``; the answer takes ``seconds``."""

    at: float
    model: str
    seconds: float


Trace = list[Arrival]


def poisson(length: float) -> Trace:
    def one(source: random.Random, name: str, mean: float) -> Iterator[Arrival]:
        now = source.expovariate(1 / mean)
        while now < length:
            yield Arrival(now, name, source.uniform(1, 6))
            now += source.expovariate(1 / mean)

    return _merged(
        101,
        length,
        one,
        {"2 min": 2 * MINUTE, "5 min": 5 * MINUTE, "10 min": 10 * MINUTE, "20 min": 20 * MINUTE, "1 h": HOUR},
    )


def diurnal(length: float) -> Trace:
    def rate(now: float) -> float:
        """From 1/12 at 2:00 to 1 at 14:00."""
        return 1 / 12 + (11 / 12) * (0.5 - 0.5 * math.cos((now - 2 * HOUR) / DAY * 2 * math.pi))

    def one(source: random.Random, name: str, mean: float) -> Iterator[Arrival]:
        now = source.expovariate(1 / mean)
        while now < length:
            if source.random() < rate(now):
                yield Arrival(now, name, source.uniform(1, 6))
            now += source.expovariate(1 / mean)

    return _merged(102, length, one, {"4 min": 4 * MINUTE, "10 min": 10 * MINUTE, "30 min": 30 * MINUTE})


def bursty(length: float) -> Trace:
    def one(source: random.Random, name: str, most: float) -> Iterator[Arrival]:
        now = source.uniform(0, most)
        while now < length:
            for _ in range(source.randint(3, 9)):
                seconds = source.uniform(1, 8)
                yield Arrival(now, name, seconds)
                now += seconds + source.uniform(2, 40)
            now += 10 * MINUTE * (most / (10 * MINUTE)) ** source.random()

    return _merged(103, length, one, {"1 h": HOUR, "2 h": 2 * HOUR, "4 h": 4 * HOUR})


def periodic(length: float) -> Trace:
    def one(source: random.Random, name: str, period: float) -> Iterator[Arrival]:
        for number in range(1, int(length / period) + 1):
            yield Arrival(number * period + source.uniform(0, 2), name, source.uniform(20, 30))

    return _merged(
        104, length, one, {"5 min": 5 * MINUTE, "10 min": 10 * MINUTE, "30 min": 30 * MINUTE, "1 h": HOUR, "1 day": DAY}
    )


def zipf(length: float) -> Trace:
    source = random.Random(105)
    names = [f"{rank:02}" for rank in range(1, 51)]
    weights = [1 / rank for rank in range(1, 51)]
    found, now = [], source.expovariate(1 / 15)
    while now < length:
        found.append(Arrival(now, source.choices(names, weights)[0], source.uniform(1, 6)))
        now += source.expovariate(1 / 15)
    return found


def _merged(
    seed: int, length: float, one: Callable[[random.Random, str, float], Iterator[Arrival]], models: dict[str, float]
) -> Trace:
    """Each model has its own source, so that a change of one leaves the others as they were."""
    parts = [one(random.Random(seed * 1000 + n), name, mean) for n, (name, mean) in enumerate(models.items())]
    return [arrival for arrival in heapq.merge(*parts) if arrival.at < length]


TRACES: dict[str, tuple[Callable[[float], Trace], float]] = {
    "poisson": (poisson, 3 * DAY),
    "diurnal": (diurnal, 7 * DAY),
    "bursty": (bursty, 7 * DAY),
    "periodic": (periodic, 7 * DAY),
    "zipf": (zipf, DAY),
}
"""Each kind, and how long it is in the table."""
