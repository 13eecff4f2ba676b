"""What each mode wants: the table of the design, row by row, and properties that hold for all of them."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroshell_orch.core.modes import POLICIES, Facts, Parameters, Wish, wish
from neuroshell_orch.core.warmth import Warmth

COLD, PARKED, HIBERNATED, HOT = Warmth


def mode(policy, **parameters):
    return Parameters(policy, policy, **parameters)


ANSWERED = Facts(answered=100.0)

TABLE = [
    # mode, facts, now, wanted, ask again at
    (mode("dynamic"), Facts(), 100.0, COLD, None),
    (mode("dynamic"), ANSWERED, 100.0, COLD, None),
    (mode("dynamic", standby=True), ANSWERED, 100.0, PARKED, None),
    (mode("dynamic", standby=True), Facts(), 100.0, COLD, None),
    (mode("dynamic"), Facts(answered=10.0, preloaded=100.0), 5000.0, HOT, None),
    (mode("persistent"), Facts(), 100.0, COLD, None),
    (mode("persistent"), Facts(eager=True), 0.0, HOT, None),
    (mode("persistent"), ANSWERED, 1e9, HOT, None),
    (mode("timeout", idle=60), Facts(), 100.0, COLD, None),
    (mode("timeout", idle=60), ANSWERED, 100.0, HOT, 160.0),
    (mode("timeout", idle=60), ANSWERED, 159.9, HOT, 160.0),
    (mode("timeout", idle=60), ANSWERED, 160.0, COLD, None),
    (mode("timeout", idle=0), ANSWERED, 100.0, COLD, None),
    (mode("timeout", idle=math.inf), ANSWERED, 1e9, HOT, None),
    (mode("timeout", idle=60), Facts(answered=100.0, preloaded=150.0), 200.0, HOT, 210.0),
    (mode("dummy-swap", idle=60), ANSWERED, 159.0, HOT, 160.0),
    (mode("dummy-swap", idle=60), ANSWERED, 160.0, PARKED, None),
    (mode("hibernate", idle=60, forget=600), ANSWERED, 159.0, HOT, 160.0),
    (mode("hibernate", idle=60, forget=600), ANSWERED, 160.0, HIBERNATED, 700.0),
    (mode("hibernate", idle=60, forget=600), ANSWERED, 700.0, COLD, None),
    (mode("hibernate", idle=60, forget=math.inf), ANSWERED, 1e9, HIBERNATED, None),
    (mode("hibernate", idle=60, forget=30), ANSWERED, 130.0, COLD, None),
]


@pytest.mark.parametrize(("parameters", "facts", "now", "warmth", "again"), TABLE)
def test_table(parameters, facts, now, warmth, again):
    wanted = wish(parameters, facts, now)
    assert (wanted.warmth, wanted.again_at) == (warmth, again)
    assert wanted.reason


instants = st.none() | st.floats(0, 1e6)
facts_of_any_kind = st.builds(
    Facts,
    asked=st.booleans(),
    answered=instants,
    preloaded=instants,
    keep_alive=st.none() | st.floats(0, 1e5) | st.just(math.inf),
    cap=st.sampled_from(Warmth),
    eager=st.booleans(),
)
parameters_of_any_kind = st.builds(
    lambda policy, idle, forget, standby, who: Parameters(policy, policy, idle, forget, standby, who),
    st.sampled_from(sorted(POLICIES)),
    st.floats(0, 1e5) | st.just(math.inf),
    st.floats(0, 1e5) | st.just(math.inf),
    st.booleans(),
    st.sampled_from(["client", "server", "min", "max"]),
)


@given(parameters_of_any_kind, facts_of_any_kind, st.floats(0, 1e7))
def test_whoever_is_asked_is_wanted_hot(parameters, facts, now):
    facts.asked = True
    assert wish(parameters, facts, now) == Wish(HOT, "asked")


@given(parameters_of_any_kind, facts_of_any_kind, st.floats(0, 1e7))
def test_an_unload_wins_over_every_mode_until_the_next_ask(parameters, facts, now):
    facts.asked, facts.cap = False, COLD
    assert wish(parameters, facts, now).warmth is COLD


KEEP_ALIVE = [
    # who decides, mode, the client's wish, seconds after the answer, wanted, ask again at
    ("server", mode("timeout", idle=60), 600.0, 100.0, COLD, None),
    ("client", mode("timeout", idle=60), 600.0, 100.0, HOT, 700.0),
    ("client", mode("timeout", idle=60), 600.0, 600.0, COLD, None),
    ("client", mode("timeout", idle=60), 0.0, 0.0, COLD, None),
    ("client", mode("timeout", idle=60), math.inf, 1e9, HOT, None),
    ("min", mode("timeout", idle=60), 600.0, 59.0, HOT, 160.0),
    ("min", mode("timeout", idle=60), 600.0, 60.0, COLD, None),
    ("max", mode("timeout", idle=60), 10.0, 59.0, HOT, 160.0),
    ("max", mode("dynamic"), 30.0, 29.0, HOT, 130.0),
    ("client", mode("dynamic", standby=True), 30.0, 30.0, PARKED, None),
    ("client", mode("persistent"), 30.0, 30.0, COLD, None),
    ("max", mode("persistent"), 30.0, 1e9, HOT, None),
    ("client", mode("dummy-swap", idle=60), 5.0, 5.0, PARKED, None),
    ("client", mode("hibernate", idle=60, forget=600), 5.0, 5.0, HIBERNATED, 700.0),
    ("client", mode("hibernate", idle=60, forget=600), 5.0, 600.0, COLD, None),
]


@pytest.mark.parametrize(("who", "parameters", "wanted", "after", "warmth", "again"), KEEP_ALIVE)
def test_keep_alive(who, parameters, wanted, after, warmth, again):
    parameters = msgspec.structs.replace(parameters, keep_alive=who)
    result = wish(parameters, Facts(answered=100.0, keep_alive=wanted), 100.0 + after)
    assert (result.warmth, result.again_at) == (warmth, again)


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_a_lost_worker_is_replaced_unasked_only_by_a_persistent_mode(policy):
    facts = Facts(answered=100.0, lost=True)
    assert wish(mode(policy, standby=True), facts, 101.0).warmth is (HOT if policy == "persistent" else COLD)


@given(parameters_of_any_kind, facts_of_any_kind, st.floats(0, 1e7))
def test_the_time_to_ask_again_is_later_and_then_something_changes(parameters, facts, now):
    first = wish(parameters, facts, now)
    assert first == wish(parameters, facts, now)
    if first.again_at is not None:
        assert first.again_at > now
        later = wish(parameters, facts, first.again_at)
        assert later != first
        assert later.warmth < first.warmth or later.warmth is facts.cap
