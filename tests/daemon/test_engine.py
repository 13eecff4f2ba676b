"""The engine's inbox on a real event loop: watchdog, asks that are withdrawn, waiting for facts."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar

import pytest

from neuroshell_orch.core import messages as m
from neuroshell_orch.core.lifecycle import IllegalTransition
from neuroshell_orch.core.modes import Parameters
from neuroshell_orch.engine import Engine
from neuroshell_orch.errors import OrchError

pytestmark = pytest.mark.anyio


class Stage:
    """An engine whose workers exist only as a list of what was asked of them."""

    def __init__(self):
        self.actions, self.changes, self.pongs, self.left = [], [], 0, []
        self.engine = Engine(self.actions.append, changed=self.changes.append, pong=self._pong, leave=self.left.append)

    def _pong(self):
        self.pongs += 1

    async def done(self, event):
        number = self.engine.post(event)
        await self.engine.until(lambda: self.engine.taken >= number)


@asynccontextmanager
async def stage(policy="timeout", **limits):
    it = Stage()
    task = asyncio.ensure_future(it.engine.run())
    try:
        await it.done(m.Configured({"a": m.Plan(Parameters(policy, policy))}, m.Limits(**limits)))
        yield it
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_ping_comes_back_only_through_the_inbox():
    async with stage() as it:
        it.engine.post(m.Ping())
        assert it.pongs == 0, "not answered by whoever posts"
        await it.done(m.Ping())
        assert it.pongs == 2


async def test_a_wedged_engine_answers_no_ping():
    it = Stage()
    it.engine.post(m.Ping())
    await asyncio.sleep(0)
    assert it.pongs == 0, "nothing turns, nothing answers"


async def test_an_ask_gets_its_turn_or_its_error():
    async with stage() as it:
        turn = asyncio.ensure_future(it.engine.ask("a"))
        await it.engine.until(lambda: bool(it.actions))
        await it.done(m.Loaded("a", 1))
        name, worker = await turn
        assert worker == 1
        it.engine.finished(name)
        with pytest.raises(OrchError, match="no model named b"):
            await it.engine.ask("b")


async def test_giving_up_waiting_withdraws_the_ask():
    async with stage() as it:
        turn = asyncio.ensure_future(it.engine.ask("a"))
        await it.engine.until(lambda: bool(it.actions))
        turn.cancel()
        await it.engine.until(lambda: not it.engine.state.asks)
        assert it.actions == [m.StartLoad("a", 1), m.Stop("a", 1)]


async def test_giving_up_in_the_instant_of_the_dispatch_still_ends_the_ask():
    async with stage() as it:
        turn = asyncio.ensure_future(it.engine.ask("a"))
        await it.engine.until(lambda: bool(it.actions))
        it.engine.post(m.Loaded("a", 1))
        turn.cancel()
        await it.engine.until(lambda: not it.engine.state.asks and it.engine.idle)
        assert it.engine.state.models["a"].running == set()


async def test_quiet_makes_it_leave():
    async with stage(idle_exit=0.02) as it:
        await it.engine.until(lambda: bool(it.left))
        assert it.left == ["idle"]


async def test_a_defect_surfaces():
    it = Stage()
    task = asyncio.ensure_future(it.engine.run())
    await it.done(m.Configured({"a": m.Plan(Parameters("timeout", "timeout"))}, m.Limits()))
    turn = asyncio.ensure_future(it.engine.ask("a"))
    await it.engine.until(lambda: bool(it.actions))
    it.engine.post(m.Woken("a", 1))
    with pytest.raises(IllegalTransition, match="woken cannot happen while loading"):
        await task
    turn.cancel()
    with suppress(asyncio.CancelledError):
        await turn


async def test_a_hot_model_takes_an_ask_without_a_turn_of_the_loop():
    async with stage() as it:
        first = asyncio.ensure_future(it.engine.ask("a"))
        await it.engine.until(lambda: bool(it.actions))
        await it.done(m.Loaded("a", 1))
        it.engine.finished((await first)[0])
        await it.done(m.Ping())
        turns = []
        asyncio.get_running_loop().call_soon(turns.append, "the loop turned")
        name, worker = await it.engine.ask("a")
        assert worker == 1
        assert not turns
        it.engine.finished(name)


async def test_a_defect_that_an_ask_comes_upon_ends_the_engine_as_well():
    it = Stage()
    task = asyncio.ensure_future(it.engine.run())
    await it.done(m.Configured({"a": m.Plan(Parameters("timeout", "timeout"))}, m.Limits()))
    await asyncio.sleep(0)  # the engine lies down
    it.engine._perform = None
    with pytest.raises(TypeError):
        await it.engine.ask("a")
    with pytest.raises(TypeError):
        await task


async def test_what_an_ask_sets_off_is_not_said_on_its_behalf():
    said = ContextVar("said", default="nothing")
    async with stage() as it:
        heard = []
        it.engine._perform = lambda _action: heard.append(said.get())
        said.set("something")
        turn = asyncio.ensure_future(it.engine.ask("a"))
        await it.engine.until(lambda: bool(heard))
        turn.cancel()
        assert heard == ["nothing"]
        await it.engine.until(lambda: not it.engine.state.asks)
