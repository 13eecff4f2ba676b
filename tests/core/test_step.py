"""The engine's decisions as list comparisons: one story each."""

from __future__ import annotations

import pytest

from neuroshell_orch.core import messages as m
from neuroshell_orch.core.lifecycle import IllegalTransition, Phase
from neuroshell_orch.core.modes import Parameters
from neuroshell_orch.core.state import State, next_deadline, outlook
from neuroshell_orch.core.step import step
from neuroshell_orch.core.warmth import Warmth


class Story:
    """Drives one state and keeps the worker actions apart from the talk about them."""

    def __init__(self, policy="timeout", **parameters):
        plan = {k: parameters.pop(k) for k in ("load_timeout", "parallel", "eager", "artefact") if k in parameters}
        limits = m.Limits(**{k: parameters.pop(k) for k in ("max_queue", "idle_exit") if k in parameters})
        self.mode = Parameters(policy, policy, **parameters)
        self.limits = limits
        self.state = State()
        self.now = 0.0
        self.first = self.do(m.Configured({"a": m.Plan(self.mode, **plan)}, limits))

    def do(self, event, at=None):
        if at is not None:
            self.now = at
        return [action for action in step(self.state, event, self.now) if not isinstance(action, m.Changed)]

    def tick(self):
        self.now = next_deadline(self.state)
        return self.do(m.Tick())

    @property
    def phase(self):
        return self.state.models["a"].phase

    def hot(self):
        assert self.do(m.Asked("1", "a")) == [m.StartLoad("a", 1)]
        assert self.do(m.Loaded("a", 1)) == [m.Dispatch("1", "a", 1)]
        return self


def test_an_ask_starts_a_worker_waits_for_the_load_and_is_dispatched():
    story = Story(idle=60)
    assert story.do(m.Asked("1", "a")) == [m.StartLoad("a", 1)]
    assert story.do(m.Asked("2", "a")) == [], "the second ask joins the running load"
    assert story.do(m.Loaded("a", 1, 0.4)) == [m.Dispatch("1", "a", 1)]
    assert story.do(m.Finished("1"), at=5.0) == [m.Dispatch("2", "a", 1)]
    assert story.do(m.Finished("2"), at=6.0) == []
    assert next_deadline(story.state) == 66.0
    assert story.tick() == [m.Stop("a", 1)]
    assert story.do(m.Gone("a", 1, "killed")) == []
    assert story.phase is Phase.COLD
    assert story.state.models["a"].reason == "idle for 1 min", "why it was ended, not how"


def test_dynamic_lets_go_at_once_and_standby_keeps_a_fresh_worker():
    story = Story("dynamic").hot()
    assert story.do(m.Finished("1")) == [m.Stop("a", 1)]
    assert story.do(m.Gone("a", 1, "killed")) == []
    story = Story("dynamic", standby=True).hot()
    assert story.do(m.Finished("1")) == [m.Stop("a", 1)]
    assert story.do(m.Gone("a", 1, "killed")) == [m.StartStandby("a", 2)]
    story.do(m.Parked("a", 2))
    assert story.phase is Phase.PARKED
    assert story.do(m.Asked("2", "a")) == [m.Load("a", 2)]


def test_persistent_loads_at_start_and_never_lets_go():
    story = Story("persistent", eager=True)
    assert story.first == [m.StartLoad("a", 1)]
    story.do(m.Loaded("a", 1))
    assert next_deadline(story.state) is None


def test_dummy_swap_replaces_the_worker_with_a_standby():
    story = Story("dummy-swap", idle=10).hot()
    story.do(m.Finished("1"))
    assert story.tick() == [m.Stop("a", 1)]
    assert story.do(m.Gone("a", 1, "killed")) == [m.StartStandby("a", 2)]
    assert story.do(m.Parked("a", 2)) == []
    assert (story.phase, next_deadline(story.state)) == (Phase.PARKED, None)


def test_an_ask_while_the_standby_starts_is_sent_behind_it():
    story = Story("dummy-swap", idle=10).hot()
    story.do(m.Finished("1"))
    story.tick()
    story.do(m.Gone("a", 1, "killed"))
    assert story.do(m.Asked("2", "a")) == [m.Load("a", 2)]
    assert story.do(m.Parked("a", 2)) == []
    assert story.do(m.Loaded("a", 2)) == [m.Dispatch("2", "a", 2)]


def test_hibernate_gives_pages_back_wakes_and_forgets():
    story = Story("hibernate", idle=10, forget=100).hot()
    story.do(m.Finished("1"))
    assert story.tick() == [m.Hibernate("a", 1)]
    assert story.do(m.Asked("2", "a")) == [], "the pages are on their way out: first that, then the wake"
    assert story.do(m.Hibernated("a", 1)) == [m.Wake("a", 1)]
    assert story.do(m.Woken("a", 1)) == [m.Dispatch("2", "a", 1)]
    story.do(m.Finished("2"))
    assert story.tick() == [m.Hibernate("a", 1)]
    story.do(m.Hibernated("a", 1))
    when, then = outlook(story.state.models["a"])
    assert (when, then.warmth) == (110.0, Warmth.COLD)
    assert story.tick() == [m.Stop("a", 1)]


