"""What is known of when a model is asked outlives the daemon: it is ready before its first ask, and nothing is lost."""

from __future__ import annotations

import json
import random
import stat
import time

import pytest

from neuroshell_orch.core.history import Gaps
from tests.support_daemon import wait_until


def habit(period, ago, count=40):
    """A record of asks about every ``period`` seconds, the last one ``ago`` seconds ago."""
    source, gaps = random.Random(5), Gaps()
    last = time.time() - ago
    for n in range(count, 0, -1):
        gaps.observe(last - n * period + source.uniform(-0.01, 0.01) * period)
    gaps.observe(last)
    return {name: getattr(gaps, name) for name in ("last", "count", "beyond", "recent")} | {
        "bins": {index: [b.weight, b.low, b.high] for index, b in gaps.bins.items()}
    }


@pytest.fixture
def adaptive(manager):
    manager.settings(Mode="adaptive", IdleExitSec="300ms")
    manager.model()
    return manager


def file_of(manager):
    return manager.root / "state" / "nsorch" / "history.json"


def remember(manager, **records):
    file_of(manager).parent.mkdir(parents=True, exist_ok=True)
    file_of(manager).write_text(json.dumps(records))


def stop(manager):
    manager.process.terminate()
    assert manager.process.wait(10) == 0


def test_it_is_loaded_before_anybody_asks(adaptive):
    remember(adaptive, fake=habit(3600.0, 3575.0))
    adaptive.start()
    adaptive.wait_phase("HOT")
    why = adaptive.get("/orch/models/fake/why")
    assert "asks come every" in why["transitions"][0]["reason"]
    assert adaptive.ask("there") == "there "
    assert "loading → HOT" in adaptive.log.read_text().split("Stopping")[0]


def test_what_is_due_soon_keeps_the_daemon_beyond_its_idle_exit(adaptive):
    remember(adaptive, fake=habit(3600.0, 3518.0))  # the histogram expects none before 58.7 minutes
    adaptive.start()
    began = time.monotonic()
    wait_until(lambda: "COLD → loading" in adaptive.log.read_text(), 30.0)
    assert time.monotonic() - began > 0.3, "it was past its idle exit by then"
    assert adaptive.process.poll() is None


def test_what_is_due_much_later_does_not(adaptive):
    remember(adaptive, fake=habit(3600.0, 60.0))
    adaptive.start()
    assert adaptive.process.wait(20) == 0


def test_asks_are_remembered_across_restarts(adaptive):
    adaptive.settings(Mode="adaptive")
    adaptive.start()
    for _ in range(5):
        adaptive.ask("a secret prompt")
    stop(adaptive)
    text = file_of(adaptive).read_text()
    assert json.loads(text)["fake"]["count"] == 4
    assert "secret" not in text
    assert stat.S_IMODE(file_of(adaptive).stat().st_mode) == 0o600
    adaptive.start()
    wait_until(lambda: "has a chance of" in str(adaptive.get("/orch/models/fake/why")))
    adaptive.ask()
    stop(adaptive)
    assert json.loads(file_of(adaptive).read_text())["fake"]["count"] == 5


def test_another_mode_remembers_as_well_for_the_day_when_it_is_needed(manager):
    manager.model()
    manager.start()
    manager.ask()
    manager.ask()
    stop(manager)
    assert json.loads(file_of(manager).read_text())["fake"]["count"] == 1


def test_a_damaged_file_is_set_aside_with_a_warning_and_learnt_anew(adaptive):
    adaptive.settings(Mode="adaptive")
    file_of(adaptive).parent.mkdir(parents=True)
    file_of(adaptive).write_text('{"fake": {"last": 1')
    adaptive.start()
    adaptive.ask()
    wait_until(lambda: "history.json.damaged" in adaptive.log.read_text())
    assert file_of(adaptive).with_name("history.json.damaged").read_text() == '{"fake": {"last": 1'
    stop(adaptive)
    assert json.loads(file_of(adaptive).read_text())["fake"]["count"] == 0
