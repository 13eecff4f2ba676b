"""What is remembered of asks: little, for ever, and enough to tell when the next one comes."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroshell_orch.core.history import FULL, LONGEST, PER_OCTAVE, RECENT, SHORTEST, Gaps, probability, survival


def seen(gaps, start=0.0):
    result, now = Gaps(), start
    result.observe(now)
    for gap in gaps:
        now += gap
        result.observe(now)
    return result


lengths = st.floats(0, 1e9) | st.floats(0, 1000)
histories = st.none() | st.lists(lengths, max_size=60).map(seen)
spans = st.floats(0, 1e7)


@given(histories, spans, spans, spans)
def test_a_probability_that_grows_with_the_horizon(gaps, idle, one, other):
    short, long = sorted([one, other])
    assert 0.0 <= probability(gaps, idle, short) <= probability(gaps, idle, long) <= 1.0
    assert probability(gaps, idle, math.inf) == 1.0
    assert probability(gaps, idle, 0.0) == 0.0


@given(histories, spans, spans)
def test_survival_falls(gaps, one, other):
    early, late = sorted([one, other])
    assert 0.0 <= survival(gaps, late) <= survival(gaps, early) <= 1.0


@given(st.lists(lengths, max_size=400), st.integers(1, 6))
def test_it_stays_small_whatever_comes(gaps, times):
    history = seen(gaps * times)
    assert len(history.bins) <= 2 + PER_OCTAVE * math.log2(LONGEST / SHORTEST)
    assert len(history.recent) <= RECENT
    assert history.weight <= FULL
    assert history.count == len(gaps) * times
    assert len(msgspec.json.encode(history)) < 20_000


def test_a_regular_caller_is_known_to_the_second():
    gaps = seen([60.0, 61.0, 59.0, 60.5, 58.5, 62.0, 60.0, 59.5])
    assert probability(gaps, 10.0, 40.0) < 0.1
    assert probability(gaps, 10.0, 55.0) > 0.85
    assert probability(gaps, 57.0, 7.0) > 0.85


def test_without_samples_recent_use_counts():
    chances = [probability(None, idle, 60.0) for idle in (0.0, 60.0, 600.0, 6000.0)]
    assert chances == sorted(chances, reverse=True)
    assert chances[0] == pytest.approx(60 / 360)
    assert probability(Gaps(), 60.0, 60.0) == pytest.approx(chances[1])
    assert probability(None, math.inf, 60.0) == 0.0


def test_after_a_silence_that_never_was_the_long_tail_is_all_that_is_known():
    gaps = seen([10.0] * 50)
    assert probability(gaps, 9.0, 2.0) > 0.95
    assert probability(gaps, 3600.0, 60.0) < 0.02


def test_old_habits_fade():
    gaps = seen([10.0] * 2000 + [100.0] * 2000)
    assert probability(gaps, 0.0, 50.0) < 0.35


def test_a_clock_that_went_back_is_no_gap():
    gaps = seen([10.0])
    gaps.observe(5.0)
    assert (gaps.count, gaps.last) == (1, 5.0)


def test_gaps_out_of_bounds_are_counted_and_never_expected():
    gaps = seen([LONGEST + 1.0] * 9)
    assert gaps.bins == {}
    assert gaps.beyond == 9.0
    assert probability(gaps, 0.0, 86400.0) < 0.11


def test_it_survives_json():
    gaps = seen([1.0, 60.0, 3600.0])
    assert msgspec.json.decode(msgspec.json.encode(gaps), type=Gaps) == gaps
