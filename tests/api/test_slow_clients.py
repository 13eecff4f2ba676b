"""Clients that take their time: with a head, with a body, with an answer."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time

import pytest

from tests.api.support_raw import CHAT, answer, closed, connected, head, problem
from tests.api.test_streams import open_stream
from tests.support_daemon import chat, wait_until


def test_a_connection_on_which_nothing_comes_is_closed_without_a_word(manager):
    manager.settings(RequestTimeoutSec="100ms")
    manager.start()
    with connected(manager) as sock:
        assert sock.recv(100) == b""


def test_our_own_client_may_connect_early_and_ask_late(manager):
    manager.settings(RequestTimeoutSec="100ms")
    manager.start()
    client = manager.client()
    client.reach()
    client._ready.settimeout(30)
    assert client._ready.recv(1, socket.MSG_PEEK) == b"", "it was closed meanwhile"
    assert client.call("GET", "/v1/models")["data"] == []


def test_a_head_that_trickles(manager):
    manager.settings(RequestTimeoutSec="300ms")
    manager.start()
    with connected(manager) as sock:
        with contextlib.suppress(BrokenPipeError):
            for byte in head(CHAT, X_Long="x" * 10_000):
                sock.send(bytes([byte]))
                time.sleep(0.01)
        status, _headers, body = answer(sock)
        assert (status, problem(body)) == (408, "request-timeout")
        assert closed(sock)


@pytest.mark.parametrize(("path", "id_"), [(CHAT, "mine"), ("/v2/models/tensors/infer", "mine"), ("/api/chat", "mine")])
def test_a_body_that_trickles(manager, path, id_):
    manager.settings(RequestTimeoutSec="300ms")
    manager.model("tensors", "onnx")
    manager.start()
    with connected(manager) as sock:
        sock.sendall(head(path, Content_Length=10_000, X_Request_Id=id_) + b"{")
        with contextlib.suppress(BrokenPipeError):
            for _ in range(100):
                sock.send(b" ")
                time.sleep(0.01)
        status, headers, body = answer(sock)
        assert (status, problem(body), headers["X-Request-Id"]) == (408, "request-timeout", id_)
        assert headers["Retry-After"]
        assert closed(sock)


def test_a_body_that_gets_on_may_take_its_time(manager):
    manager.settings(RequestTimeoutSec="1s")
    manager.model()
    manager.start()
    body = json.dumps(chat("a " * 200_000, max_tokens=1)).encode()
    with connected(manager) as sock:
        sock.sendall(head(CHAT, Content_Length=len(body)))
        for at in range(0, len(body), 1 << 17):
            sock.sendall(body[at : at + (1 << 17)])
            time.sleep(0.4)
        assert answer(sock)[0] == 200


def test_the_next_request_on_a_connection_has_a_clock_of_its_own(manager):
    manager.settings(RequestTimeoutSec="300ms")
    manager.start()
    with connected(manager) as sock:
        for _ in range(3):
            sock.sendall(head("/v1/models", "GET"))
            assert answer(sock)[0] == 200
            time.sleep(0.2)
        sock.sendall(b"GET /v1/mod")
        assert answer(sock)[0] == 408


def test_half_a_connection_is_none(manager):
    manager.model(tokens=-1)
    manager.start()
    body = json.dumps(chat("a", stream=True)).encode()
    with connected(manager) as sock:
        sock.sendall(head(CHAT, Content_Length=len(body)) + body)
        assert sock.recv(100)
        sock.shutdown(socket.SHUT_WR)
        wait_until(lambda: manager.status()["running"] == 0)
        assert closed(sock)


def test_a_reader_that_takes_nothing_is_dropped_and_the_model_is_free(manager):
    manager.settings(ReaderTimeoutSec="300ms")
    manager.model(tokens=-1, delay=0.01)
    manager.start()
    slow = open_stream(manager, "w" * 20_000)
    try:
        wait_until(lambda: manager.status()["running"] == 1)
        wait_until(lambda: "took nothing of its answer for 300ms" in manager.log.read_text())
        wait_until(lambda: manager.status()["running"] == 0)
        with pytest.raises(http.client.IncompleteRead):
            slow.getresponse().read()
    finally:
        slow.close()


def test_an_answer_that_is_complete_waits_for_nobody_either(manager):
    manager.settings(ReaderTimeoutSec="300ms")
    manager.model(tokens=3)
    manager.start()
    with connected(manager) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        body = json.dumps(chat("w" * 100_000)).encode()
        sock.sendall(head(CHAT, Content_Length=len(body)) + body)
        wait_until(lambda: "took nothing of its answer" in manager.log.read_text())


def test_a_reader_that_takes_a_little_is_not_dropped(manager):
    manager.settings(ReaderTimeoutSec="1s")
    manager.model(tokens=25)
    manager.start()
    slow = open_stream(manager, "w" * 20_000)
    try:
        response, size = slow.getresponse(), 0
        while chunk := response.read1(20_000):
            size += len(chunk)
            time.sleep(0.05)
        assert size > 500_000
    finally:
        slow.close()
