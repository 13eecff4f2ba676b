"""Figures that were measured in advance and figures that were seen: which of them counts."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroshell_orch.core.figures import Figures, merged, with_memory, with_wake
from neuroshell_orch.core.warmth import Warmth

COLD, PARKED, HIBERNATED, HOT = Warmth
FIELD = {HOT: "hot", HIBERNATED: "hibernated", PARKED: "parked"}
WAKE = {COLD: "wake_cold", PARKED: "wake_parked", HIBERNATED: "wake_hibernated"}

sizes, seconds = st.integers(0, 1 << 40), st.floats(0, 100)
records = st.builds(
    Figures,
    hot=sizes,
    vram=st.none() | st.dictionaries(st.sampled_from(["cuda:0", "cuda:1"]), sizes),
    hibernated=sizes,
    parked=sizes,
    wake_cold=seconds,
    wake_parked=seconds,
    wake_hibernated=seconds,
)


@given(records, records)
def test_what_was_seen_counts_and_what_was_not_is_filled(seen, initial):
    both = merged(seen, initial)
    for name in {*FIELD.values(), *WAKE.values()} - {"hot"}:
        assert getattr(both, name) == (getattr(seen, name) or getattr(initial, name))
    assert both.hot == max(seen.hot, initial.hot)
    assert both.vram == (initial.vram if seen.vram is None else seen.vram)


@given(records)
def test_nothing_adds_nothing(figures):
    assert merged(figures, Figures()) == figures == merged(Figures(), figures)


@pytest.mark.parametrize(
    ("warmth", "before", "size", "after"),
    [
        (HOT, 0, 5, 5),
        (HOT, 100, 90, 100),  # a peak
        (HOT, 100, 101, 100),
        (HOT, 100, 103, 103),
        (PARKED, 100, 50, 50),  # what it was last
        (PARKED, 100, 109, 100),
        (HIBERNATED, 100, 111, 111),
    ],
)
def test_memory_on_a_rung(warmth, before, size, after):
    seen = Figures(**{FIELD[warmth]: before})
    told = with_memory(seen, warmth, size)
    assert getattr(told, FIELD[warmth]) == after
    assert (told is seen) == (after == before), "no news is told as such"


@pytest.mark.parametrize("warmth", [COLD, PARKED, HIBERNATED])
@pytest.mark.parametrize(
    ("seen", "initial", "after"), [(0, None, 1.0), (0, 0, 1.0), (0, 2.0, 1.7), (3.0, 2.0, 2.4), (3.0, None, 2.4)]
)
def test_a_wake_moves_an_average_that_begins_with_what_was_measured_in_advance(warmth, seen, initial, after):
    before = Figures(**{WAKE[warmth]: seen})
    told = with_wake(before, warmth, 1.0, None if initial is None else Figures(**{WAKE[warmth]: initial}))
    assert getattr(told, WAKE[warmth]) == pytest.approx(after)
    assert msgspec.structs.replace(told, **{WAKE[warmth]: seen}) == before, "and nothing else"
