"""The benchmark runs from end to end on a model of a few kilobytes, and its file says what its table says."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace

import pytest

from tests.bench import report
from tests.bench.__main__ import main
from tests.bench.cases.clients import measure
from tests.bench.registry import load_all
from tests.support_tiny import tiny_genai_folder


@pytest.fixture
def model(tmp_path):
    return tiny_genai_folder(tmp_path / "tiny")


def test_a_quick_run_of_one_benchmark(model, tmp_path, capsys):
    out = tmp_path / "bench.json"
    assert main(["--quick", "--only", "decode", "--launcher", "child", "--model", str(model), "--out", str(out)]) == 0
    records = json.loads(out.read_text())
    printed = capsys.readouterr().out
    assert [record["name"] for record in records] == ["decode, one stream"]
    for record in records:
        assert list(record) == ["name", "value", "unit", "peer", "ratio", "runs"]
        assert record["runs"] == 3
        assert record["value"] > 0
        line = next(line for line in printed.splitlines() if line.strip().startswith(record["name"]))
        shown = line.split(record["name"])[1].split()
        assert shown[0] == report.number(record["value"])
        assert shown[2] == record["unit"]
        assert shown[3] == report.number(record["peer"])
        assert shown[-2:] == [report.number(record["ratio"]), "3"]
    assert "workers are child processes" in printed
    assert "onnxruntime-genai" in printed


def test_a_model_that_is_none_ends_in_one_sentence(tmp_path, capsys):
    out = tmp_path / "bench.json"
    options = ["--only", "decode", "--launcher", "child", "--model", str(tmp_path / "none"), "--out", str(out)]
    assert main(options) == 1
    assert capsys.readouterr().err.startswith("bench: ")
    assert not out.exists()


def test_the_benchmarks_there_are():
    assert list(load_all())[:3] == ["first-token", "decode", "memory"]


def test_a_small_crowd(tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NSORCH_")}
    world = SimpleNamespace(environment=environment)
    rows = list(measure(world, tmp_path / "crowd", many=12, slow=3, runs=1))
    assert all(row.value > 0 and row.peer > 0 for row in rows)
