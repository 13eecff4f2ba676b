"""The charts: times to the first token out of each state, and memory over time in each mode. PNG files.

Owns how they look. Drawn with matplotlib where it is installed (it is a dependency of developers only). Must not know
how anything was measured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tests.bench.registry import Row

STATES = ("nothing running", "daemon awake, COLD", "PARKED", "HIBERNATED", "warm")
COLOURS = {
    "dynamic": "#4477aa",
    "timeout": "#66ccee",
    "dummy-swap": "#228833",
    "hibernate": "#ccbb44",
    "persistent": "#aa3377",
    "adaptive": "#ee6677",
}


def draw(folder: Path, rows: Sequence[Row], series: Mapping[str, Sequence[tuple[float, float]]]) -> list[Path]:
    """Write what there are figures for; the files. Raises ImportError without matplotlib."""
    times = [row for row in rows if row.unit == "s" and row.name.startswith(STATES) and "→" not in row.name]
    drawn: list[Path] = []
    if times:
        drawn.append(_times(folder / "bench-times.png", times))
    if series:
        drawn.append(_memory(folder / "bench-memory.png", series))
    return drawn


def _figure(height: float) -> tuple[Any, Any]:
    import matplotlib as mpl  # noqa: PLC0415 - slow to import, and perhaps not there

    mpl.use("Agg")
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(9, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _times(path: Path, rows: Sequence[Row]) -> Path:
    figure, axes = _figure(1 + 0.45 * len(rows))
    places = range(len(rows))
    axes.barh(places, [row.value for row in rows], height=0.55, color="#4477aa", label="nsorch")
    low = [row.value - min(row.samples) for row in rows]
    high = [max(row.samples) - row.value for row in rows]
    axes.errorbar([row.value for row in rows], places, xerr=[low, high], fmt="none", ecolor="#222222", capsize=3)
    peers = [(at, row.peer) for at, row in zip(places, rows, strict=True) if row.peer]
    axes.plot([peer for _, peer in peers], [at for at, _ in peers], "|", color="#ee6677", ms=18, mew=3, label="peer")
    axes.set_yticks(list(places), [row.name for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("seconds to the first token (median, least and most)")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
    return path


def _memory(path: Path, series: Mapping[str, Sequence[tuple[float, float]]]) -> Path:
    figure, axes = _figure(4.5)
    for mode, points in series.items():
        axes.step([at for at, _ in points], [size for _, size in points], where="post", lw=1.8, label=mode,
                  color=COLOURS.get(mode))  # fmt: skip
    axes.set_xlabel("seconds")
    axes.set_ylabel("MiB, all processes (PSS)")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
    return path
