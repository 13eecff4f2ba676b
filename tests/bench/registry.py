"""What a benchmark is, and how its samples are taken: the registry, the row of the table, interleaved runs.

Owns the list of benchmarks (each module in ``cases`` adds its own by the decorator), the arithmetic of a row and the
order in which contestants take turns. Must not know what is measured. All figures are medians; a ratio is the value
over the peer's, both from the same run.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.bench.world import World

DIGITS = 4
"""Significant digits that are kept: more would be noise."""


class BenchError(Exception):
    """The benchmark cannot go on, and why."""


@dataclass(frozen=True)
class Row:
    """One figure: its samples, and those of the peer that stands beside it."""

    name: str
    unit: str
    samples: Sequence[float]
    peer_samples: Sequence[float] = ()

    @property
    def value(self) -> float:
        return significant(median(self.samples))

    @property
    def spread(self) -> str:
        return _spread(self.samples)

    @property
    def peer_spread(self) -> str:
        return _spread(self.peer_samples) if self.peer_samples else "-"

    @property
    def peer(self) -> float | None:
        return significant(median(self.peer_samples)) if self.peer_samples else None

    @property
    def ratio(self) -> float | None:
        return significant(median(self.samples) / median(self.peer_samples)) if self.peer else None

    @property
    def runs(self) -> int:
        return len(self.samples)


@dataclass(frozen=True)
class Note:
    """A sentence under the table: why a row is missing, or how to read one."""

    text: str


Finding = Row | Note


@dataclass(frozen=True)
class Benchmark:
    """A group of rows. ``title`` says what they have in common, ``peer`` what stands beside them.

    They run in the order of ``place``.
    """

    place: int
    name: str
    title: str
    peer: str
    measure: Callable[[World], Iterable[Finding]]


REGISTRY: dict[str, Benchmark] = {}


def benchmark(place: int, name: str, title: str, peer: str):
    """Register the decorated function, which takes the world and yields rows and notes."""

    def register(measure: Callable[[World], Iterable[Finding]]):
        if name in REGISTRY:
            raise ValueError(f"two benchmarks are named {name}")
        REGISTRY[name] = Benchmark(place, name, title, peer, measure)
        return measure

    return register


def load_all() -> dict[str, Benchmark]:
    """Every benchmark there is, in order."""
    from tests.bench import cases  # noqa: PLC0415 - its modules import this one

    for module in pkgutil.iter_modules(cases.__path__):
        importlib.import_module(f"tests.bench.cases.{module.name}")
    return dict(sorted(REGISTRY.items(), key=lambda item: item[1].place))


def interleave(probes: dict[str, Callable[[], float]], runs: int, warm_ups: int = 1) -> dict[str, list[float]]:
    """Samples of each probe. They take turns, and each round begins with another one.

    So whatever else this machine does falls on all of them alike. The first rounds warm caches and are thrown away.
    """
    names = list(probes)
    samples: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-warm_ups, runs):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            sample = probes[name]()
            if number >= 0:
                samples[name].append(sample)
    return samples


def _spread(samples: Sequence[float]) -> str:
    return f"{significant(min(samples)):g}..{significant(max(samples)):g}"


def significant(value: float) -> float:
    """``value`` rounded to the digits that are kept."""
    return float(f"{value:.{DIGITS}g}")
