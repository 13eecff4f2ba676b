"""Requests and answers over a plain socket, for clients that do what no library does."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket

CHAT = "/v1/chat/completions"


@contextlib.contextmanager
def connected(manager):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(30)
        sock.connect(str(manager.path))
        yield sock


def head(path, method="POST", **headers):
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *lines, "", ""]).encode()


def answer(sock):
    """Status, headers and JSON of one answer."""
    response = http.client.HTTPResponse(sock)
    response.begin()
    return response.status, response.headers, json.loads(response.read() or b"null")


def closed(sock):
    """Whether the other side ends the connection, after whatever it still says."""
    try:
        while sock.recv(65536):
            pass
    except ConnectionError:
        pass
    return True


def problem(body):
    return body["error"]["code"] if isinstance(body.get("error"), dict) else body["problem"]
