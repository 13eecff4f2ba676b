"""Accelerator memory in the budget, with a fake card and a fake driver."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from neuroshell_orch.errors import OrchError
from tests.support_daemon import alive, wait_until

GIB = 1 << 30


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


def test_an_unload_is_over_when_the_driver_says_so(manager, card):
    manager.settings(MemoryBudget="infinity")
    big(manager, "a", 4 * GIB)
    manager.start()
    manager.ask(model="a")
    measured(manager, "a", 5 * GIB)
    card.keeps(manager.status("a")["pid"], 5 * GIB)
    with ThreadPoolExecutor(1) as pool:
        freeing = pool.submit(manager.post, "/orch/free", {"model": "a"})
        stopping = manager.wait_phase("stopping", "a")
        wait_until(lambda: not alive(stopping["pid"] or 0) or manager.status("a")["pid"] is None)
        assert manager.phase("a") == "stopping", "its process is gone, and the card's memory is not back"
        card(0)
        (found,) = freeing.result(20)
    assert (found["after"], found["freed"]["lost"]) == ("COLD", "")
    assert (found["freed"]["vram_before"], found["freed"]["vram_after"]) == (5 * GIB, 0)
    assert "and 5120 of 5120 MiB of accelerators in" in manager.log.read_text()


def test_what_the_driver_never_lets_go_is_lost_and_said(manager, card):
    manager.settings(MemoryBudget="infinity")
    big(manager, "a", 4 * GIB)
    manager.start()
    manager.ask(model="a")
    measured(manager, "a", 5 * GIB)
    card.keeps(manager.status("a")["pid"], 2 * GIB)
    (found,) = manager.post("/orch/free", {"model": "a"})
    assert found["after"] == "COLD"
    assert found["freed"]["vram_after"] == 2 * GIB
    assert "the driver still counts 2048 MiB of cuda:0" in found["freed"]["lost"]
    assert "the driver still counts" in manager.log.read_text()
    assert manager.ask(model="a") == "one two three ", "it stays usable"
