"""An orderly end for commands that have something to clean up.

Owns what SIGTERM and SIGHUP do while such a command runs. Must not know what is cleaned up.
"""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import FrameType


@contextmanager
def orderly() -> Generator[None, None, None]:
    """SIGTERM and SIGHUP end this process the orderly way, through every ``finally``."""

    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
