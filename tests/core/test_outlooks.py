"""The sentences of ``nsorch why``: what a model waits for, when it rests, who could end it."""

from __future__ import annotations

import pytest

from neuroshell_orch.core import messages as m
from neuroshell_orch.core.budget import Cost
from neuroshell_orch.core.lifecycle import Phase
from neuroshell_orch.core.modes import Parameters
from neuroshell_orch.core.step import step
from neuroshell_orch.outlooks import what_next
from tests.core.test_room import Machine

MIB = 1 << 20
COST = Cost({"RAM": 100 * MIB}, {"RAM": 30 * MIB}, {"RAM": 10 * MIB})


def machine(*names, **options):
    return Machine(*names, budget=120 * MIB, costs=dict.fromkeys(names, COST), **options)


def said(world, name="a", after=0.0):
    return what_next(world.state, world.state.models[name], world.now + after)


def test_idle():
    world = machine("a")
    world.finish(world.ask("a"))
    assert said(world, after=3) == (
        "asked 3 s ago; COLD in 17 min if nobody asks; another model that needs its memory would unload it at once"
    )


def test_in_use():
    world = machine("a")
    world.ask("a")
    world.ask("a")
    assert said(world) == "in use: 1 running, 1 waiting"


def test_cold():
    world = machine("a")
    world.finish(world.ask("a"))
    world.do(m.Unload("a"))
    assert said(world) == "the next ask loads it"


def test_pinned():
    world = machine("a", policy="persistent")
    world.finish(world.ask("a"))
    assert said(world) == (
        "asked 0 s ago; stays until something happens (mode persistent); pinned: no other model takes its place"
    )


def test_blocked_by_a_model_that_writes():
    world = machine("a", "b")
    world.ask("b")
    world.until(2)
    world.ask("a")
    assert said(world, after=4) == "waits for 80 MiB of RAM: b writes an answer; they swap in 6 s at the latest"
    assert said(world, after=11) == "waits for 80 MiB of RAM: b writes an answer; they swap after that"


def test_blocked_by_a_model_that_is_on_its_way():
    world = machine("a", "b")
    step(world.state, m.Asked("x", "b"), 0.0)  # its load is not reported
    world.ask("a")
    assert world.state.models["b"].phase is Phase.LOADING
    assert said(world).startswith("waits for 80 MiB of RAM: b is loading; they swap in")


@pytest.mark.parametrize(("memory", "what"), [(True, "memory"), (False, "accelerator")])
def test_leased(memory, what):
    world = machine("a")
    if not memory:
        cost = Cost({"RAM": MIB, "cuda:0": 100 * MIB})
        world.do(m.Configured({"a": m.Plan(Parameters("timeout", "timeout"), "v1", cost=cost)}, world.limits))
    world.finish(world.ask("a"))
    world.do(m.Leased("l", "a game", memory))
    limit = f"the {what} is leased to a game, so it may be COLD at most until that ends"
    assert said(world) == limit
    world.ask("a")
    assert said(world) == f"{limit}; 1 ask waits"
    world.do(m.Released("l"))
    assert "leased" not in said(world)


def test_failed():
    world = machine("a")
    step(world.state, m.Asked("x", "a"), 0.0)
    step(world.state, m.Failed("a", 1, "model-invalid", "bad file"), 0.0)
    step(world.state, m.Gone("a", 1, "stopped"), 0.0)
    assert said(world, after=3) == "its load failed; it is tried again in 7 s, or when its file changes"
    assert said(world, after=20) == "the next ask loads it"


def test_a_worker_that_died_is_no_failed_load():
    world = machine("a")
    world.finish(world.ask("a"))
    step(world.state, m.Gone("a", 1, "was killed"), 1.0)
    assert said(world, after=2) == "the next ask loads it"
