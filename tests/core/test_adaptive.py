"""The adaptive mode: what it wants for habits that are easily told, and what holds for all of them."""

from __future__ import annotations

import itertools
import math
import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroshell_orch.core.adaptive import LEAST, decide
from neuroshell_orch.core.course import Costs, course
from neuroshell_orch.core.forecast import forecast
from neuroshell_orch.core.history import LONGEST, Gaps
from neuroshell_orch.core.modes import Facts, Parameters, wish
from neuroshell_orch.core.warmth import Warmth

COLD, PARKED, HIBERNATED, HOT = Warmth
MODE = Parameters("adaptive", "adaptive", idle=300.0)
SMALL = Costs(198.0, 75.0, 50.0, 0.1, 0.35, 0.5)


def seen(gaps, start=0.0):
    history, now = Gaps(), start
    history.observe(now)
    for gap in gaps:
        now += gap
        history.observe(now)
    return history


def facts_of(history, costs=SMALL, answered=1.0, **more):
    return Facts(answered=history.last + answered, history=history, costs=costs, **more)


def turns(facts, mode=MODE, limit=200):
    """What is wanted from the answer on, if nobody asks: (seconds after the last ask, wish)."""
    now, found = facts.answered, []
    for _ in range(limit):
        wanted = wish(mode, facts, now)
        found.append((now - facts.history.last, wanted))
        if wanted.again_at is None:
            return found
        assert wanted.again_at > now
        now = wanted.again_at
    pytest.fail("it never comes to rest")


def noisy(middle, jitter, count, seed=7):
    source = random.Random(seed)
    return [middle + source.uniform(-jitter, jitter) for _ in range(count)]


def exponential(mean, count, seed=7):
    source = random.Random(seed)
    return [source.expovariate(1 / mean) for _ in range(count)]


@pytest.mark.parametrize("count", range(LEAST))
def test_with_too_few_samples_it_is_the_timeout_mode(count):
    facts = facts_of(seen([600.0] * count))
    assert [(age, w.warmth) for age, w in turns(facts)] == [(1.0, HOT), (301.0, COLD)]


def test_nothing_is_wanted_of_a_model_that_nobody_ever_asked():
    assert wish(MODE, Facts(), 5.0).warmth is COLD
    assert wish(MODE, Facts(history=Gaps(), costs=SMALL), 5.0).warmth is COLD


def test_a_regular_caller_finds_it_woken_just_before():
    found = turns(facts_of(seen(noisy(3600.0, 5.0, 60))))
    (_, resting), (woken, hot), (over, after) = found
    assert (resting.warmth, hot.warmth, after.warmth) == (COLD, HOT, COLD)
    assert 3588.0 < woken < 3595.0
    assert 3605.0 < over < 3612.0
    assert resting.reason == "asks come every 59.8 to 60.2 min; woken 0.64 s before"
    assert hot.reason.startswith("asks come every 59.8 to 60.2 min; hot until")


def test_between_asks_that_come_every_minute_it_hibernates():
    found = turns(facts_of(seen(noisy(60.0, 2.0, 60))))
    assert [w.warmth for _, w in found] == [HIBERNATED, HOT, HIBERNATED, COLD]
    assert 57.0 < found[1][0] < 58.0
    assert found[0][1].reason.startswith("asks come every 58 to 62.1 s; woken 0.3")


def test_what_hibernation_saves_is_found_out_by_trying():
    unknown = msgspec.structs.replace(SMALL, hibernated_bytes=SMALL.hot_bytes)
    history = seen(exponential(200.0, 200))
    assert turns(facts_of(history, unknown))[0][1].warmth is HIBERNATED
    useless = msgspec.structs.replace(SMALL, hibernated_bytes=0.95 * SMALL.hot_bytes)
    assert turns(facts_of(history, useless))[0][1].warmth is HOT


def test_a_model_that_cannot_hibernate_is_not_asked_to():
    costs = msgspec.structs.replace(SMALL, hibernates=False)
    assert HIBERNATED not in {w.warmth for _, w in turns(facts_of(seen(noisy(60.0, 2.0, 60)), costs))}


@pytest.mark.parametrize(("mean", "first"), [(20.0, HOT), (300.0, HIBERNATED), (7200.0, COLD)])
def test_without_a_pattern_the_rate_decides(mean, first):
    assert turns(facts_of(seen(exponential(mean, 500))))[0][1].warmth is first


def test_a_conversation_keeps_it_hot_and_its_end_lets_it_go_early():
    gaps = [gap for pause in exponential(3000.0, 30) for gap in (*exponential(15.0, 12), pause + 600.0)]
    found = turns(facts_of(seen(gaps)))
    assert found[0][1].warmth is HOT
    cold = next(age for age, w in found if w.warmth is COLD)
    assert cold < 150.0


def test_a_long_wake_is_begun_earlier():
    slow = Costs(4e9, 6e8, 5e7, 2.1, 7.2, 7.4)
    woken = [turns(facts_of(seen(noisy(3600.0, 5.0, 60)), costs))[1][0] for costs in (SMALL, slow)]
    assert woken[0] - woken[1] > 7.4


