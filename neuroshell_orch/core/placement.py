"""Who must go so that a model fits: one pure function.

Owns the choice of victims and of how far each must step down. Must not know why room is needed, nor how a victim is
made to go. Busy and pinned models are not offered to it, so it cannot choose them.

The choice is greedy by least regret for each byte (wake cost times probability of use by bytes freed, as in cost-aware
caches since GreedyDual-Size), then pruned: whoever turned out not to be needed stays, most regretted first,
and whoever may rest on a higher rung does. So no smaller part of the set would do.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from neuroshell_orch.core.budget import Bytes, total
from neuroshell_orch.core.warmth import Warmth


class Option(msgspec.Struct, frozen=True):
    """One step down: to which rung, the bytes that it frees, and the seconds that the next wake then costs more."""

    to: Warmth
    frees: Bytes
    wake: float


class Candidate(msgspec.Struct, frozen=True):
    """A model that may be asked to go. ``options`` from the highest rung to the lowest, which frees most.

    ``use`` is the probability that it is wanted again soon.
    """

    name: str
    options: tuple[Option, ...]
    use: float


class Step(msgspec.Struct, frozen=True):
    """What one victim must do."""

    name: str
    to: Warmth


def choose(deficit: Bytes, candidates: Sequence[Candidate]) -> list[Step] | None:
    """The steps that free at least ``deficit``, or None when all candidates together cannot."""
    if not deficit:
        return []
    useful = [c for c in candidates if c.options and _counts(c.options[-1].frees, deficit) > 0]
    useful.sort(key=lambda c: (_regret(c, c.options[-1]) / _counts(c.options[-1].frees, deficit), c.name))
    chosen: dict[str, tuple[Candidate, Option]] = {}
    for candidate in useful:
        if _covers(deficit, chosen):
            break
        chosen[candidate.name] = (candidate, candidate.options[-1])
    if not _covers(deficit, chosen):
        return None
    for candidate, option in sorted(chosen.values(), key=lambda c: (-_regret(*c), c[0].name)):
        without = {name: pair for name, pair in chosen.items() if name != candidate.name}
        if _covers(deficit, without):
            chosen = without
            continue
        for gentler in candidate.options[: candidate.options.index(option)]:
            if _covers(deficit, {**without, candidate.name: (candidate, gentler)}):
                chosen[candidate.name] = (candidate, gentler)
                break
    return [Step(candidate.name, option.to) for candidate, option in chosen.values()]


def _regret(candidate: Candidate, option: Option) -> float:
    return option.wake * candidate.use


def _counts(frees: Bytes, deficit: Bytes) -> int:
    """The bytes that matter: freeing what is not short helps nobody."""
    return sum(min(size, deficit[resource]) for resource, size in frees.items() if resource in deficit)


def _covers(deficit: Bytes, chosen: dict[str, tuple[Candidate, Option]]) -> bool:
    freed = total(option.frees for _candidate, option in chosen.values())
    return all(freed.get(resource, 0) >= size for resource, size in deficit.items())
