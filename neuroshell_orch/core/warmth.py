"""Warmth: the ordered ladder every other module speaks in.

Owns the four rungs and their names. Must not know what a worker or a mode is.
"""

from __future__ import annotations

from enum import IntEnum


class Warmth(IntEnum):
    """How ready a model is. The order matters: a ceiling and a wish are compared with ``min``."""

    COLD = 0
    PARKED = 1
    HIBERNATED = 2
    HOT = 3