def test_after_a_restart_only_what_is_expected_is_loaded():
    history = seen(noisy(3600.0, 5.0, 60))
    fresh = Facts(history=history, costs=SMALL)
    resting = wish(MODE, fresh, history.last + 10.0)
    assert resting.warmth is COLD
    assert history.last + 3588.0 < resting.again_at < history.last + 3595.0
    assert wish(MODE, fresh, resting.again_at).warmth is HOT


def test_a_client_may_keep_it_and_let_it_go_and_habits_still_count():
    history = seen(noisy(3600.0, 5.0, 60))
    facts = facts_of(history, keep_alive=100.0)
    found = turns(facts)
    assert [w.warmth for _, w in found] == [HOT, COLD, HOT, COLD]
    assert found[1][0] == pytest.approx(101.0)
    few = Facts(answered=0.0, history=Gaps(), keep_alive=0.0)
    assert wish(MODE, few, 0.0).warmth is COLD


def test_what_was_made_ready_on_request_stays_for_a_while():
    history = seen(noisy(3600.0, 5.0, 60))
    facts = facts_of(history, preloaded=history.last + 100.0)
    wanted = wish(MODE, facts, history.last + 150.0)
    assert (wanted.warmth, wanted.again_at) == (HOT, history.last + 400.0)


def test_a_drifting_rhythm_is_forecast_where_the_histogram_says_nothing():
    gaps = [60.0 * 1.19 ** min(i % 40, 40 - i % 40) for i in range(600)]
    history = seen(gaps)
    middle = gaps[-1] * gaps[-1] / gaps[-2]
    guess = forecast(history.recent)
    assert guess.low < middle < guess.high < 2.0 * guess.low
    assert forecast(exponential(60.0, 32)) is None
    season = forecast([24.0, 24.0, 24.0, 24.0, 72.0] * 6)
    assert season.low < 24.0 < season.high < 25.0


# ---- what holds whatever happened ----

gaps_of_any_kind = st.lists(st.floats(0, 2e6) | st.floats(0, 900) | st.sampled_from([60.0, 3600.0]), max_size=50)
sizes = st.floats(0, 1e11)
costs_of_any_kind = st.none() | st.builds(
    Costs, sizes, sizes, sizes, st.floats(0, 60), st.floats(0, 60), st.floats(0, 600), st.booleans()
)
modes_of_any_kind = st.builds(
    lambda idle: Parameters("adaptive", "adaptive", idle=idle), st.floats(0, 1e6) | st.just(math.inf)
)


@settings(max_examples=200, deadline=None)
@given(modes_of_any_kind, gaps_of_any_kind, costs_of_any_kind, st.floats(0, 1e6), st.floats(0, 1e7))
def test_it_always_comes_to_rest_and_each_time_something_changes(mode, gaps, costs, start, wait):
    history = seen(gaps, start)
    facts = Facts(answered=history.last, history=history, costs=costs)
    now, before = history.last + wait, None
    for _ in range(1000):
        wanted = wish(mode, facts, now)
        assert wanted == wish(mode, facts, now)
        assert wanted.reason
        assert before is None or wanted.warmth is not before.warmth
        if costs is not None and not costs.hibernates:
            assert wanted.warmth is not HIBERNATED
        if wanted.again_at is None:
            break
        assert wanted.again_at > now
        now, before = wanted.again_at, wanted
    else:
        pytest.fail("it never comes to rest")
    # who stays for ever does so because the mode says that a start is worth for ever
    assert wanted.warmth is COLD or math.isinf(mode.idle)


@given(gaps_of_any_kind, costs_of_any_kind, st.floats(0, 1e7), st.sampled_from(Warmth))
def test_whoever_is_asked_is_wanted_hot_and_an_unload_wins(gaps, costs, now, cap):
    facts = facts_of(seen(gaps), costs, cap=cap)
    assert wish(MODE, facts, now).warmth <= cap
    facts.asked = True
    assert wish(MODE, facts, now).warmth is HOT


@given(st.lists(st.floats(1, LONGEST), min_size=LEAST, max_size=50), costs_of_any_kind)
def test_a_rung_that_cannot_be_reached_from_cold_is_not_wanted_there(gaps, costs):
    path = course(seen(gaps), costs or SMALL, 300.0, COLD)
    assert path[0].age == 0.0
    for before, after in itertools.pairwise(path):
        assert before.age < after.age
        assert not (after.warmth is HIBERNATED and before.warmth in {COLD, PARKED})


@given(st.lists(st.floats(1, 1e5), min_size=LEAST, max_size=30), st.floats(0.1, 1e9))
def test_bytes_alone_do_not_matter_only_their_parts(gaps, scale):
    history = seen(gaps)
    bigger = Costs(198.0 * scale, 75.0 * scale, 50.0 * scale, 0.1, 0.35, 0.5)
    now = history.last
    one, other = (decide(history, costs, 300.0, now, fresh=False) for costs in (SMALL, bigger))
    assert one.warmth is other.warmth


# ---- what is known from before ----


def test_what_is_remembered_goes_before_what_was_seen_since():
    before, since = seen([60.0] * 5), seen([7.0, 8.0], start=1000.0)
    before.follow(since)
    assert before.count == 5 + 3
    assert before.recent[-3:] == [700.0, 7.0, 8.0]
    assert before.last == since.last
    before.follow(None)
    before.follow(Gaps())
    assert before.count == 8
