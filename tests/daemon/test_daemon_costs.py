"""A daemon that never saw a model reckons with what was measured at its preparation, and then with what it sees."""

from __future__ import annotations

import asyncio
import json
import os
import signal

import msgspec
import pytest

from neuroshell_orch.config.load import load
from neuroshell_orch.config.paths import cache_dir
from neuroshell_orch.errors import OrchError
from neuroshell_orch.planning import artefact_of, order_of
from neuroshell_orch.workers import prepared, readying
from tests.support_tiny import tiny_genai_folder

TIB = 1 << 40


@pytest.fixture
def tiny(manager):
    """A model of kilobytes, prepared; ``costs`` were measured of it."""
    manager.folder = tiny_genai_folder(manager.root / "tiny")
    manager.register("fake", manager.folder, keys={"Device": "cpu"})
    manager.settings(MemoryBudget="100G")
    found = load()
    manager.artefact = artefact_of(found.models["fake"])
    manager.made = asyncio.run(readying.ready(cache_dir(), order_of(found, "fake"), manager.artefact, tune=False))
    manager.costs = manager.made.costs[manager.artefact]
    return manager


def test_what_was_measured_in_advance_decides_while_its_files_are_the_same(tiny):
    told = msgspec.structs.replace(tiny.costs, hot=TIB)
    prepared.noted(cache_dir(), tiny.folder, tiny.made, tiny.artefact, told)
    tiny.start(real=True)
    with pytest.raises(OrchError) as refused:
        tiny.ask(max_tokens=2)
    assert refused.value.problem == "over-budget"
    assert "needs 1048576 MiB of RAM" in refused.value.message
    os.utime(tiny.folder / "model.onnx")
    tiny.post("/orch/reload")
    assert tiny.ask(max_tokens=2)
    assert tiny.status()["needs"] < TIB
    assert tiny.status()["needs_measured"]


def test_what_it_sees_itself_counts_from_then_on(tiny):
    assert tiny.costs.hot > 0
    assert tiny.start(real=True).ask(max_tokens=2)
    tiny.process.send_signal(signal.SIGTERM)
    assert tiny.process.wait(20) == 0
    (figures,) = json.loads((tiny.root / "state" / "nsorch" / "costs.json").read_text()).values()
    assert figures["hot"] > 0
    assert figures["hibernated"] == 0, "nobody has seen that, so it is not kept"
    assert figures["wake_cold"] >= 0.7 * tiny.costs.wake_cold, "an average that goes on"
