"""Leases: who goes, who waits, who runs on the processor, and what comes back."""

from __future__ import annotations

import pytest

from neuroshell_orch.core import leases
from neuroshell_orch.core import messages as m
from neuroshell_orch.core.budget import Cost
from neuroshell_orch.core.lifecycle import Phase
from neuroshell_orch.core.state import next_deadline
from tests.core.test_room import COST, Machine

GPU = Cost({"RAM": 10, "cuda:0": 100}, {"RAM": 10}, {"RAM": 10})


def machine(on_lease="queue"):
    return Machine("gpu", "ram", budget=1000, costs={"gpu": GPU, "ram": COST}, on_lease=on_lease)


def granted(m_):
    return [(action.lease, action.held) for action in m_.log if isinstance(action, m.Granted)]


@pytest.mark.parametrize(("memory", "goes"), [(False, ["gpu"]), (True, ["gpu", "ram"])])
def test_what_is_leased_is_freed_and_given_back(memory, goes):
    world = machine()
    world.finish(world.ask("gpu"), world.ask("ram"))
    world.do(m.Leased("l", "a game", memory))
    assert granted(world) == [("l", ())]
    assert [n for n in ("gpu", "ram") if world.phase(n) is Phase.COLD] == goes
    assert "is leased to a game" in world.state.models["gpu"].reason
    world.until(1500)  # longer than the mode would have kept it
    world.do(m.Released("l"))
    assert world.phase("gpu") is Phase.HOT


def test_an_answer_is_never_cut_and_the_lease_is_granted_late_with_its_holder_named():
    world = machine()
    ask = world.ask("gpu")
    world.do(m.Leased("l", "a game"))
    assert granted(world) == []
    assert next_deadline(world.state) == leases.GRANT_SECONDS
    world.until(leases.GRANT_SECONDS)
    assert granted(world) == [("l", ("gpu",))]
    world.finish(ask)
    assert world.phase("gpu") is Phase.COLD, "it goes as soon as the answer is done"


def test_queue_waits_refuse_refuses_and_cpu_loads_on_the_processor():
    for on_lease in ("queue", "refuse", "cpu"):
        world = machine(on_lease)
        world.do(m.Leased("l", "a game"))
        ask = world.ask("gpu")
        if on_lease == "queue":
            assert world.answered() == []
            world.do(m.Released("l"))
            assert world.answered() == [ask]
        elif on_lease == "refuse":
            assert world.refused()[ask].problem == "leased"
        else:
            assert m.StartLoad("gpu", 1, leases.ON_CPU) in world.log
            assert world.answered() == [ask]
            assert "cuda:0" not in world.state.models["gpu"].reserved
            world.do(m.Released("l"))
            world.finish(ask)
            assert m.StartLoad("gpu", 2) in world.log, "back on the accelerator"


def test_cpu_under_a_lease_of_the_memory_means_queue():
    world = machine("cpu")
    world.do(m.Leased("l", "a build", True))
    world.ask("gpu")
    assert world.answered() == []
    world.do(m.Released("l"))
    assert world.answered() == ["1"]


def test_the_last_of_two_leases_gives_back():
    world = machine()
    world.finish(world.ask("gpu"))
    world.do(m.Leased("l", "one"))
    world.do(m.Leased("k", "two"))
    world.do(m.Released("l"))
    assert world.phase("gpu") is Phase.COLD
    world.do(m.Released("k"))
    assert world.phase("gpu") is Phase.HOT
