"""When models are asked, made up: five kinds of traces, each with seeds to tune by and others to judge by.

Owns the traces and their documentation. A trace is a list of asks in order of time; each has a model's name and the
seconds that its answer takes. Must not know who serves them.

Nobody has published what a desktop asks its models, so the shapes and figures follow the nearest studies: that of the
Azure Functions trace (Shahrad et al., ATC'20: over four applications in ten are invoked once an hour or less, eight in
ten once a minute or less; timers are as regular as clocks, many of the rest burstier than a Poisson process; day and
night, working day and weekend differ), and those of chat services (BurstGPT: gaps between arrivals follow gamma
distributions with shapes below one; ServeGen: three or four turns a conversation, around a hundred seconds between
them, with a long tail).

* poisson: five models, asked at random every 2, 5, 10, 20 and 60 minutes on average, day and night.
* diurnal: three models, at random too, but 12 times as often at two in the afternoon as at two in the night (a cosine
  between) and on two of seven days a third as often; every 4, 10 and 30 minutes on average at the height of a day.
* bursty: three models in conversations. One has 3.5 asks on average (geometric); from an answer to the next ask it
  takes 80 seconds in the middle (log-normal, sigma 1: more than five minutes one time in ten). The next conversation
  begins after a gamma-distributed pause of shape 0.25 (its coefficient of variation is 2, that of a Poisson process 1)
  of 1, 2 and 4 hours on average.
* periodic: five jobs: every 5, 10, 30 and 60 minutes and once a day, each up to 2 seconds late, with an answer of 20
  to 30 seconds (a report).
* zipf: fifty models; somebody asks every 15 seconds on average, the k-th model in proportion to 1/k, at random.
"""

from __future__ import annotations

import heapq
import math
import random
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0

TUNED: Final = (11, 12, 13)
"""Whoever changes the adaptive mode looks at these."""
JUDGED: Final = (21, 22, 23)
"""Nothing may be chosen by these: they say what a change is worth."""


class Arrival(NamedTuple):
    """Somebody asks ``model`` at ``at``; the answer takes ``seconds``."""

    at: float
    model: str
    seconds: float


Trace = list[Arrival]


def poisson(length: float, seed: int) -> Trace:
    def one(source: random.Random, name: str, mean: float) -> Iterator[Arrival]:
        now = source.expovariate(1 / mean)
        while now < length:
            yield Arrival(now, name, source.uniform(1, 6))
            now += source.expovariate(1 / mean)

    means = {"2 min": 2 * MINUTE, "5 min": 5 * MINUTE, "10 min": 10 * MINUTE, "20 min": 20 * MINUTE, "1 h": HOUR}
    return _merged("poisson", seed, length, one, means)


def diurnal(length: float, seed: int) -> Trace:
    def rate(now: float) -> float:
        """From 1/12 at 2:00 to 1 at 14:00; a third of that on the sixth and the seventh day."""
        day = 1 / 12 + (11 / 12) * (0.5 - 0.5 * math.cos((now - 2 * HOUR) / DAY * 2 * math.pi))
        return day / 3 if now // DAY % 7 >= 5 else day

    def one(source: random.Random, name: str, mean: float) -> Iterator[Arrival]:
        now = source.expovariate(1 / mean)
        while now < length:
            if source.random() < rate(now):
                yield Arrival(now, name, source.uniform(1, 6))
            now += source.expovariate(1 / mean)

    return _merged("diurnal", seed, length, one, {"4 min": 4 * MINUTE, "10 min": 10 * MINUTE, "30 min": 30 * MINUTE})


def bursty(length: float, seed: int) -> Trace:
    def one(source: random.Random, name: str, mean: float) -> Iterator[Arrival]:
        now = source.uniform(0, mean)
        while now < length:
            while True:
                seconds = source.uniform(1, 8)
                yield Arrival(now, name, seconds)
                now += seconds
                if source.random() < 1 / 3.5:
                    break
                now += 80.0 * math.exp(source.gauss(0, 1))
            now += source.gammavariate(0.25, mean / 0.25)

    return _merged("bursty", seed, length, one, {"1 h": HOUR, "2 h": 2 * HOUR, "4 h": 4 * HOUR})


def periodic(length: float, seed: int) -> Trace:
    def one(source: random.Random, name: str, period: float) -> Iterator[Arrival]:
        for number in range(1, int(length / period) + 1):
            yield Arrival(number * period + source.uniform(0, 2), name, source.uniform(20, 30))

    periods = {"5 min": 5 * MINUTE, "10 min": 10 * MINUTE, "30 min": 30 * MINUTE, "1 h": HOUR, "1 day": DAY}
    return _merged("periodic", seed, length, one, periods)


def zipf(length: float, seed: int) -> Trace:
    source = random.Random(f"zipf/{seed}")
    names = [f"{rank:02}" for rank in range(1, 51)]
    weights = [1 / rank for rank in range(1, 51)]
    found, now = [], source.expovariate(1 / 15)
    while now < length:
        found.append(Arrival(now, source.choices(names, weights)[0], source.uniform(1, 6)))
        now += source.expovariate(1 / 15)
    return found


def _merged(
    kind: str,
    seed: int,
    length: float,
    one: Callable[[random.Random, str, float], Iterator[Arrival]],
    models: dict[str, float],
) -> Trace:
    """Each model has its own source, so that a change of one leaves the others as they were."""
    parts = [one(random.Random(f"{kind}/{seed}/{name}"), name, mean) for name, mean in models.items()]
    return [arrival for arrival in heapq.merge(*parts) if arrival.at < length]


TRACES: dict[str, tuple[Callable[[float, int], Trace], float]] = {
    "poisson": (poisson, 3 * DAY),
    "diurnal": (diurnal, 7 * DAY),
    "bursty": (bursty, 7 * DAY),
    "periodic": (periodic, 7 * DAY),
    "zipf": (zipf, DAY),
}
"""Each kind, and how long it is in the table."""
