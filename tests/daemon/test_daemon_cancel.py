"""A client that leaves: its ask is forgotten while it waits, and a load that nobody waits for is ended."""

from __future__ import annotations

import json

from neuroshell_orch.client import connect
from tests.support_daemon import alive, chat, wait_until

SOON = 10.0
"""Far more than the 250 ms that are measured elsewhere, and far less than what is cancelled would take."""


def abandonable(manager, text, **fields):
    """An ask that is sent, and nothing more; closing it is leaving."""
    body = json.dumps(chat(text, **fields)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    client = connect(manager.path)
    client.sendall(head.encode() + body)
    return client


def test_a_load_that_nobody_waits_for_any_more_is_ended(manager):
    manager.model(load_seconds=60)
    manager.start()
    with abandonable(manager, "first") as first, abandonable(manager, "second") as second:
        loading = wait_until(lambda: (s := manager.status())["phase"] == "loading" and s["waiting"] == 2 and s)
        pid = wait_until(lambda: manager.status()["pid"])
        first.close()
        wait_until(lambda: manager.status()["waiting"] == 1, SOON)
        assert loading["phase"] == manager.phase(), "somebody still waits for it"
        second.close()
        wait_until(lambda: manager.phase() == "COLD", SOON)
    assert not alive(pid)


def test_an_ask_that_waits_is_forgotten_and_the_answer_before_it_goes_on(manager):
    manager.model(tokens=-1, delay=0.01)
    manager.start()
    events = manager.stream("endless")
    next(events)
    with abandonable(manager, "waiting") as client:
        wait_until(lambda: manager.status()["waiting"] == 1)
        client.close()
        wait_until(lambda: manager.status()["waiting"] == 0, SOON)
    assert manager.status()["running"] == 1
    next(events)
    events.close()
    wait_until(lambda: manager.status()["running"] == 0, SOON)


def test_an_ask_that_waits_for_memory_is_forgotten(manager):
    manager.settings(MemoryBudget="100M")
    manager.model("fake", tokens=-1, delay=0.01, eat_mb=60)
    manager.model("other")
    manager.start()
    events = manager.stream("endless", model="fake")
    next(events)
    with abandonable(manager, "waiting", model="other") as client:
        wait_until(lambda: manager.status("other")["waiting"] == 1)
        assert "waits for" in manager.get("/orch/models/other/why")["outlook"]
        client.close()
        wait_until(lambda: manager.status("other")["waiting"] == 0, SOON)
    assert manager.phase("fake") == "HOT", "nobody needs its memory any more"
    events.close()
