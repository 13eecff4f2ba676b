"""What happens, as it happens, and what would change it."""

from __future__ import annotations

import asyncio
import json

from neuroshell_orch.api.schema import Happened
from neuroshell_orch.client import connect
from neuroshell_orch.listeners import HELD, Listeners


def test_events_are_heard_and_listening_keeps_nobody_awake(manager):
    manager.settings(Mode="dynamic", IdleExitSec="300ms")
    manager.model()
    manager.start()
    with connect(manager.path) as listening:
        listening.settimeout(20)
        listening.sendall(b"GET /orch/events HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        text = b""
        while b": open" not in text:
            text += listening.recv(4096)
        manager.ask()
        while chunk := listening.recv(4096):
            text += chunk
    lines = [line[6:] for line in text.splitlines() if line.startswith(b"data: {")]
    heard = [(e["kind"], e["before"], e["after"]) for e in map(json.loads, lines)]
    assert heard[0] == ("transition", "COLD", "loading")
    assert heard[-1][0] == "exit"
    assert manager.process.wait(10) == 0


def test_a_slow_listener_is_told_and_dropped():
    async def story():
        listeners = Listeners(lambda: None)
        heard = listeners.listen()
        first = asyncio.ensure_future(anext(heard))
        await asyncio.sleep(0)
        for _ in range(HELD + 5):
            listeners.tell(Happened("transition", 0.0))
        await first
        kinds = [event.kind async for event in heard]
        return kinds, listeners.count

    kinds, count = asyncio.run(story())
    assert kinds == ["transition"] * (HELD - 1) + ["dropped"]
    assert count == 0


def test_why_tells_of_all_models(manager):
    manager.model()
    manager.start()
    manager.ask()
    (why,) = manager.get("/orch/why")
    assert "asked 0 s ago" in why["outlook"]
    assert "would unload it at once" in why["outlook"]
