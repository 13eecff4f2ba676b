"""What is remembered of asks survives a restart, whatever the clocks and the disk did meanwhile."""

from __future__ import annotations

import json
import random

import pytest

from neuroshell_orch.core.course import Costs
from neuroshell_orch.core.history import Gaps
from neuroshell_orch.core.modes import Facts, Parameters, wish
from neuroshell_orch.core.warmth import Warmth
from neuroshell_orch.errors import OrchError
from neuroshell_orch.history_store import ASIDE, FILE, FORGOTTEN, KEPT, HistoryStore

WALL = 1.7e9


def hourly(start=0.0, count=20, seed=1):
    source, gaps, now = random.Random(seed), Gaps(), start
    gaps.observe(now)
    for _ in range(count):
        now += 3600.0 + source.uniform(-3, 3)
        gaps.observe(now)
    return gaps


def test_the_next_ask_is_expected_at_the_same_time_of_day_after_a_restart(tmp_path):
    gaps = hourly()
    now = gaps.last + 100.0
    HistoryStore(tmp_path, lambda: WALL).save({"a": gaps}, now)
    # the machine was off for half an hour, and its monotonic clock begins anew
    loaded = HistoryStore(tmp_path, lambda: WALL + 1800.0).load(5.0)
    assert loaded["a"].last == pytest.approx(5.0 - 1900.0)
    facts = Facts(history=loaded["a"], costs=Costs())
    mode = Parameters("adaptive", "adaptive")
    resting = wish(mode, facts, 5.0)
    assert resting.warmth is Warmth.COLD
    assert resting.again_at - 5.0 == pytest.approx(1700.0, abs=30.0)
    assert wish(mode, facts, resting.again_at).warmth is Warmth.HOT


def test_what_this_run_never_touched_is_kept_and_the_latest_win(tmp_path):
    old = HistoryStore(tmp_path, lambda: WALL)
    old.save({"a": hourly(), "b": hourly(seed=2)}, 1e6)
    store = HistoryStore(tmp_path, lambda: WALL + 10.0)
    mine = store.load(0.0)["a"]
    mine.observe(0.0)
    store.save({"a": mine}, 0.0)
    again = HistoryStore(tmp_path, lambda: WALL + 10.0).load(0.0)
    assert again["a"].count == 21
    assert again["b"] == store.load(0.0)["b"]
    store.save({f"m{n}": hourly(start=n, count=1) for n in range(KEPT + 5)}, 1e6)
    names = set(json.loads((tmp_path / FILE).read_text()))
    assert len(names) == KEPT
    assert {"m0", f"m{KEPT + 4}"} & names == {f"m{KEPT + 4}"}


def test_nothing_new_writes_nothing_and_nobody_else_may_read_it(tmp_path):
    store = HistoryStore(tmp_path / "state", lambda: WALL)
    store.save({}, 0.0)
    store.save({"a": Gaps()}, 0.0)
    assert not (tmp_path / "state").exists()
    gaps = hourly()
    store.save({"a": gaps}, gaps.last)
    path = tmp_path / "state" / FILE
    assert path.stat().st_mode & 0o777 == 0o600
    written = path.stat().st_mtime_ns, path.stat().st_ino
    store.save({"a": gaps}, gaps.last + 60.0)
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == written
    assert [p.name for p in path.parent.iterdir()] == [FILE]


def test_it_holds_times_and_counts_and_nothing_else(tmp_path):
    HistoryStore(tmp_path, lambda: WALL).save({"a": hourly()}, 1e6)
    record = json.loads((tmp_path / FILE).read_text())["a"]
    assert set(record) == {"last", "count", "bins", "beyond", "recent"}
    assert (tmp_path / FILE).stat().st_size < 6000


def test_a_clock_that_was_set_back_is_an_ask_just_now(tmp_path):
    gaps = hourly()
    HistoryStore(tmp_path, lambda: WALL).save({"a": gaps}, gaps.last)
    assert HistoryStore(tmp_path, lambda: WALL - 9e6).load(7.0)["a"].last == 7.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"a": 5}',
        '{"a": {"bins": {"x": [1, 2, 3]}}}',
        '{"a": {"bins": {"1": [0, 2, 3]}, "count": 9}}',
        '{"a": {"bins": {"1": [1, 3, 2]}, "count": 9}}',
        '{"a": {"bins": {"1": [1, -1, 2]}, "count": 9}}',
        '{"a": {"bins": {"-7": [1, 1, 2]}, "count": 9}}',
        '{"a": {"recent": [-1]}}',
        '{"a": {"beyond": 1e999}}',
        '{"a": {"recent": [' + "1," * 99 + "1]}}",
    ],
)
def test_a_broken_file_costs_what_it_held(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    assert HistoryStore(tmp_path, lambda: WALL).load(0.0) == {}


def test_one_broken_model_costs_only_itself(tmp_path):
    (tmp_path / FILE).write_text('{"a": {"beyond": -1}, "b": {"last": 1.7e9, "count": 2}}')
    assert set(HistoryStore(tmp_path, lambda: WALL).load(0.0)) == {"b"}


def test_what_is_damaged_is_set_aside_and_what_was_whole_is_written_again(tmp_path):
    (tmp_path / FILE).write_text(f'{{"a": {{"beyond": -1}}, "b": {{"last": {WALL - 5.0}, "count": 2}}}}')
    store = HistoryStore(tmp_path, lambda: WALL)
    assert set(store.load(0.0)) == {"b"}
    assert "of a cannot be true" in store.damage
    assert (tmp_path / ASIDE).exists()
    store.save({}, 0.0)
    assert set(json.loads((tmp_path / FILE).read_text())) == {"b"}


def test_who_was_not_asked_for_three_months_is_forgotten(tmp_path):
    HistoryStore(tmp_path, lambda: WALL).save({"a": hourly()}, hourly().last)
    assert set(HistoryStore(tmp_path, lambda: WALL + FORGOTTEN - 60.0).load(0.0)) == {"a"}
    assert HistoryStore(tmp_path, lambda: WALL + FORGOTTEN + 60.0).load(0.0) == {}


def test_where_it_cannot_be_kept_that_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    store = HistoryStore(tmp_path / "file" / "state", lambda: WALL)
    assert not store.there()
    assert store.load(0.0) == {}
    with pytest.raises(OrchError):
        store.save({"a": hourly()}, 1e6)
