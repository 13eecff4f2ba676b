"""The arithmetic of a row, the order of turns, and the shape of both reports."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from tests.bench import report
from tests.bench.registry import Benchmark, Row, interleave, significant


def test_a_row_is_medians_and_their_ratio():
    row = Row("x", "s", [3.0, 1.0, 2.0], [4.0, 8.0, 1.0])
    assert (row.value, row.peer, row.ratio, row.runs) == (2.0, 4.0, 0.5, 3)
    assert (row.spread, row.peer_spread) == ("1..3", "1..8")


def test_there_is_no_ratio_without_a_peer_nor_to_nothing():
    assert Row("x", "s", [1.0]).ratio is None
    assert Row("x", "s", [1.0]).peer is None
    assert Row("x", "MiB", [1.0], [0.0]).ratio is None


@given(st.floats(1e-9, 1e12))
def test_rounding_keeps_four_digits(value):
    assert abs(significant(value) - value) <= value * 5.001e-4


@given(st.integers(1, 5), st.integers(0, 7), st.integers(0, 2))
def test_contestants_take_turns(count, runs, warm_ups):
    order: list[str] = []

    def probe(name):
        return lambda: float(order.append(name) or len(order))

    names = [str(number) for number in range(count)]
    samples = interleave({name: probe(name) for name in names}, runs, warm_ups)
    rounds = [order[at : at + count] for at in range(0, len(order), count)]
    assert len(rounds) == runs + warm_ups
    assert all(sorted(turn) == names for turn in rounds)
    assert [len(samples[name]) for name in names] == [runs] * count
    assert len({turn[0] for turn in rounds}) == min(count, len(rounds))


def test_file_and_table_hold_the_same_figures(tmp_path):
    rows = [Row("one", "s", [1.23456], [2.0]), Row("two", "MiB", [0.0], [5.0]), Row("three", "%", [7.0])]
    report.write(tmp_path / "deep" / "bench.json", rows)
    records = json.loads((tmp_path / "deep" / "bench.json").read_text())
    assert [list(record) for record in records] == [["name", "value", "unit", "peer", "ratio", "runs"]] * 3
    assert records[0] == {"name": "one", "value": 1.235, "unit": "s", "peer": 2.0, "ratio": 0.6173, "runs": 1}
    assert records[2]["peer"] is None
    lines = report.table(Benchmark(1, "b", "Title", "peer", lambda _: []), rows).splitlines()[2:]
    for record, line in zip(records, lines, strict=True):
        assert line.split()[:2] == [record["name"], report.number(record["value"])]
        assert line.split()[-2:] == [report.number(record["ratio"]), str(record["runs"])]
    assert not list(tmp_path.glob("deep/bench.json.*"))