def test_a_model_that_cannot_hibernate_is_unloaded_instead():
    story = Story("hibernate", idle=10, forget=100)
    story.do(m.Asked("1", "a"))
    story.do(m.Loaded("a", 1, 0.1, can_hibernate=False))
    story.do(m.Finished("1"))
    assert story.tick() == [m.Stop("a", 1)]
    assert "cannot be given back" in story.state.models["a"].reason


def test_a_worker_lost_in_hibernation_mode_does_not_keep_the_daemon():
    story = Story("hibernate", idle=10, forget=100, idle_exit=30).hot()
    story.do(m.Gone("a", 1, "killed by SIGKILL"), at=1.0)
    for _ in range(5):
        if actions := story.tick():
            break
    assert actions == [m.Exit("idle")]
    assert story.now == 31.0


def test_a_failed_load_refuses_everybody_who_waits_and_the_next_ask_tries_again():
    story = Story()
    story.do(m.Asked("1", "a"))
    story.do(m.Asked("2", "a"))
    error = ("load-failed", "model.onnx: not a model", "Check the file.")
    refusals = [m.Refuse(ask, *error, 10.0) for ask in "12"]
    assert story.do(m.Failed("a", 1, *error)) == [*refusals, m.Stop("a", 1)]
    assert story.do(m.Asked("3", "a")) == [], "it waits until the old process is gone"
    assert story.do(m.Gone("a", 1, "killed")) == [m.StartLoad("a", 2)]


def test_a_worker_that_dies_loading_refuses_its_asks():
    story = Story()
    story.do(m.Asked("1", "a"))
    assert story.do(m.Gone("a", 1, "killed by SIGSEGV", "See the journal.")) == [
        m.Refuse("1", "load-failed", "killed by SIGSEGV", "See the journal.", 10.0)
    ]
    assert story.phase is Phase.COLD


def test_a_worker_that_dies_answering_loses_only_that_answer():
    story = Story().hot()
    story.do(m.Asked("2", "a"))
    assert story.do(m.Gone("a", 1, "killed by SIGKILL")) == [m.StartLoad("a", 2)], "the second ask still waits"
    assert story.do(m.Finished("1")) == [], "its end was known"
    assert story.do(m.Loaded("a", 2)) == [m.Dispatch("2", "a", 2)]


def test_a_load_that_takes_too_long_is_given_up():
    story = Story(load_timeout=2.0)
    story.do(m.Asked("1", "a"))
    assert next_deadline(story.state) == 2.0
    refuse, stop = story.tick()
    assert (refuse.ask, refuse.problem) == ("1", "load-timeout")
    assert "LoadTimeoutSec=2 s" in refuse.message
    assert stop == m.Stop("a", 1)


def test_persistent_backs_off_between_failing_loads():
    story = Story("persistent", eager=True, idle_exit=30)
    waits = []
    for worker in range(1, 9):
        story.do(m.Failed("a", worker, "load-failed", "no"))
        story.do(m.Gone("a", worker, "killed"))
        before = story.now
        assert story.tick() == [m.StartLoad("a", worker + 1)]
        waits.append(story.now - before)
    assert waits == [10, 20, 40, 80, 160, 300, 300, 300]


def test_a_cancelled_waiting_ask_cancels_the_load_that_nobody_else_wants():
    story = Story()
    story.do(m.Asked("1", "a"))
    assert story.do(m.Cancelled("1")) == [m.Refuse("1", "cancelled", "The client went away."), m.Stop("a", 1)]


def test_a_cancelled_answer_is_stopped_or_its_worker_is_given_up():
    story = Story().hot()
    assert story.do(m.Cancelled("1")) == [m.CancelAnswer("1", "a", 1)]
    assert story.do(m.Cancelled("1")) == []
    assert next_deadline(story.state) == 5.0
    assert story.tick() == [m.Stop("a", 1)]
    assert next_deadline(story.state) is None, "nothing to wait for but the end of the process"
    story.do(m.Gone("a", 1, "killed"))
    assert story.state.asks == {}


def test_unload_waits_for_the_answer_and_holds_until_the_next_ask():
    story = Story("persistent", eager=True)
    story.do(m.Loaded("a", 1))
    story.do(m.Asked("1", "a"))
    assert story.do(m.Unload("a")) == []
    assert story.do(m.Finished("1")) == [m.Stop("a", 1)]
    assert story.do(m.Gone("a", 1, "killed")) == []
    assert story.do(m.Asked("2", "a")) == [m.StartLoad("a", 2)]


def test_preload_makes_ready_and_dynamic_keeps_it_for_the_next_ask():
    story = Story("dynamic")
    story.hot()
    assert story.do(m.Finished("1", hold=True)) == []
    story.do(m.Asked("2", "a"), at=1000.0)
    assert story.do(m.Finished("2")) == [m.Stop("a", 1)]


