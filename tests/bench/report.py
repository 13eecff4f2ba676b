"""The table that people read and the file that programs read: the same figures.

Owns both formats. Must not know how anything was measured.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.bench.registry import Benchmark, Row

HEADINGS = ("name", "value", "min..max", "unit", "peer", "min..max ", "ratio", "runs")


def record(row: Row) -> dict[str, object]:
    """The row as it stands in the file."""
    return {
        "name": row.name,
        "value": row.value,
        "unit": row.unit,
        "peer": row.peer,
        "ratio": row.ratio,
        "runs": row.runs,
    }


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"


def _cells(row: Row) -> tuple[str, ...]:
    ours = (row.name, number(row.value), row.spread, row.unit)
    return (*ours, number(row.peer), row.peer_spread, number(row.ratio), str(row.runs))


def table(bench: Benchmark, rows: Sequence[Row]) -> str:
    """One benchmark's rows under its title."""
    cells = [HEADINGS, *map(_cells, rows)]
    widths = [max(len(line[at]) for line in cells) for at in range(len(HEADINGS))]
    text = [f"{bench.title} (peer: {bench.peer})"]
    for line in cells:
        columns = [
            cell.ljust(width) if heading in {"name", "unit"} else cell.rjust(width)
            for cell, width, heading in zip(line, widths, HEADINGS, strict=True)
        ]
        text.append("  " + "  ".join(columns).rstrip())
    return "\n".join(text)


def write(path: Path, rows: Sequence[Row]) -> None:
    """All rows as a list, in one step: a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.write_text(json.dumps([record(row) for row in rows], indent=1) + "\n")
    partial.replace(path)
