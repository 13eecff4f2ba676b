"""The model that the bench makes has its size, says something, and hibernates; its rows are all there."""

from __future__ import annotations

import pytest

from tests.bench.big import big_model
from tests.bench.cases import hibernate
from tests.bench.registry import Row
from tests.support_tiny import tiny_genai_folder

MIB = 1 << 20


def test_a_made_model_and_its_rows(tmp_path, monkeypatch):
    folder = big_model(tmp_path / "big", 64, tiny_genai_folder(tmp_path / "tiny"))
    assert (folder / "model.onnx.data").stat().st_size == pytest.approx(64 * MIB, rel=0.2)
    assert big_model(tmp_path / "big", 64, tmp_path / "not looked at") == folder
    monkeypatch.setattr(hibernate, "bandwidth", lambda: 1e10)
    found = list(hibernate.model_rows(folder, "m", tmp_path, 1, 2))
    rows = {row.name: row for row in found if isinstance(row, Row)}
    assert len(rows) == 6
    assert all(row.value > 0 for row in rows.values() if "private" not in row.name)
    assert rows["m: hibernated, private dirty beyond a standby worker"].value < 16
    assert any("2 cycles" in note.text for note in found if not isinstance(note, Row))