def test_unknown_models_and_full_queues_are_refused():
    story = Story(max_queue=2)
    (refuse,) = story.do(m.Asked("x", "nope"))
    assert (refuse.problem, refuse.hint) == ("model-unknown", "Registered models: a.")
    story.do(m.Asked("1", "a"))
    story.do(m.Asked("2", "a"))
    (refuse,) = story.do(m.Asked("3", "a"))
    assert refuse.problem == "queue-full"


def test_shutdown_lets_the_answer_end_refuses_the_rest_and_leaves():
    story = Story().hot()
    story.do(m.Asked("2", "a"))
    (refuse,) = story.do(m.Shutdown(10.0), at=1.0)
    assert (refuse.ask, refuse.problem) == ("2", "service-stopping")
    (refuse,) = story.do(m.Asked("3", "a"))
    assert refuse.problem == "service-stopping"
    assert story.do(m.Finished("1"), at=2.0) == [m.Stop("a", 1)]
    assert story.do(m.Gone("a", 1, "killed")) == [m.Exit("shut down")]


def test_shutdown_cuts_an_answer_off_when_its_grace_is_over():
    story = Story().hot()
    assert story.do(m.Shutdown(10.0)) == []
    assert story.tick() == [m.Stop("a", 1)]
    assert next_deadline(story.state) is None
    assert story.do(m.Gone("a", 1, "killed")) == [m.Exit("shut down")]


def test_idle_exit_needs_quiet_and_starts_over_when_somebody_came():
    story = Story("dynamic", idle_exit=30)
    assert next_deadline(story.state) == 30.0
    story.do(m.Clients(1), at=10.0)
    assert next_deadline(story.state) is None
    story.do(m.Clients(0), at=20.0)
    assert story.tick() == [m.Exit("idle")]
    assert story.now == 50.0
    story.do(m.Stay(), at=51.0)
    assert next_deadline(story.state) == 81.0


def test_two_models_are_hot_together_each_with_its_own_worker():
    story = Story(idle=60)
    story.do(m.Configured({"a": m.Plan(story.mode), "b": m.Plan(story.mode)}, story.limits))
    assert story.do(m.Asked("1", "a")) == [m.StartLoad("a", 1)]
    assert story.do(m.Asked("2", "b")) == [m.StartLoad("b", 2)]
    assert story.do(m.Loaded("b", 2)) == [m.Dispatch("2", "b", 2)]
    assert story.do(m.Loaded("a", 1)) == [m.Dispatch("1", "a", 1)]


def test_a_changed_artefact_is_loaded_anew_once_the_answer_is_done():
    story = Story(artefact="one", idle=60).hot()
    assert story.do(m.Configured({"a": m.Plan(story.mode, "two")}, story.limits)) == []
    assert story.do(m.Asked("2", "a")) == []
    assert story.do(m.Finished("1")) == [m.Stop("a", 1)]
    assert story.do(m.Gone("a", 1, "killed")) == [m.StartLoad("a", 2)]
    assert story.do(m.Loaded("a", 2)) == [m.Dispatch("2", "a", 2)]


def test_a_removed_model_refuses_who_waits_and_is_forgotten_when_it_is_cold():
    story = Story().hot()
    story.do(m.Asked("2", "a"))
    (refuse,) = story.do(m.Configured({}, story.limits))
    assert (refuse.ask, refuse.problem) == ("2", "model-unknown")
    assert story.do(m.Finished("1")) == [m.Stop("a", 1)]
    story.do(m.Gone("a", 1, "killed"))
    assert story.state.models == {}


def test_a_mode_change_takes_effect_at_once():
    story = Story("persistent").hot()
    story.do(m.Finished("1"))
    assert story.do(m.Configured({"a": m.Plan(Parameters("dynamic", "dynamic"))}, story.limits)) == [m.Stop("a", 1)]


def test_news_of_a_worker_that_was_given_up_is_dropped():
    story = Story().hot()
    assert story.do(m.Gone("a", 99, "old")) == []
    assert story.do(m.Loaded("nobody", 1)) == []
    assert story.phase is Phase.HOT


@pytest.mark.parametrize("event", [m.Woken("a", 1), m.Parked("a", 1), m.Hibernated("a", 1), m.Loaded("a", 1)])
def test_an_impossible_report_raises_and_changes_nothing(event):
    story = Story().hot()
    before = repr(story.state)
    with pytest.raises(IllegalTransition):
        story.do(event)
    assert repr(story.state) == before


def test_the_watchdog_is_answered_only_by_a_turning_engine():
    assert Story().do(m.Ping()) == [m.Pong()]


def test_a_thousand_registered_models_cost_no_records():
    story = Story()
    story.do(m.Configured({f"m{n}": m.Plan(story.mode) for n in range(1000)}, story.limits))
    assert story.state.models == {}
