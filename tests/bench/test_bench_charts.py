"""The charts are PNG files, and there is one for what there are figures for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench import charts
from tests.bench.registry import Row

SCRIPT = """
import sys
from pathlib import Path
from tests.bench import charts
from tests.bench.registry import Row
rows = [Row("daemon awake, COLD", "s", [0.5, 0.4, 0.6], [0.55, 0.5]), Row("warm", "s", [0.01, 0.02, 0.02])]
charts.draw(Path(sys.argv[1]), rows, {"dynamic": [(0.0, 10.0), (1.0, 200.0)], "mine": [(0.0, 1.0)]})
"""


def test_charts_are_drawn(tmp_path):
    pytest.importorskip("matplotlib", reason="a dependency of developers only")
    # In a process of its own: matplotlib keeps its fonts' files open.
    subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        check=True,
        cwd=Path(__file__).parents[2],
        env={"HOME": str(tmp_path)},
    )
    drawn = {path.name: path.read_bytes()[:4] for path in tmp_path.glob("*.png")}
    assert drawn == {"bench-times.png": b"\x89PNG", "bench-memory.png": b"\x89PNG"}


def test_without_figures_there_is_no_chart(tmp_path):
    assert charts.draw(tmp_path, [Row("decode, one stream", "tokens/s", [100.0])], {}) == []
