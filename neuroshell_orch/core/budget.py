"""Memory as the core counts it: bytes by resource, what each rung of a model costs, and what is left of a budget.

Owns the arithmetic and its sentences. Must not know where a number came from, nor who should make room for whom
(``placement`` does). A resource that a budget does not name is not limited.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from neuroshell_orch.core.lifecycle import Phase

RAM: Final = "RAM"
"""The machine's own memory. An accelerator is named as its driver names it: ``cuda:0``."""

Bytes = dict[str, int]
"""Bytes by resource."""


class Cost(msgspec.Struct, frozen=True):
    """What a model takes on each rung, in bytes, and how many seconds each wake costs. COLD takes nothing.

    ``measured`` says that ``hot`` is a peak that was seen, and not an estimate.
    """

    hot: Bytes = {}
    hibernated: Bytes = {}
    parked: Bytes = {}
    wake_cold: float = 1.0
    wake_parked: float = 0.7
    wake_hibernated: float = 0.2
    measured: bool = False

    def at(self, phase: Phase) -> Bytes:
        """What must be set aside in ``phase``. Moving up costs the rung above from the start."""
        if phase is Phase.COLD:
            return {}
        if phase in {Phase.PARKING, Phase.PARKED}:
            return self.parked
        return self.hibernated if phase is Phase.HIBERNATED else self.hot

    def wake(self, phase: Phase) -> float:
        """Seconds from ``phase`` to HOT."""
        waits = {Phase.HOT: 0.0, Phase.HIBERNATED: self.wake_hibernated, Phase.PARKED: self.wake_parked}
        return waits.get(phase, self.wake_cold)


def total(parts: Iterable[Mapping[str, int]]) -> Bytes:
    """The sum by resource."""
    result: Bytes = {}
    for part in parts:
        for resource, size in part.items():
            result[resource] = result.get(resource, 0) + size
    return result


def missing(wanted: Mapping[str, int], free: Mapping[str, int]) -> Bytes:
    """What of ``wanted`` is not ``free``, for the resources that ``free`` names; empty when all fits."""
    return {r: size - free[r] for r, size in wanted.items() if r in free and size > free[r]}


def left(budget: Mapping[str, int], taken: Mapping[str, int]) -> Bytes:
    """What of ``budget`` is not ``taken``; may be negative."""
    return {resource: size - taken.get(resource, 0) for resource, size in budget.items()}


def grown(before: Mapping[str, int], after: Mapping[str, int]) -> Bytes:
    """How much more ``after`` is than ``before``."""
    return {r: size - before.get(r, 0) for r, size in after.items() if size > before.get(r, 0)}


def largest(one: Mapping[str, int], other: Mapping[str, int]) -> Bytes:
    """The larger of the two for each resource."""
    return {r: max(one.get(r, 0), other.get(r, 0)) for r in {*one, *other}}


def sentence(sizes: Mapping[str, int]) -> str:
    """``sizes`` for people: ``300 MiB of RAM and 2000 MiB of cuda:0``."""
    return (
        " and ".join(f"{size / 1048576:.0f} MiB of {resource}" for resource, size in sorted(sizes.items())) or "nothing"
    )
