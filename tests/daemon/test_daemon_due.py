"""A daemon that leaves while a model is expected later has itself started again in time, by its user's systemd."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from datetime import UTC, datetime

import pytest

from tests.daemon.test_daemon_adaptive import habit
from tests.support_daemon import wait_until
from tests.support_fake import ROOT, fake_model
from tests.support_manager import UnavailableError, user_manager


@pytest.fixture
def systemd(tmp_path, monkeypatch):
    folder = tmp_path / "manager"
    folder.mkdir()
    try:
        with user_manager(folder) as environment:
            for name, value in environment.items():
                monkeypatch.setenv(name, value)
            yield folder
    except UnavailableError as why:
        pytest.skip(f"no systemd user manager: {why}")


def systemctl(*arguments):
    return subprocess.run(["systemctl", "--user", *arguments], capture_output=True, text=True, check=False).stdout


def test_it_leaves_and_is_to_be_back_in_time(systemd):
    folder = systemd / "home"
    config = folder / ".config" / "nsorch"
    (config / "models.d").mkdir(parents=True)
    (config / "nsorch.conf").write_text("[Orchestrator]\nMode=adaptive\nIdleExitSec=300ms\nWorkerLauncher=systemd\n")
    path = fake_model(folder / "fake.json")
    (config / "models.d" / "fake.conf").write_text(f"[Model]\nPath={path}\nRuntime=genai\n")
    state = folder / ".local" / "state" / "nsorch"
    state.mkdir(parents=True)
    (state / "history.json").write_text(json.dumps({"fake": habit(3600.0, 100.0)}))
    log = systemd / "log"
    unit = systemd / "run" / "systemd" / "user" / "nsorch.service"
    unit.parent.mkdir(parents=True, exist_ok=True)
    unit.write_text(
        f"[Service]\nType=notify\nExecStart={sys.executable} -P -m neuroshell_orch.cli.main serve\n"
        f"StandardError=file:{log}\nEnvironment=PYTHONPATH={ROOT}\n"
    )
    assert subprocess.run(["systemctl", "--user", "start", "nsorch.service"], check=False).returncode == 0
    wait_until(lambda: "ActiveState=inactive" in systemctl("show", "nsorch.service", "--property=ActiveState"))
    text = log.read_text()
    assert "To be started again at" in text, text
    found = systemctl("show", "nsorch.timer", "--property=TimersCalendar")
    at = datetime.strptime(found.split("OnCalendar=")[1][:19], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC).timestamp()
    assert 2400.0 < at - time.time() < 3600.0
