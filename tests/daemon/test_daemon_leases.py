"""Memory on request: free, and leases that end with their holder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

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
