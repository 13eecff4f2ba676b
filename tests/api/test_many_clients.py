"""256 streaming clients at once: each has its own whole answer, or a refusal that says when to come again."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from tests.support_crowd import crowd
from tests.support_daemon import chat, wait_until

MANY = 256
BODIES = [chat(f"word{number} and more", max_tokens=6) for number in range(MANY)]


def gather(manager, bodies=BODIES, silent=0):
    return asyncio.run(crowd(manager.path, bodies, silent))


def whole(number, outcome):
    return outcome.done and outcome.text == f"word{number} and more word{number} and more "


def resident(manager):
    lines = Path(f"/proc/{manager.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) >> 10


def settled(manager):
    """Nothing is left of a crowd, and the next one is served."""
    wait_until(lambda: (s := manager.status())["running"] + s["waiting"] == 0)
    assert manager.ask("again", max_tokens=1) == "again "


@pytest.mark.parametrize("parallel", [1, 4])
def test_all_are_answered_where_there_is_room(manager, parallel):
    manager.settings(MaxQueue=str(MANY), MaxStreams=str(MANY))
    manager.model(keys={"Parallel": parallel}, tokens=6)
    manager.start()
    outcomes = gather(manager)
    assert [number for number, outcome in enumerate(outcomes) if not whole(number, outcome)] == []
    settled(manager)
    before = resident(manager)
    gather(manager)
    settled(manager)
    assert resident(manager) < before + 32


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"MaxStreams": "20"}, "too-many-streams"),
        ({"MaxStreams": "1000", "MaxQueue": "20"}, "queue-full"),
        ({"MaxStreams": "1000", "MaxQueue": "1000", "MaxConnections": "30"}, "too-many-connections"),
    ],
)
def test_the_others_are_told_when_to_come_again(manager, settings, problem):
    manager.settings(**settings)
    manager.model(tokens=6, delay=0.01)
    manager.start()
    outcomes = gather(manager)
    for number, outcome in enumerate(outcomes):
        if outcome.status == 200:
            assert whole(number, outcome)
        else:
            assert (outcome.status, outcome.problem) == (429, problem)
            assert 1 <= int(outcome.retry_after) <= 3600
    counts = Counter(outcome.status for outcome in outcomes)
    assert counts[200] >= 10
    assert counts[429] >= 10
    settled(manager)


def test_whoever_does_not_read_holds_up_nobody(manager):
    manager.settings(MaxQueue=str(2 * MANY), MaxStreams=str(2 * MANY))
    manager.model(keys={"Parallel": 4}, tokens=-1)
    manager.start()
    bodies = [chat("x" * 2000 + " y", max_tokens=300), *BODIES]  # more than the socket and its buffers hold
    outcomes = gather(manager, bodies, silent=32)
    assert all(outcome.done for outcome in outcomes)
    assert all(whole(number, outcome) for number, outcome in enumerate(outcomes[1:]))
    settled(manager)
