"""Victims: enough, no more than enough, least regretted first."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from neuroshell_orch.core.budget import RAM, Cost, grown, left, missing, sentence, total
from neuroshell_orch.core.lifecycle import Phase
from neuroshell_orch.core.placement import Candidate, Option, Step, choose
from neuroshell_orch.core.warmth import Warmth

COLD, PARKED, HIBERNATED, HOT = Warmth
GPU = "cuda:0"


def candidate(name, size, use=0.5, wake=1.0, hibernates=None):
    options = [] if hibernates is None else [Option(HIBERNATED, {RAM: hibernates}, 0.1)]
    return Candidate(name, (*options, Option(COLD, {RAM: size}, wake)), use)


def test_the_least_regretted_for_its_bytes_goes():
    idle, loved, small = candidate("idle", 100, 0.1), candidate("loved", 100, 0.9), candidate("small", 10, 0.1)
    assert choose({RAM: 80}, [loved, small, idle]) == [Step("idle", COLD)]


def test_nobody_goes_for_nothing_and_nothing_helps_against_too_much():
    assert choose({}, [candidate("a", 1)]) == []
    assert choose({RAM: 100}, [candidate("a", 60), candidate("b", 30)]) is None


def test_a_step_down_the_ladder_is_taken_where_it_is_enough():
    assert choose({RAM: 50}, [candidate("a", 100, hibernates=60)]) == [Step("a", HIBERNATED)]
    assert choose({RAM: 70}, [candidate("a", 100, hibernates=60)]) == [Step("a", COLD)]


def test_what_turned_out_not_to_be_needed_stays():
    """The cheap small one is looked at first, but the big one alone is enough."""
    assert choose({RAM: 100}, [candidate("small", 10, 0.01), candidate("big", 100, 0.5)]) == [Step("big", COLD)]


def test_only_the_short_resource_counts():
    ram, gpu = candidate("ram", 1000, 0.0), Candidate("gpu", (Option(COLD, {GPU: 500}, 1.0),), 1.0)
    assert choose({GPU: 400}, [ram, gpu]) == [Step("gpu", COLD)]


sizes = st.fixed_dictionaries({}, optional={RAM: st.integers(1, 50), GPU: st.integers(1, 50)})


@st.composite
def candidates(draw):
    result = []
    for number in range(draw(st.integers(0, 5))):
        full = draw(sizes)
        part = {resource: draw(st.integers(0, size)) for resource, size in full.items()}
        gentle = [Option(HIBERNATED, part, draw(st.floats(0, 1)))] if draw(st.booleans()) else []
        options = (*gentle, Option(COLD, full, draw(st.floats(0, 5))))
        result.append(Candidate(f"m{number}", options, draw(st.floats(0, 1))))
    return result


def freed(steps, offered):
    by_name = {c.name: c for c in offered}
    return total(next(o.frees for o in by_name[s.name].options if o.to is s.to) for s in steps)


@given(sizes, candidates())
def test_it_frees_enough_and_no_part_of_it_would_do(deficit, offered):
    steps = choose(deficit, offered)
    everything = total(c.options[-1].frees for c in offered)
    if steps is None:
        assert missing(deficit, {resource: everything.get(resource, 0) for resource in deficit})
        return
    assert len({step.name for step in steps}) == len(steps)
    assert not missing(deficit, {resource: freed(steps, offered).get(resource, 0) for resource in deficit})
    for size in range(len(steps)):
        for fewer in itertools.combinations(steps, size):
            got = freed(fewer, offered)
            assert any(got.get(resource, 0) < wanted for resource, wanted in deficit.items()), "a part would have done"


@given(sizes, sizes)
def test_arithmetic(one, other):
    assert left(total([one, other]), one) == {r: total([one, other])[r] - one.get(r, 0) for r in {*one, *other}}
    assert not missing(one, one)
    assert total([one, grown(one, other)]).keys() <= {*one, *other}


def test_costs_by_phase():
    cost = Cost({RAM: 100}, {RAM: 40}, {RAM: 20})
    assert [cost.at(phase).get(RAM, 0) for phase in Phase] == [0, 20, 20, 100, 100, 100, 40, 100, 100]
    assert sentence({RAM: 3 << 20}) == "3 MiB of RAM"
