"""Request ids: the client's if it is harmless, else ours; on every answer, and in the journal."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket

import pytest

from neuroshell_orch.api import named
from neuroshell_orch.sd import journal
from tests.support_daemon import chat, wait_until


def call(manager, path="/v1/models", method="GET", body=None, **headers):
    connection = http.client.HTTPConnection("localhost", timeout=20)
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.sock.connect(str(manager.path))
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        response.read()
        return response.status, response.headers["X-Request-Id"]
    finally:
        connection.close()


def test_the_clients_own_id_comes_back_and_others_get_one_of_ours(manager):
    manager.start()
    assert call(manager, x_request_id="abc-1:2/3") == (200, "abc-1:2/3")
    ours = {call(manager)[1] for _ in range(3)}
    assert len(ours) == 3
    for bad in ("", "a b", "a" * 129, 'a"b', "\xe9"):
        status, name = call(manager, x_request_id=bad)
        assert (status, name.startswith(next(iter(ours)).split("-")[0])) == (200, True)


@pytest.mark.parametrize(("path", "status"), [("/nothing", 404), ("/v1/models/nope", 404), ("/v1/completions", 405)])
def test_errors_have_it_too(manager, path, status):
    manager.start()
    assert call(manager, path, x_request_id="mine") == (status, "mine")


def test_streams_have_it(manager):
    manager.model()
    manager.start()
    body = json.dumps(chat("a b", stream=True))
    assert call(manager, "/v1/chat/completions", "POST", body, x_request_id="mine") == (200, "mine")


def test_a_failure_is_in_the_journal_with_its_id(monkeypatch):
    """What becomes a field of the journal is tested where lines are written; here: that the layer hands it on."""
    said = []
    monkeypatch.setattr(named.journal, "log", lambda priority, text, **fields: said.append((priority, text, fields)))

    async def app(scope, receive, send):
        scope["endpoint"] = app
        await send({"type": "http.response.start", "status": 503, "headers": []})

    async def send(message):
        assert (b"x-request-id", b"mine") in message["headers"]

    scope = {"type": "http", "method": "GET", "path": "/v2", "headers": [(b"x-request-id", b"mine")]}
    asyncio.run(named.Named(app)(scope, None, send))
    ((priority, text, fields),) = said
    assert priority == journal.WARNING
    assert text.startswith("GET /v2: 503 after")
    assert fields == {"status": 503}


def test_whatever_is_said_for_a_request_has_its_id_as_a_field(monkeypatch):
    entries = []
    monkeypatch.setattr(journal._Output, "send", lambda *lines: entries.append(lines))

    async def app(scope, receive, send):
        journal.log(journal.NOTICE, "by the way")
        await asyncio.create_task(later())
        await send({"type": "http.response.start", "status": 500, "headers": []})

    async def later():
        journal.log(journal.NOTICE, "aside")

    async def send(message):
        pass

    scope = {"type": "http", "method": "GET", "path": "/orch/x", "headers": [(b"x-request-id", b"mine")]}
    asyncio.run(named.Named(app)(scope, None, send))
    journal.log(journal.NOTICE, "of nobody's")
    shown = [{line.split("=")[0]: line for line in lines} for lines in entries]
    assert [entry.get("NSORCH_REQUEST") for entry in shown] == [*["NSORCH_REQUEST=mine"] * 3, None]
    assert shown[2]["MESSAGE"].startswith("MESSAGE=GET /orch/…: 500 after")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat"])
def test_a_worker_that_dies_is_in_the_journal_with_the_id_of_the_request(manager, path, stream):
    manager.model(tokens=5, die_after=2)
    manager.start()
    body = {"model": "fake", "messages": chat("secretprompt")["messages"], "stream": stream}
    status, name = call(manager, path, "POST", json.dumps(body), x_request_id="mine")
    assert (status, name) == (200 if stream else 503, "mine")
    said = wait_until(lambda: [line for line in manager.log.read_text().splitlines() if line.endswith(" [mine]")])
    assert said[0].startswith("An answer ended in the middle: worker-died" if stream else f"POST {path}: 503 after")
    assert "secretprompt" not in manager.log.read_text()


def test_what_went_well_is_not_in_the_journal(manager):
    manager.start()
    call(manager, "/v1/models")
    assert "/v1/models" not in manager.log.read_text()


def test_at_debug_every_request_is_in_the_journal_without_what_the_client_made_up(manager):
    manager.settings(LogLevel="debug")
    manager.start()
    call(manager, "/v1/models")
    call(manager, "/v1/models/xyzzy")
    call(manager, "/xyzzy")
    wait_until(lambda: "(no such path): 404" in manager.log.read_text())
    log = manager.log.read_text()
    assert "GET /v1/models: 200" in log
    assert "GET /v1/models/{model}: 404" in log
    assert "xyzzy" not in log
