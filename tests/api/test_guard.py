"""The loopback port: no token, no answer; no web page, no DNS rebinding. The unix socket needs none of it."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys

import pytest

from neuroshell_orch.api.guard import read_token, token_path
from tests.support_daemon import STARTER, wait_until


@pytest.fixture
def port(manager):
    """A daemon that was handed a TCP socket named http."""
    listener = socket.create_server(("127.0.0.1", 0))
    starter = STARTER.replace("LISTEN_FDNAMES='api'", "LISTEN_FDNAMES='http'")
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", starter, str(listener.fileno())],
        pass_fds=[listener.fileno()],
        env=os.environ | {"XDG_RUNTIME_DIR": str(manager.root / "run")},
        stderr=subprocess.DEVNULL,
    )
    yield listener.getsockname()[1]
    process.terminate()
    process.wait(10)
    listener.close()


def get(port, path="/orch/status", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path, headers={name.title(): value for name, value in headers.items()})
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def test_a_program_needs_the_token(port):
    status, body = get(port)
    assert status == 403
    assert "not-allowed" in body
    assert str(token_path()) in body, "it says where the token is"
    wait_until(token_path().exists)
    assert token_path().stat().st_mode & 0o777 == 0o600
    token = read_token()
    assert len(token) >= 32
    assert get(port, authorization=f"Bearer {token}")[0] == 200
    assert get(port, authorization=f"Bearer {token}x")[0] == 403
    assert get(port, authorization=f"Basic {token}")[0] == 403


def test_web_pages_and_rebound_names_are_kept_out_even_with_the_token(port):
    get(port)
    token = read_token()
    assert get(port, authorization=f"Bearer {token}", origin="https://evil.example")[0] == 403
    assert get(port, authorization=f"Bearer {token}", host=f"evil.example:{port}")[0] == 403
    assert get(port, authorization=f"Bearer {token}", host=f"localhost:{port}")[0] == 200


def test_the_unix_socket_needs_no_token(manager):
    manager.start()
    assert manager.get("/orch/status")["models"] == []
    assert not token_path().exists()
