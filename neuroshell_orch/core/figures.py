"""What was measured of one model: bytes of RAM on each rung, seconds of each wake; and how two such records are joined.

Owns the figures' form and the rule that what was seen in earnest counts before what was measured once in advance. Holds
numbers only: must not know where they come from, nor where they are kept.
"""

from __future__ import annotations

from typing import Final

import msgspec

from neuroshell_orch.core.warmth import Warmth

_BYTES: Final = {Warmth.HOT: "hot", Warmth.HIBERNATED: "hibernated", Warmth.PARKED: "parked"}
_WAKES: Final = {Warmth.COLD: "wake_cold", Warmth.PARKED: "wake_parked", Warmth.HIBERNATED: "wake_hibernated"}


class Figures(msgspec.Struct, frozen=True):
    """Figures of one artefact; zero is what nobody has measured."""

    hot: int = 0
    vram: dict[str, int] | None = None
    """Of each accelerator while HOT; None while nobody has looked."""
    hibernated: int = 0
    parked: int = 0
    wake_cold: float = 0.0
    wake_parked: float = 0.0
    wake_hibernated: float = 0.0


def merged(seen: Figures, initial: Figures) -> Figures:
    """``seen``, and for what was not seen yet ``initial``; of HOT the peak, as one just loaded holds little."""
    vram = initial.vram if seen.vram is None else seen.vram
    numbers = {name: getattr(seen, name) or getattr(initial, name) for name in (*_BYTES.values(), *_WAKES.values())}
    return Figures(vram=vram, **numbers | {"hot": max(seen.hot, initial.hot)})


def with_memory(seen: Figures, warmth: Warmth, size: int) -> Figures:
    """``seen`` after a worker took ``size`` bytes on a rung: ``seen`` itself where that is no news. HOT keeps the peak.

    A rung below is what it was last; the peak only grows, and by steps that are worth a decision.
    """
    before: int = getattr(seen, _BYTES[warmth])
    worth = size > before * 1.02 if warmth is Warmth.HOT else abs(size - before) > before * 0.1
    return msgspec.structs.replace(seen, **{_BYTES[warmth]: size}) if worth else seen


def with_wake(seen: Figures, warmth: Warmth, seconds: float, initial: Figures | None = None) -> Figures:
    """``seen`` after a wake from a rung: a moving average, since the page cache decides much of it.

    It begins at ``initial``, where that has such a wake.
    """
    name = _WAKES[warmth]
    before: float = getattr(seen, name) or getattr(initial or Figures(), name)
    return msgspec.structs.replace(seen, **{name: 0.7 * before + 0.3 * seconds if before else seconds})
