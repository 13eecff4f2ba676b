"""Memory on request: free, and leases that end with their holder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import closing

import pytest

from neuroshell_orch.errors import OrchError
from tests.support_daemon import wait_until
from tests.support_fake import ROOT


def nsorch(manager, *arguments):
    environment = os.environ | {"NSORCH_SOCKET": str(manager.path), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "neuroshell_orch.cli.main", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture
def warm(manager):
    manager.model(eat_mb=20)
    manager.start()
    manager.ask()
    return manager


def test_free_says_what_came_back(warm):
    (found,) = warm.post("/orch/free", {})
    assert (found["before"], found["after"]) == ("HOT", "COLD")
    assert found["freed"]["before"] > 20 << 20
    assert (found["freed"]["after"], found["freed"]["lost"]) == (0, "")
    assert warm.status()["freed"] == found["freed"]
    warm.ask()
    assert warm.post("/orch/free", {"model": "fake", "to": "parked"})[0]["after"] == "PARKED"


def test_an_empty_name_is_not_all_models(warm):
    with pytest.raises(OrchError, match="name is empty"):
        warm.post("/orch/free", {"model": ""})
    assert warm.phase("fake") == "HOT"


def test_a_worker_that_keeps_its_memory_is_told(warm):
    (found,) = warm.post("/orch/free", {"to": "hibernated"})  # the fake says that it gave back, and does not
    assert found["after"] == "HIBERNATED"
    assert "still counts" in found["freed"]["lost"]
    assert any("memory lost" in warning for warning in warm.get("/orch/status")["warnings"])
    assert "not all came back" in warm.log.read_text()


def test_a_lease_frees_holds_and_gives_back(warm):
    script = "sleep 0.1; (sleep 1; echo late) & exit 3"
    process = nsorch(warm, "lease", "--memory", "--name", "game", "--", "sh", "-c", script)
    found = wait_until(lambda: [x for x in warm.get("/orch/leases") if x["granted"]])
    assert (found[0]["name"], found[0]["resources"]) == ("game", ["RAM"])
    assert (found[0]["pid"], found[0]["uid"]) == (process.pid, os.getuid())
    assert warm.phase() == "COLD"
    output, _ = process.communicate(timeout=20)
    assert "late" in output, "a child that outlives its parent counts"
    assert process.returncode == 3
    warm.wait_phase("HOT")
    assert warm.get("/orch/leases") == []


def test_a_lease_whose_holder_is_killed_ends(warm):
    process = nsorch(warm, "lease", "--memory", "--", "sleep", "2")
    wait_until(lambda: [x for x in warm.get("/orch/leases") if x["granted"]])
    process.send_signal(signal.SIGKILL)
    wait_until(lambda: not warm.get("/orch/leases"))
    warm.wait_phase("HOT")
    process.communicate(timeout=20)


def test_when_the_service_ends_during_a_lease_that_is_said_and_it_is_taken_again(manager, tmp_path):
    manager.model(eat_mb=20)
    manager.activate()
    manager.ask()
    end = tmp_path / "end"
    process = nsorch(manager, "lease", "--memory", "--", "sh", "-c", f"while ! [ -e {end} ]; do sleep 0.05; done")
    try:
        wait_until(lambda: [x for x in manager.get("/orch/leases") if x["granted"]])
        manager.process.kill()
        manager.process.wait()
        wait_until(lambda: manager.starts == 2 and [x for x in manager.get("/orch/leases") if x["granted"]])
        assert manager.phase() == "COLD"
    finally:
        end.touch()
        output, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "The service has ended, and the lease with it; it is taken again." in output
    wait_until(lambda: not manager.get("/orch/leases"))


def test_asks_meanwhile_run_on_the_processor_where_that_is_wanted(manager, card, tmp_path):
    told = tmp_path / "told"
    manager.settings(MemoryBudget="infinity", OnLease="cpu")
    path = manager.model("a", can_hibernate=False, tell=str(told))
    with path.with_name(f"{path.name}.data").open("wb") as file:
        file.truncate(4 << 30)
    manager.settings(MemoryBudget="infinity", OnLease="cpu", DefaultModel="a")
    manager.start()
    manager.ask(model="a")
    wait_until(lambda: manager.status("a")["needs_vram"])
    with closing(manager.client().events("/orch/leases", {"name": "game"})) as holding:
        assert next(holding) == {"held": []}
        assert manager.phase("a") == "COLD"
        card(0)  # the processor's worker holds none of the card
        assert manager.ask("meanwhile", model="a") == "meanwhile "
        (lease,) = manager.get("/orch/leases")
        assert lease["granted"]
        assert lease["resources"] == ["cuda:0"]
    manager.ask(model="a")
    devices = [json.loads(line)["device"] for line in told.read_text().splitlines()]
    assert devices[:2] == ["auto", "cpu"]
