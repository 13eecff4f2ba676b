"""Memory shared by several models: who goes, who waits, for how long, and what is said when nothing helps."""

from __future__ import annotations

import itertools

from neuroshell_orch.core import messages as m
from neuroshell_orch.core.budget import Cost
from neuroshell_orch.core.lifecycle import Phase
from neuroshell_orch.core.modes import Parameters
from neuroshell_orch.core.state import State, next_deadline
from neuroshell_orch.core.step import step

COST = Cost({"RAM": 100}, {"RAM": 30}, {"RAM": 10})


class Machine:
    """Several models under one budget; workers do what they are told at once, answers end when the test says so."""

    def __init__(self, *names, budget=120, policy="timeout", costs=None, **limits):
        mode = Parameters(policy, policy, idle=1000.0, forget=5000.0)
        plans = {n: m.Plan(mode, "v1", cost=(costs or {}).get(n, COST)) for n in names}
        self.state, self.now, self.log, self.count = State(), 0.0, [], 0
        self.limits = m.Limits(budget={"RAM": budget}, **limits)
        self.do(m.Configured(plans, self.limits))

    def do(self, event):
        queue = [event]
        while queue:
            for action in step(self.state, queue.pop(0), self.now):
                self.log.append(action)
                match action:
                    case m.StartLoad() | m.Load():
                        queue.append(m.Loaded(action.model, action.worker))
                    case m.StartStandby():
                        queue.append(m.Parked(action.model, action.worker))
                    case m.Hibernate():
                        queue.append(m.Hibernated(action.model, action.worker))
                    case m.Wake():
                        queue.append(m.Woken(action.model, action.worker))
                    case m.Stop():
                        queue.append(m.Gone(action.model, action.worker, "stopped"))
            assert sum(x.reserved.get("RAM", 0) for x in self.state.models.values()) <= self.limits.budget["RAM"]

    def ask(self, model, **options):
        self.count += 1
        self.do(m.Asked(f"{self.count}", model, m.AskOptions(**options)))
        return f"{self.count}"

    def finish(self, *asks):
        for ask in asks:
            self.do(m.Finished(ask))

    def until(self, now):
        while (at := next_deadline(self.state)) is not None and at <= now:
            self.now = at
            self.do(m.Tick())
        self.now = now

    def answered(self):
        return [action.ask for action in self.log if isinstance(action, m.Dispatch)]

    def refused(self):
        return {action.ask: action for action in self.log if isinstance(action, m.Refuse)}

    def phase(self, name):
        return self.state.models[name].phase


def test_an_idle_model_makes_room_and_comes_back_when_it_is_asked():
    machine = Machine("a", "b")
    machine.finish(machine.ask("a"))
    machine.until(100)
    machine.finish(machine.ask("b"))
    assert machine.answered() == ["1", "2"]
    assert (machine.phase("a"), machine.phase("b")) == (Phase.COLD, Phase.HOT)
    assert "making room for b" in machine.state.models["a"].reason
    machine.until(200)
    machine.finish(machine.ask("a"))
    assert machine.answered() == ["1", "2", "3"]


def test_where_hibernating_is_enough_nothing_is_unloaded():
    machine = Machine("a", "b", budget=135, policy="hibernate")
    machine.finish(machine.ask("a"))
    machine.until(100)
    machine.finish(machine.ask("b"))
    assert (machine.phase("a"), machine.phase("b")) == (Phase.HIBERNATED, Phase.HOT)


def test_the_least_regretted_goes():
    machine = Machine("old", "new", "third", budget=220)
    machine.finish(machine.ask("old"))
    machine.until(600)
    machine.finish(machine.ask("new"))
    machine.until(700)
    machine.finish(machine.ask("third"))
    assert (machine.phase("old"), machine.phase("new")) == (Phase.COLD, Phase.HOT)


def test_an_answer_is_never_cut_for_another_model():
    machine = Machine("a", "b")
    first = machine.ask("a")
    machine.ask("b")
    machine.until(9.9)
    assert machine.answered() == ["1"]
    assert machine.phase("a") is Phase.HOT
    machine.until(60)
    assert machine.answered() == ["1"], "not even when b has waited for long"
    machine.finish(first)
    assert machine.answered() == ["1", "2"]


def test_a_b_c_a_b_c_becomes_a_a_b_b_c_c():
    machine = Machine("a", "b", "c", swap_delay=10)
    for model in "abcabc":
        machine.ask(model)
    for _ in range(40):
        running = [ask for model in machine.state.models.values() for ask in model.running]
        machine.finish(*running)
        machine.until(machine.now + 0.3)
    assert machine.answered() == ["1", "4", "2", "5", "3", "6"]


def closed_loop(machine, seconds, answer):
    """Two clients that ask again as soon as they have an answer; the times at which each model got its turn."""
    turns, waits, asked = [], [], {}
    for model in ("a", "b"):
        asked[machine.ask(model)] = machine.now
    seen = 0
    while machine.now < seconds:
        machine.until(machine.now + answer)
        for action in machine.log[seen:]:
            if isinstance(action, m.Dispatch):
                waits.append(machine.now - asked[action.ask])
                turns.append((machine.now, action.model))
        seen = len(machine.log)
        for model in list(machine.state.models.values()):
            for ask in list(model.running):
                machine.finish(ask)
                asked[machine.ask(model.name)] = machine.now
    swaps = [at for (at, one), (_, before) in zip(turns[1:], turns, strict=False) if one != before]
    return turns, waits, swaps


