"""Instants of this process on the way to the first token, for ``nsorch ask --trace``.

Owns a handful of named readings of the monotonic clock, which all processes of a machine share. Holds no content. Must
not know what they are for.
"""

from __future__ import annotations

import time

_marks: dict[str, float] = {}


def executed() -> None:
    """This process was started as long ago as it has computed: nothing on the way here waits."""
    _marks["exec"] = time.monotonic() - time.process_time()


def mark(name: str) -> None:
    """Now is ``name``."""
    _marks[name] = time.monotonic()


def marks() -> dict[str, float]:
    """All of them."""
    return dict(_marks)
