"""How things look: JSON, tables, sizes, times, colour, errors.

Owns the habits that all commands share: colour only on a terminal and never against ``NO_COLOR``, tables that a
script can cut, control characters of a model never reaching a terminal. Must not know where the data comes from.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

BOLD: Final = "1"
DIM: Final = "2"
RED: Final = "31"
GREEN: Final = "32"
YELLOW: Final = "33"

_CONTROLS: Final = {code: None for code in [*range(32), *range(127, 160)] if chr(code) not in "\n\t"}


def colour(stream: TextIO) -> bool:
    """Whether ``stream`` may be coloured."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, code: str, stream: TextIO | None = None) -> str:
    """``text`` in a colour, where that is welcome."""
    return f"\x1b[{code}m{text}\x1b[0m" if colour(stream or sys.stdout) else text


def say(text: str = "") -> None:
    """One line on stdout."""
    sys.stdout.write(f"{text}\n")


def note(text: str) -> None:
    """One line for the person at the terminal, on stderr."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def complain(message: str, hint: str = "") -> None:
    """An error: what was wrong, then what to do."""
    lines = f"{paint('nsorch:', RED, sys.stderr)} {harmless(message)}\n"
    if hint:
        lines += f"{harmless(hint)}\n"
    sys.stderr.write(lines)
    sys.stderr.flush()


def harmless(text: str) -> str:
    """``text`` without the control characters that could drive a terminal."""
    return text.translate(_CONTROLS)


def write_text(text: str) -> None:
    """Some of an answer, at once. A terminal gets no control characters; a file or pipe gets every byte."""
    out = sys.stdout
    out.write(harmless(text) if out.isatty() else text)
    out.flush()


def print_json(data: object) -> None:
    """``data`` as JSON on stdout."""
    say(json.dumps(data, indent=2, ensure_ascii=False))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns as wide as they need, two spaces apart; the last one is not cut."""
    lines = [list(head), *([harmless(cell) or "-" for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for number, line in enumerate(lines):
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        say(paint(text, BOLD) if number == 0 else text)


def pairs(rows: Iterable[tuple[str, str]]) -> None:
    """Names and values, one pair a line."""
    lines = list(rows)
    width = max((len(name) for name, _ in lines), default=0)
    for name, value in lines:
        say(f"{paint(name.rjust(width), BOLD)}: {harmless(value)}")


def size(count: float | None) -> str:
    """Bytes for people."""
    if count is None:
        return ""
    for unit in ("B", "KiB", "MiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def span(seconds: float) -> str:
    """A length of time for people."""
    seconds = max(seconds, 0)
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    for unit, limit in (("s", 60), ("min", 60), ("h", 48)):
        if seconds < limit:
            return f"{seconds:.0f} {unit}"
        seconds /= limit if unit != "h" else 24
    return f"{seconds:.0f} d"


def ago(instant: float) -> str:
    """How long ago ``instant`` (Unix seconds) was."""
    return span(time.time() - instant) + " ago" if instant else ""
