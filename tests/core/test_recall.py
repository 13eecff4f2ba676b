"""What is known from before this run: models are ready before anybody asked, and the daemon stays for that."""

from __future__ import annotations

import random

import pytest

from neuroshell_orch.core import messages as m
from neuroshell_orch.core.budget import Cost
from neuroshell_orch.core.history import Gaps
from neuroshell_orch.core.lifecycle import Phase
from neuroshell_orch.core.modes import Parameters
from neuroshell_orch.core.state import NEAR, State, due, next_deadline
from neuroshell_orch.core.step import step
from neuroshell_orch.outlooks import what_next

ADAPTIVE = Parameters("adaptive", "adaptive", idle=300.0)
COST = Cost({"RAM": 198}, {"RAM": 75}, {"RAM": 50}, 0.5, 0.35, 0.1)
TIMEOUT = Parameters("timeout", "timeout", idle=300.0)


def regular(period, last, count=30):
    """Asks about every ``period`` seconds, the last one at ``last``."""
    source, gaps = random.Random(3), Gaps()
    times = [last - n * period + source.uniform(-0.01, 0.01) * period for n in range(count, 0, -1)]
    for time in [*times, last]:
        gaps.observe(time)
    return gaps


def started(mode=ADAPTIVE, idle_exit=30.0, **histories):
    state = State()
    step(
        state, m.Configured({name: m.Plan(mode, "v1", cost=COST) for name in "ab"}, m.Limits(idle_exit=idle_exit)), 0.0
    )
    return state, step(state, m.Recalled(histories), 0.0)


def run(state, until):
    """Ticks up to ``until``; (time, action) of everything that is done."""
    done = []
    while not state.leaving and (at := next_deadline(state)) is not None and at <= until:
        for action in step(state, m.Tick(), at):
            done.append((at, action))
            if isinstance(action, m.StartLoad):
                step(state, m.Loaded(action.model, action.worker), at)
            elif isinstance(action, m.Stop):
                step(state, m.Gone(action.model, action.worker, "stopped"), at)
    return done


def test_a_model_that_is_known_is_loaded_before_its_first_ask():
    state, actions = started(a=regular(3600.0, -3500.0))
    assert actions == [], "not yet"
    (at, load), *_ = [(at, x) for at, x in run(state, 200.0) if isinstance(x, m.WorkerAction)]
    assert load == m.StartLoad("a", 1)
    assert 30.0 < at < 100.0
    assert "asks come every" in state.models["a"].reason


def test_who_is_known_and_expected_at_once_is_loaded_at_once():
    _, actions = started(a=regular(3600.0, -3600.0))
    assert m.StartLoad("a", 1) in actions


def test_no_other_mode_makes_a_record_for_what_is_remembered_but_an_ask_finds_it():
    state, _ = started(TIMEOUT, a=regular(3600.0, -3500.0))
    assert state.models == {}
    step(state, m.Asked("1", "a"), 5.0)
    assert state.models["a"].facts.history.count == 31
    assert "a" not in state.histories


def test_a_mode_that_is_selected_later_knows_it_too():
    state, _ = started(TIMEOUT, a=regular(3600.0, -3500.0), b=regular(3600.0, -100.0))
    step(state, m.Configured({n: m.Plan(ADAPTIVE, "v1", cost=COST) for n in "ab"}, state.limits), 1.0)
    assert due(state) == pytest.approx(100.0, abs=70.0)


def test_an_ask_that_came_first_loses_nothing():
    state = State()
    step(state, m.Configured({"a": m.Plan(ADAPTIVE, "v1", cost=COST)}, m.Limits()), 0.0)
    step(state, m.Asked("1", "a"), 5.0)
    step(state, m.Recalled({"a": regular(3600.0, -3595.0)}), 6.0)
    history = state.models["a"].facts.history
    assert (history.count, history.recent[-1], history.last) == (31, 3600.0, 5.0)


def test_the_daemon_stays_for_what_is_wanted_soon_and_leaves_afterwards():
    state, _ = started(a=regular(3600.0, -3600.0 + NEAR * 0.9))
    done = run(state, 2 * NEAR)
    kinds = [type(action) for _, action in done if not isinstance(action, m.Changed)]
    assert kinds == [m.StartLoad, m.Stop, m.Exit]
    assert done[-1][0] > NEAR * 0.8


def test_for_what_is_wanted_much_later_it_does_not_stay():
    state, _ = started(a=regular(3600.0, -10.0))
    (at, leave), *rest = run(state, 1000.0)
    assert (at, leave, rest) == (30.0, m.Exit("idle"), [])
    assert due(state) > 3000.0, "which is when it should be back"


def test_an_unload_is_not_undone_by_habit():
    state, _ = started(a=regular(3600.0, -3500.0))
    step(state, m.Unload("a"), 1.0)
    assert due(state) is None
    assert [type(action) for _, action in run(state, 1000.0)] == [m.Exit]


def test_why_says_when_and_why():
    state, _ = started(a=regular(3600.0, -3000.0), b=Gaps(last=-1e6, count=40, beyond=40.0))
    said = what_next(state, state.models["a"], 0.0)
    assert "the next ask loads it; HOT in 9 min" in said
    assert "asks come every" in said
    assert "has a chance of" in what_next(state, state.models["b"], 0.0)
    assert state.models["b"].phase is Phase.COLD
