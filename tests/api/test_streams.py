"""Responses that last: a reader that does not read holds up nobody, loses nothing, and cannot take all memory."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys

import pytest

from tests.support_daemon import chat, wait_until

PROGRAM = """
import asyncio, sys
from neuroshell_orch.api.streams import Behind, Stream

async def pieces():
    for number in range(3):
        yield b"%d" % number

async def main():
    sent = []
    async def receive():
        await asyncio.sleep(3600)
    async def send(message):
        sent.append(message)
    await Stream(pieces(), "text/plain")({"type": "http"}, receive, send)
    assert b"".join(m.get("body", b"") for m in sent) == b"012", sent
    assert sent[-1]["more_body"] is False
    assert Behind.total == 0

asyncio.run(main())
print("anyio._backends._asyncio" in sys.modules)
"""


def open_stream(manager, word, **fields):
    """A chat that is asked for and not read."""
    connection = http.client.HTTPConnection("localhost", timeout=30)
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.sock.settimeout(30)
    connection.sock.connect(str(manager.path))
    connection.request("POST", "/v1/chat/completions", json.dumps(chat(word, stream=True, **fields)))
    return connection


def answered(manager):
    return wait_until(lambda: (s := manager.status())["running"] + s["waiting"] == 0 and s["phase"] == "HOT")


def test_it_sends_all_and_needs_no_event_loop_but_ours():
    done = subprocess.run([sys.executable, "-P", "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


def test_a_reader_that_waits_holds_up_nobody_and_gets_everything(manager):
    tokens = 3000
    manager.model(tokens=tokens)
    manager.start()
    word = "w" * 300
    slow = open_stream(manager, word, max_tokens=tokens)
    try:
        answered(manager)
        assert manager.ask("quick", max_tokens=1) == "quick "
        text = slow.getresponse().read().decode()
    finally:
        slow.close()
    assert text.count(word) == tokens
    assert text.endswith("data: [DONE]\n\n")


def test_a_reader_that_falls_too_far_behind_is_dropped(manager):
    manager.model(tokens=-1)
    manager.start()
    slow = open_stream(manager, "w" * 20_000)
    try:
        answered(manager)
        assert manager.ask("quick", max_tokens=1) == "quick "
        with pytest.raises(http.client.IncompleteRead):
            slow.getresponse().read()
    finally:
        slow.close()
    assert "took too little" in manager.log.read_text()
