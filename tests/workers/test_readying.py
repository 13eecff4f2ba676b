"""Making a model ready before anybody asks: what it costs is measured with its copy, kept beside it, found again."""

from __future__ import annotations

import functools

import pytest

from neuroshell_orch.core.figures import Figures
from neuroshell_orch.errors import OrchError
from neuroshell_orch.workers import benching, copies, prepared, preparing, readying
from tests.workers.support_prepared import cut_off, make_copy, order, private

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_copy(tmp_path_factory.mktemp("made"))


@pytest.fixture
def world(made, tmp_path):
    return private(made, tmp_path)


async def test_a_model_is_measured_with_its_copy_once(world, monkeypatch):
    source, cache, _ = world
    monkeypatch.setattr(benching, "costs", functools.partial(benching.costs, seconds=60))
    manifest = await readying.ready(cache, order(source, threads=1), "a", tune=False)
    costs = manifest.costs["a"]
    assert costs.hot > 0
    assert costs.parked > 0
    assert costs.wake_parked > 0
    assert costs.wake_cold > 0
    assert copies.find(cache, source)[1] == manifest
    assert preparing.recorded(cache, order(source), "a") == costs
    assert preparing.recorder(cache, {"m": order(source, "use")}.__getitem__)("m", "a") == costs

    async def measured_again(_load):
        raise AssertionError("it was measured already")

    monkeypatch.setattr(benching, "costs", measured_again)
    assert await readying.ready(cache, order(source), "a", tune=False) == manifest


async def test_what_there_is_no_time_for_is_left_out(made):
    path = made[2]
    costs = await benching.costs(order(path).load, seconds=0)
    assert costs.hot > 0
    assert costs.wake_parked > 0
    assert (costs.wake_cold, costs.wake_hibernated, costs.hibernated) == (0, 0, 0)


async def test_figures_hold_for_what_a_load_would_take_and_for_nothing_else(world, tmp_path, monkeypatch):
    source, cache, folder = world
    prepared.noted(cache, source, copies.find(cache, source)[1], "a", Figures(hot=1))
    assert preparing.recorded(cache, order(source), "a") == Figures(hot=1)
    assert preparing.recorded(cache, order(source), "with other settings") is None
    assert preparing.recorded(cache, order(source, "never"), "a") is None, "the copy is not loaded"
    assert preparing.recorded(tmp_path / "elsewhere", order(source), "a") is None
    assert preparing.recorded(cache, order(source.with_name("m.gone")), "a") is None
    with monkeypatch.context() as changed:
        changed.setattr(copies, "machine_key", lambda: "another processor")
        assert preparing.recorded(cache, order(source), "a") is None
    cut_off(folder)
    assert preparing.recorded(cache, order(source), "a") is None, "a damaged copy is not loaded"


def test_a_copy_remembers_the_last_few_settings(world):
    source, cache, _ = world
    for number in range(prepared.KEPT + 3):
        prepared.noted(cache, source, copies.find(cache, source)[1], f"a{number}", Figures(hot=number))
    known = copies.find(cache, source)[1].costs
    assert list(known) == [f"a{number}" for number in range(3, prepared.KEPT + 3)]


async def test_a_model_that_cannot_be_measured_keeps_its_copy(world, monkeypatch):
    source, cache, _ = world

    async def failing(_load):
        raise OrchError("load-failed", "it cannot be loaded")

    monkeypatch.setattr(benching, "costs", failing)
    manifest = await readying.ready(cache, order(source), "a", tune=False)
    assert manifest.costs == {}
    assert copies.find(cache, source) is not None


@pytest.mark.parametrize(
    ("prepare", "gain", "wanted"), [("make", False, True), ("use", True, True), ("use", False, False)]
)
def test_what_comes_in_gets_what_it_is_to_have(tmp_path, monkeypatch, prepare, gain, wanted):
    monkeypatch.setattr(preparing, "gains", lambda _load: gain)
    assert preparing.wants(order(tmp_path / "m.onnx", prepare)) == wanted


async def test_whatever_is_made_ready_has_its_threads_found_and_a_failure_is_told(tmp_path, monkeypatch):
    told = []

    async def make(_cache, source, *, tune, again):
        told.append((source.name, tune, again))
        raise OrchError("load-failed", "seen")

    monkeypatch.setattr(prepared, "make", make)
    with pytest.raises(OrchError, match="seen"):
        await readying.ready(tmp_path, order(tmp_path / "m.onnx"), "a")
    assert told == [("m.onnx", True, False)]
