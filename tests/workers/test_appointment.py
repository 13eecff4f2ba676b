"""A service that ended is started again when something is due: against a real user manager."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from neuroshell_orch.workers.appointment import appoint, when
from neuroshell_orch.workers.manager import Manager
from neuroshell_orch.workers.spawn import ChildLauncher
from tests.workers.conftest import until

pytestmark = pytest.mark.anyio

NAME = "nsorch-probe.service"


@pytest.fixture
def service(manager, tmp_path):
    """A service that leaves a mark; returns the mark's path."""
    mark = tmp_path / "mark"
    unit = Path(manager["XDG_RUNTIME_DIR"]) / "systemd" / "user" / NAME
    unit.parent.mkdir(parents=True, exist_ok=True)
    unit.write_text(f"[Service]\nType=oneshot\nExecStart=/bin/touch {mark}\n")
    yield mark
    unit.unlink()


@pytest.fixture
async def bus(service):
    bus = await Manager.connect()
    yield bus
    bus.close()


def show(*properties):
    command = ["systemctl", "--user", "show", "nsorch-probe.timer", *(f"--property={name}" for name in properties)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


async def test_the_service_is_started_and_the_timer_is_gone(bus, service):
    assert await appoint(bus, NAME, time.time() + 1.0)
    await until(service.exists)
    await until(lambda: "LoadState=not-found" in show("LoadState"))


async def test_a_later_appointment_replaces_the_one_before(bus, service):
    assert await appoint(bus, NAME, time.time() + 7200.0)
    later = time.time() + 3600.0
    assert await appoint(bus, NAME, later)
    assert when(later).removesuffix(" UTC") in show("TimersCalendar")
    assert await appoint(bus, NAME, time.time() - 5.0), "what is overdue is done soon"
    await until(service.exists)


async def test_a_timer_of_the_users_own_is_left_alone(bus, service, manager):
    own = Path(manager["XDG_RUNTIME_DIR"]) / "systemd" / "user" / "nsorch-probe.timer"
    own.write_text("[Timer]\nOnCalendar=2099-01-01\n")
    try:
        subprocess.run(["systemctl", "--user", "daemon-reload"], check=True)
        assert not await appoint(bus, NAME, time.time() + 1.0)
        assert "2099" in show("TimersCalendar") + own.read_text()
    finally:
        own.unlink()
        subprocess.run(["systemctl", "--user", "daemon-reload"], check=True)


async def test_where_nobody_could_start_it_there_is_no_appointment():
    assert not await ChildLauncher().appoint(time.time())
