from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroshell_orch.runtimes.stops import StopFilter


def through(stops, pieces):
    stop_filter = StopFilter(stops)
    shown = [stop_filter.feed(piece) for piece in pieces]
    return "".join(shown) + stop_filter.flush(), stop_filter.stopped


@pytest.mark.parametrize(
    ("stops", "pieces", "shown", "stopped"),
    [
        ([], ["a", "b"], "ab", False),
        ([""], ["ab"], "ab", False),
        (["\n"], ["one\ntwo"], "one", True),
        (["END"], ["x E", "N", "D y"], "x ", True),
        (["END"], ["x EN"], "x EN", False),
        (["END"], ["EN", "EN", "D!"], "EN", True),
        (["b", "ab"], ["xab"], "x", True),
        (["bcd", "abcde"], ["abcde"], "a", True),
        (["END"], ["END", "more"], "", True),
    ],
)
def test_table(stops, pieces, shown, stopped):
    assert through(stops, pieces) == (shown, stopped)


def test_nothing_is_held_back_that_cannot_become_a_stop():
    stop_filter = StopFilter(["END"])
    assert stop_filter.feed("hello") == "hello"
    assert stop_filter.feed(" E") == " "
    assert stop_filter.feed("x") == "Ex"


text = st.text("ab", max_size=12)


@given(st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.lists(text, max_size=6))
def test_how_the_text_is_cut_does_not_matter(stops, pieces):
    whole = "".join(pieces)
    shown, stopped = through(stops, pieces)
    assert (shown, stopped) == through(stops, list(whole))
    assert whole.startswith(shown)
    assert stopped == any(stop in whole for stop in stops)
    assert not any(stop in shown for stop in stops)
    if not stopped:
        assert shown == whole