def test_two_clients_on_two_models_swap_once_in_the_delay_and_nobody_waits_longer():
    machine = Machine("a", "b", swap_delay=10)
    turns, waits, swaps = closed_loop(machine, 300, 0.1)
    gaps = [b - a for a, b in itertools.pairwise(swaps)]
    assert min(gaps) >= 10 - 0.2
    assert max(waits) <= 10 + 0.5
    shares = [sum(model == name for _, model in turns) for name in ("a", "b")]
    assert min(shares) > 0.4 * sum(shares)


def test_urgent_asks_go_first_and_waiting_makes_urgent():
    machine = Machine("a")
    first = machine.ask("a")
    machine.ask("a", priority="background")
    machine.ask("a")
    machine.ask("a", priority="interactive")
    for ask in (first, "4", "3"):
        machine.finish(ask)
    assert machine.answered() == ["1", "4", "3", "2"]
    machine.ask("a", priority="background")
    machine.until(61)
    machine.ask("a", priority="interactive")
    machine.finish("2")
    assert machine.answered()[-1] == "5", "it has waited two ranks' worth"


def test_what_can_never_fit_is_refused_with_the_arithmetic():
    machine = Machine("a", budget=150, costs={"a": Cost({"RAM": 300 << 20})})
    machine.ask("a")
    refusal = machine.refused()["1"]
    assert refusal.problem == "over-budget"
    assert "300 MiB of RAM" in refusal.message
    assert "MemoryBudget=" in refusal.hint


def test_patience_ends_a_wait_but_never_an_answer():
    machine = Machine("a", "b")
    machine.ask("a", patience=5.0)
    machine.ask("b", patience=5.0)
    machine.until(6)
    assert machine.refused().keys() == {"2"}
    assert machine.refused()["2"].problem == "timed-out"


def test_a_measurement_that_is_more_than_the_estimate_is_corrected_by_idle_models():
    machine = Machine("a", "b", "c", budget=320)
    for name in "abc":
        machine.finish(machine.ask(name))
        machine.until(machine.now + 100)
    machine.limits = m.Limits(budget={"RAM": 370})  # the moment of the truth itself
    machine.do(m.Costed("c", Cost({"RAM": 170})))
    machine.limits = m.Limits(budget={"RAM": 320})
    machine.do(m.Tick())
    assert machine.phase("a") is Phase.HIBERNATED
    assert (machine.phase("b"), machine.phase("c")) == (Phase.HOT, Phase.HOT)


def test_a_failed_load_is_not_tried_again_at_once_but_for_a_reason():
    machine = Machine("a")
    step(machine.state, m.Asked("x", "a"), 0.0)
    step(machine.state, m.Failed("a", 1, "model-invalid", "bad file"), 0.0)
    step(machine.state, m.Gone("a", 1, "stopped"), 0.0)
    machine.now = 3.0
    machine.ask("a")
    refusal = machine.refused()["1"]
    assert (refusal.problem, refusal.retry_after) == ("load-failed", 7.0)
    assert "bad file" in refusal.message
    machine.do(m.Forgive("a"))
    machine.ask("a")
    assert machine.answered() == ["2"]


def test_nobody_goes_for_a_model_that_only_its_mode_wants():
    machine = Machine("a", "b")
    machine.finish(machine.ask("a"))
    plans = dict(machine.state.plans) | {
        "b": m.Plan(Parameters("persistent", "persistent"), "v1", eager=True, cost=COST)
    }
    machine.do(m.Configured(plans, machine.limits))
    assert machine.phase("a") is Phase.HOT
    assert machine.state.models["b"].blocked
    machine.do(m.Unload("a"))
    assert machine.phase("b") is Phase.HOT, "as soon as there is room"


def test_an_adaptive_mode_learns_the_gaps_and_is_ready_before_the_next_ask():
    machine = Machine("a", policy="adaptive")
    for _ in range(30):
        machine.finish(machine.ask("a"))
        machine.until(machine.now + 1800.0)
    seen = [(action.after, action.reason) for action in machine.log if isinstance(action, m.Changed)]
    late = seen[len(seen) // 2 :]
    assert any(after == Phase.COLD for after, _ in late), "it is not kept for half an hour"
    loads = [reason for after, reason in late if after == Phase.LOADING]
    assert loads
    assert not any(reason == "asked" for reason in loads), f"it was loaded before it was asked: {loads}"


def test_who_is_expected_soon_stays_and_who_is_not_goes():
    """Both were asked as often; by the time since the last ask, the regular one would have to go."""
    machine = Machine("regular", "rare", "third", budget=220)
    for n in range(20):
        machine.until(1000.0 * n)
        machine.finish(machine.ask("regular"))
    machine.until(19800.0)
    machine.finish(machine.ask("rare"))
    machine.until(19950.0)
    machine.finish(machine.ask("third"))
    assert (machine.phase("regular"), machine.phase("rare")) == (Phase.HOT, Phase.COLD)


def test_a_standby_worker_is_kept_where_that_frees_enough_and_its_mode_has_them():
    cost = Cost({"RAM": 100}, {"RAM": 90}, {"RAM": 10})
    for policy, rests in (("dummy-swap", Phase.PARKED), ("timeout", Phase.COLD)):
        machine = Machine("a", "b", budget=120, policy=policy, costs={"a": cost, "b": cost})
        machine.finish(machine.ask("a"))
        machine.until(100)
        machine.finish(machine.ask("b"))
        assert (machine.phase("a"), machine.phase("b")) == (rests, Phase.HOT), policy


def test_who_waits_for_a_load_that_fails_hears_when_it_is_tried_again():
    for failing in (m.Failed("a", 1, "load-failed", "bad"), m.Gone("a", 1, "was killed")):
        machine = Machine("a")
        step(machine.state, m.Asked("x", "a"), 0.0)
        refusals = [x for x in step(machine.state, failing, 0.0) if isinstance(x, m.Refuse)]
        assert [(x.ask, x.retry_after) for x in refusals] == [("x", 10.0)]
