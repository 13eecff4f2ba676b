"""How long a client wants a model to stay warm: Ollama's ways of saying so, for every convention that has the field.

Owns the reading of the value. Must not know whether the wish is granted: KeepAlivePolicy decides that in the core.
"""

from __future__ import annotations

import math
import re
from typing import Final, TypeAlias

from neuroshell_orch.errors import OrchError

KeepAlive: TypeAlias = int | float | str | None

_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART: Final = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_MOST: Final = 64
"""Characters; a longer one is no time."""


def seconds(value: KeepAlive) -> float | None:
    """Seconds after the answer: ``"10m"``, ``"1h30m"``, a number; negative means for ever. None where none is named."""
    if value is None:
        return None
    number = _parse(value) if isinstance(value, str) else _float(value)
    if math.isnan(number):
        raise OrchError(
            "bad-request",
            "keep_alive is not a time.",
            'Say it as "10m", "1h30m", seconds, or -1 for as long as it runs.',
        )
    return math.inf if number < 0 else number


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # whole numbers of JSON have no end
        return math.inf if value > 0 else -math.inf


def _parse(text: str) -> float:
    text = text.strip()
    sign = -1.0 if text.startswith("-") else 1.0
    text = text.removeprefix("-").removeprefix("+")
    if not text or len(text) > _MOST:
        return math.nan
    if re.fullmatch(r"\d+\.?\d*|\.\d+", text, re.ASCII):
        return sign * float(text)
    if re.fullmatch(f"(?:{_PART.pattern})+", text, re.ASCII) is None:
        return math.nan
    return sign * sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
