"""Tokens: made once, stored as hashes, for some models or all, until some time; and who else is kept out."""

from __future__ import annotations

import http.client
import json
import os
import threading

import pytest

from neuroshell_orch.api import tokens
from neuroshell_orch.api.access import OPEN
from neuroshell_orch.api.app import routes
from neuroshell_orch.errors import OrchError
from tests.api.support_oip import TwoSockets
from tests.support_daemon import chat, wait_until
from tests.support_fake import fake_environment

PAGE = "https://app.example"


@pytest.fixture
def both(xdg):
    manager = TwoSockets(xdg)
    manager.environment = fake_environment() | {"NSORCH_RUNTIMES": "genai=tests.workers.fake_runtime"}
    manager.settings(AllowOrigins=f"{PAGE} http://localhost:3000")
    manager.model()
    manager.model("other")
    manager.activate()
    yield manager
    manager.end()
    assert "Traceback" not in manager.log.read_text()


def call(both, method="GET", path="/v1/models", token=None, body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", both.port, timeout=20)
    names = {name.replace("_", "-").title(): value for name, value in headers.items()}
    if token is not None:
        names.setdefault("Authorization", f"Bearer {token}")
    try:
        connection.request(method, path, None if body is None else json.dumps(body), names)
        response = connection.getresponse()
        return response.status, response.headers, response.read().decode()
    finally:
        connection.close()


# ---- the store ----


def test_only_hashes_are_stored_and_only_for_the_owner(xdg):
    secret = tokens.create("one", None, None)
    assert len(secret) > 40
    assert tokens.path().stat().st_mode & 0o777 == 0o600
    for file in tokens.path().parent.iterdir():
        assert secret not in file.read_text()
    (token,) = tokens.read()
    assert (token.name, token.models, token.expires) == ("one", None, None)


def test_a_name_is_taken_once_and_revoked_once(xdg):
    tokens.create("one", ["a"], 60)
    with pytest.raises(OrchError, match="already"):
        tokens.create("one", None, None)
    assert tokens.read()[0].models == ["a"]
    tokens.revoke("one")
    assert tokens.read() == []
    with pytest.raises(OrchError, match="no token 'one'"):
        tokens.revoke("one")


@pytest.mark.parametrize(("name", "models"), [("", None), ("A b", None), ("../x", None), ("x", [""]), ("x", ["a/b"])])
def test_what_cannot_be_a_name_is_refused(xdg, name, models):
    with pytest.raises(OrchError, match="cannot be a name"):
        tokens.create(name, models, None)
    assert tokens.read() == []


def test_many_at_once_lose_none(xdg):
    threads = [threading.Thread(target=tokens.create, args=(f"t{n}", None, None)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(token.name for token in tokens.read()) == sorted(f"t{n}" for n in range(16))


def test_the_daemons_view_follows_the_file_and_a_damaged_one_lets_nobody_in(xdg):
    store = tokens.Tokens()
    assert not store.any
    secret = tokens.create("one", None, None)
    assert store.find(secret).name == "one"
    assert store.find(secret + "x") is None
    assert store.find("") is None
    tokens.path().write_text('{"tokens": [')
    for _ in range(2):
        with pytest.raises(OrchError, match="damaged"):
            store.find(secret)
    tokens.path().unlink()
    assert store.find(secret) is None


def test_a_file_that_cannot_be_written_is_a_sentence(xdg, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/none")
    with pytest.raises(OrchError, match="cannot be written"):
        tokens.create("one", None, None)


# ---- who is let in ----


def test_a_program_needs_a_token_that_lasts(both):
    status, headers, body = call(both)
    assert (status, headers["WWW-Authenticate"]) == (401, 'Bearer realm="nsorch"')
    assert json.loads(body)["error"]["type"] == "authentication_error"
    assert "nsorch token create" in body
    secret = tokens.create("one", None, None)
    assert call(both, token=secret)[0] == 200
    for wrong in (f"Bearer {secret}x", f"Basic {secret}", "Bearer", "Bearer \xe9"):
        status, headers, _ = call(both, authorization=wrong)
        assert (status, headers["WWW-Authenticate"]) == (401, 'Bearer realm="nsorch", error="invalid_token"')
    tokens.revoke("one")
    assert call(both, token=secret)[0] == 401
    old = tokens.create("old", None, 1e-6)
    status, _, body = call(both, token=old)
    assert status == 401
    assert "has expired" in body


def test_the_last_use_is_noted_beside(both):
    secret = tokens.create("one", None, None)
    before = tokens.path().read_bytes()
    assert tokens.last_used() == {}
    call(both, token=secret)
    wait_until(tokens.last_used)
    assert set(tokens.last_used()) == {tokens.read()[0].hash}
    assert tokens.used_path().stat().st_mode & 0o777 == 0o600
    assert tokens.path().read_bytes() == before


def test_the_unix_socket_needs_no_token(both):
    assert len(both.get("/orch/status")["models"]) == 2
    assert not tokens.path().exists()


@pytest.mark.parametrize("host", ["evil.example:1", "127.0.0.1.evil.example", "", "[::2]:80"])
def test_rebound_names_are_kept_out_even_with_the_token(both, host):
    secret = tokens.create("one", None, None)
    assert call(both, token=secret, host=host)[0] == 403
    assert call(both, token=secret, host=f"localhost:{both.port}")[0] == 200


def test_web_pages_are_kept_out_but_those_that_are_named(both):
    secret = tokens.create("one", None, None)
    preflight = {"access_control_request_method": "POST", "access_control_request_headers": "authorization"}
    for origin in ("https://evil.example", "null", f"{PAGE}.evil.example", "http://app.example"):
        status, headers, _ = call(both, token=secret, origin=origin)
        assert (status, headers["Access-Control-Allow-Origin"]) == (403, None)
        assert call(both, "OPTIONS", origin=origin, **preflight)[0] == 403
    status, headers, _ = call(both, token=secret, origin=PAGE)
    assert (status, headers["Access-Control-Allow-Origin"], headers["Vary"]) == (200, PAGE, "Origin")
    status, headers, _ = call(both, origin=PAGE)
    assert (status, headers["Access-Control-Allow-Origin"]) == (401, PAGE), "the page may read why"
    status, headers, _ = call(both, "OPTIONS", origin=PAGE, **preflight)
    assert (status, headers["Access-Control-Allow-Headers"]) == (204, "authorization")
    assert "POST" in headers["Access-Control-Allow-Methods"]


# ---- tokens for some models ----


def test_a_token_for_some_models_sees_and_asks_these(both):
    secret = tokens.create("one", ["other"], None)
    assert [m["id"] for m in json.loads(call(both, token=secret)[2])["data"]] == ["other"]
    assert [m["name"] for m in json.loads(call(both, path="/api/tags", token=secret)[2])["models"]] == ["other:latest"]
    assert [m["name"] for m in json.loads(call(both, path="/orch/models", token=secret)[2])] == ["other"]
    rows = json.loads(call(both, "POST", "/v2/repository/index", secret, {})[2])
    assert [row["name"] for row in rows] == ["other"]
    status, _, body = call(both, "POST", "/v1/chat/completions", secret, chat("hi", model="other"))
    assert (status, json.loads(body)["choices"][0]["message"]["content"]) == (200, "hi ")
    ours = {"model": "other", "prompt": "hi", "stream": False}
    assert json.loads(call(both, "POST", "/api/generate", secret, ours)[2])["response"] == "hi "


ASKS = [
    ("POST", "/v1/chat/completions", chat("hi", model="fake")),
    ("POST", "/v1/chat/completions", chat("hi")),
    ("POST", "/v1/completions", {"model": "fake", "prompt": "hi"}),
    ("POST", "/v1/embeddings", {"model": "fake", "input": "hi"}),
    ("GET", "/v1/models/fake", None),
    ("GET", "/v2/models/fake", None),
    ("GET", "/v2/models/fake/versions/1/ready", None),
    ("GET", "/v2/models/fake/stats", None),
    ("POST", "/v2/models/fake/infer", {"inputs": []}),
    ("POST", "/api/generate", {"model": "fake", "prompt": "hi"}),
    ("POST", "/api/generate", {"model": "fake:latest", "keep_alive": 0}),
    ("POST", "/api/chat", {"model": "fake", "messages": []}),
    ("POST", "/api/embed", {"model": "fake", "input": "hi"}),
    ("POST", "/api/embeddings", {"model": "fake", "prompt": "hi"}),
    ("POST", "/api/show", {"model": "fake"}),
    ("GET", "/orch/models/fake", None),
    ("GET", "/orch/models/fake/why", None),
]


def test_a_token_for_some_models_reaches_no_other(both):
    secret = tokens.create("one", ["other"], None)
    for method, path, body in ASKS:
        status, _, said = call(both, method, path, secret, body)
        assert status == 403, (method, path, said)
        assert "fake" in said
    assert both.phase() == "COLD", "none of it woke the model"


def test_every_route_that_is_not_open_is_closed_to_it(both):
    secret = tokens.create("one", ["other"], None)
    closed = [(m, route.path) for route in routes if route.path not in OPEN for m in route.methods]
    assert ("POST", "/orch/leases") in closed
    for method, path in closed:
        named = path.replace("{model}", "other").replace("{rest:path}", "x").replace("{", "").replace("}", "")
        status, _, _ = call(both, method, named, secret, {} if method in {"POST", "PUT", "DELETE"} else None)
        assert status == 403, (method, path)
    assert {route.path for route in routes} >= OPEN, "no open route is misspelt"


def test_shared_memory_is_not_for_a_token_of_some_models(both):
    both.settings(SharedMemory="yes")
    secret = tokens.create("one", ["fake"], None)
    place = {"shared_memory_region": "r", "shared_memory_byte_size": 4}
    tensor = {"name": "x", "datatype": "FP32", "shape": [1], "parameters": place}
    both.register("tensor", both.root / "fake.json", "onnx")
    whole = tokens.create("all", None, None)
    narrow = tokens.create("narrow", ["tensor"], None)
    assert call(both, token=secret)[0] == 200
    path = "/v2/models/tensor/infer"
    assert "no shared memory region" in call(both, "POST", path, whole, {"inputs": [tensor]})[2]
    status, _, said = call(both, "POST", path, narrow, {"inputs": [tensor]})
    assert (status, "switched off" in said) == (403, True)


def test_pids_of_others_are_not_told(both):
    secret = tokens.create("one", ["other"], None)
    assert call(both, path="/orch/status", token=secret)[0] == 403
    assert str(os.getpid()) not in call(both, path="/orch/models", token=secret)[2]
