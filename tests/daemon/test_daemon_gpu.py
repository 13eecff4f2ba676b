"""Accelerator memory in the budget, with a fake card and a fake driver."""

from __future__ import annotations

import json

import pytest

from neuroshell_orch.errors import OrchError
from tests.support_daemon import wait_until
from tests.support_fake import ROOT

GIB = 1 << 30


@pytest.fixture
def card(manager):
    """An 8 GiB card; each worker holds of it what the returned function is given."""
    device = manager.root / "sys/bus/pci/devices/0000:01:00.0"
    (device / "power").mkdir(parents=True)
    (device / "vendor").write_text("0x10de\n")
    (device / "class").write_text("0x030000\n")
    (device / "power/runtime_status").write_text("active\n")
    says = manager.root / "gpus.json"

    def holds(each):
        says.write_text(json.dumps({"gpus": [{"total": 8 * GIB, "used": 0, "each": each}]}))

    holds(5 * GIB)
    doubles = ROOT / "tests" / "doubles"
    manager.environment = {
        "NSORCH_SYSFS": str(manager.root / "sys"),
        "NSORCH_FAKE_GPUS": str(says),
        "PYTHONPATH": f"{doubles}:{ROOT}",
    }
    return holds


def big(manager, name, size, **keys):
    path = manager.model(name, keys=keys, can_hibernate=False)
    with path.with_name(f"{path.name}.data").open("wb") as file:
        file.truncate(size)  # takes no disk, but counts as weights
    return path


def measured(manager, name, size):
    """The estimate stands until the driver was asked, which is not waited for by the first answer."""
    wait_until(lambda: manager.status(name)["needs_vram"] == size)


def test_two_models_that_the_card_cannot_hold_take_turns(manager, card):
    manager.settings(MemoryBudget="infinity", MaxSwapDelay="0")
    big(manager, "a", 4 * GIB)
    big(manager, "b", 4 * GIB)
    big(manager, "c", 4 * GIB, Device="cpu")
    manager.start()
    manager.ask(model="a")
    measured(manager, "a", 5 * GIB)
    manager.ask(model="b")
    assert (manager.phase("a"), manager.phase("b")) == ("COLD", "HOT")
    card(0)
    manager.ask(model="c")
    assert manager.status("c")["needs_vram"] == 0
    assert manager.phase("b") == "HOT", "it runs on the processor and is nobody's rival"


def test_what_can_never_fit_the_card_says_so(manager, card):
    manager.settings(MemoryBudget="infinity", VRAMReserve="1G", VRAMBudget="50%")
    big(manager, "a", 6 * GIB)
    manager.start()
    manager.get("/orch/status")

    def refused():
        try:
            manager.ask(model="a")
        except OrchError as error:
            return error
        manager.post("/orch/models/a/unload")
        return None

    error = wait_until(refused)
    assert error.problem == "over-budget"
    assert "cuda:0" in error.message
    assert "4096 MiB" in error.message
