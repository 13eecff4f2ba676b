"""Bounds on what a client may send, how slowly, and how much at once: each is said in the convention's own shape."""

from __future__ import annotations

import contextlib
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroshell_orch.api.limits import IN_FORCE, check_depth, too_large
from neuroshell_orch.config.schema import Settings
from neuroshell_orch.errors import OrchError
from tests.api.support_raw import CHAT, answer, closed, connected, head, problem
from tests.api.test_streams import open_stream
from tests.support_daemon import chat, wait_until

# ---- bodies ----


@pytest.mark.parametrize(
    ("path", "size", "key"),
    [
        (CHAT, 5000, "MaxBody="),
        ("/v1/completions", 5000, "MaxBody="),
        ("/v1/embeddings", 5000, "MaxBody="),
        ("/api/chat", 5000, "MaxBody="),
        ("/api/generate", 5000, "MaxBody="),
        ("/api/embed", 5000, "MaxBody="),
        ("/v2/models/tensors/infer", 9000, "MaxTensorBody="),
        ("/orch/free", 70_000, "less"),
    ],
)
def test_a_body_that_is_too_long(manager, path, size, key):
    manager.settings(MaxBody="4K", MaxTensorBody="8K")
    manager.model("tensors", "onnx")
    manager.start()
    with connected(manager) as sock:  # announced: nobody waits for it
        sock.sendall(head(path, Content_Length=size))
        status, _headers, body = answer(sock)
        assert (status, problem(body), key in str(body)) == (413, "body-too-large", True)
    with connected(manager) as sock:  # and the connection is of use afterwards if it comes all the same
        sock.sendall(head(path, Transfer_Encoding="chunked") + b"%x\r\n" % size + b" " * size + b"\r\n0\r\n\r\n")
        assert answer(sock)[0] == 413
        sock.sendall(head("/v1/models", "GET"))
        assert answer(sock)[0] == 200


def test_a_body_that_is_short_enough(manager):
    manager.settings(MaxBody="4K")
    manager.model()
    manager.start()
    assert manager.ask("a " * 1500, max_tokens=1) == "a "


def test_a_body_without_end_is_cut_off(manager):
    manager.settings(MaxBody="4K")
    manager.start()
    with connected(manager) as sock:
        sock.sendall(head(CHAT, Transfer_Encoding="chunked"))
        with contextlib.suppress(ConnectionError):  # the answer is there long before, and lies unread
            while True:
                sock.sendall(b"ff00\r\n" + b" " * 0xFF00 + b"\r\n")
        assert b"HTTP/1.1 413" in sock.recv(65536)
    assert manager.get("/orch/status")["models"] == []


# ---- JSON ----

NESTED = st.recursive(
    st.none() | st.booleans() | st.text('"\\[]{}aé'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('"\\[]{}a'), inner, max_size=3),
    max_leaves=12,
)


def depth(value):
    if isinstance(value, dict):
        return 1 + max((depth(one) for one in value.values()), default=0)
    return 1 + max((depth(one) for one in value), default=0) if isinstance(value, list) else 0


@given(NESTED, st.integers(1, 8), st.booleans())
def test_the_depth_of_json_is_counted_without_reading_it(value, most, ascii_only):
    text = json.dumps(value, ensure_ascii=ascii_only).encode()
    token = IN_FORCE.set(Settings(max_json_depth=most))
    try:
        for form in (text, memoryview(text)):
            if depth(value) <= most:
                check_depth(form)
            else:
                with pytest.raises(OrchError, match=f"deeper than {most}"):
                    check_depth(form)
    finally:
        IN_FORCE.reset(token)


@pytest.mark.parametrize(
    "text", [b'"' + b'\\"' * 500_000, b'"\\' * 500_000, b'[""' * 64, b"]" * 500_000, b'{"a":"' * 9]
)
def test_text_that_is_no_json_takes_no_longer(text):
    began = time.process_time()
    check_depth(text)
    assert time.process_time() - began < 20


@pytest.mark.parametrize(
    ("path", "wrap"),
    [
        (CHAT, lambda deep: chat("a", response_format=deep)),
        ("/api/generate", lambda deep: {"prompt": "a", "format": deep}),
        ("/v2/models/tensors/infer", lambda deep: {"inputs": [{"name": "NaN", "shape": [1], "data": deep}]}),
    ],
)
def test_json_that_nests_too_deeply(manager, path, wrap):
    manager.model()
    manager.model("tensors", "onnx")
    manager.settings(MaxJSONDepth="12")
    manager.start()
    deep = []
    for _ in range(12):
        deep = [deep]
    with pytest.raises(OrchError, match="nests deeper than 12") as caught:
        manager.post(path, wrap(deep))
    assert caught.value.problem == "json-too-deep"


def test_sizes_are_said_as_people_write_them():
    assert "longer than 16MiB." in str(too_large(16 << 20, "MaxBody"))
    assert "longer than 1001 bytes." in str(too_large(1001, ""))


# ---- heads ----


@pytest.mark.parametrize("path", ["/v1/models", "/v2", "/api/tags", "/orch/status"])
def test_too_many_headers(manager, path):
    manager.start()
    with connected(manager) as sock:
        sock.sendall(head(path, "GET", X_Request_Id="mine", **{f"X_{number}": 1 for number in range(100)}))
        status, headers, body = answer(sock)
        assert (status, problem(body), headers["X-Request-Id"]) == (431, "headers-too-large", "mine")
        assert closed(sock)
    with connected(manager) as sock:
        sock.sendall(head(path, "GET", **{f"X_{number}": 1 for number in range(99)}))
        assert answer(sock)[0] == 200


@pytest.mark.parametrize("start", [b"GET /v1/", b"GET /v1/models HTTP/1.1\r\nX-Long: ", b"GET /v1/models HTTP/1.1\r\n"])
def test_a_head_without_end(manager, start):
    manager.settings(MaxHeaderSize="4K")
    manager.start()
    more = b"X: y\r\n" * 100 if start.endswith(b"\n") else b"x" * 1000
    with connected(manager) as sock, contextlib.suppress(BrokenPipeError):
        sock.sendall(start)
        for _ in range(1000):
            sock.sendall(more)
    with connected(manager) as sock:
        sock.sendall(start + more * 8)
        status, _headers, body = answer(sock)
        assert (status, problem(body)) == (431, "headers-too-large")
        assert closed(sock)


def test_a_head_that_comes_at_once_and_is_too_long(manager):
    manager.settings(MaxHeaderSize="4K")
    manager.start()
    with connected(manager) as sock:
        sock.sendall(head("/api/tags", "GET", X_Long="x" * 4100))
        status, _headers, body = answer(sock)
        assert (status, problem(body), "MaxHeaderSize" in body["hint"]) == (431, "headers-too-large", True)


def test_what_is_not_http_is_told_so(manager):
    manager.start()
    with connected(manager) as sock:
        sock.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        status, _headers, body = answer(sock)
        assert (status, problem(body)) == (400, "bad-request")
        assert closed(sock)


# ---- how many ----


def test_streams_of_one_client(manager):
    manager.settings(MaxStreams="3")
    manager.model(tokens=-1, delay=0.005)
    manager.model("other")
    manager.start()
    open_ones = [open_stream(manager, "a") for _ in range(3)]
    try:
        first = open_ones[0].getresponse()
        wait_until(lambda: manager.status()["running"] + manager.status()["waiting"] == 3)
        for path, body in ((CHAT, chat("a", stream=True)), ("/api/chat", chat("a") | {"model": "fake"})):
            with pytest.raises(OrchError, match=r"reads 3 streams already") as caught:
                manager.post(path, body)
            assert caught.value.problem == "too-many-streams"
        assert manager.ask("a", max_tokens=1, model="other") == "a "  # what is no stream is not counted
        open_ones[0].close()
        first.close()
        wait_until(lambda: manager.status()["waiting"] == 1)
        assert next(manager.stream("a", max_tokens=1, model="other"))
    finally:
        for one in open_ones:
            one.close()


def test_connections_in_all(manager):
    manager.settings(MaxConnections="4")
    manager.start()
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            sock = stack.enter_context(connected(manager))
            sock.sendall(head("/v1/models", "GET"))
            assert answer(sock)[0] == 200
        for path in ("/v1/models", "/v2", "/api/tags"):
            extra = stack.enter_context(connected(manager))
            extra.sendall(head(path, "GET"))
            status, headers, body = answer(extra)
            assert (status, problem(body)) == (429, "too-many-connections")
            assert headers["Retry-After"]
            assert headers["X-Request-Id"]
            assert closed(extra)
        assert manager.get("/orch/status")["models"] == []  # whoever wants to look or to free memory still can


def test_more_than_can_be_told_wait_their_turn(manager):
    manager.settings(MaxConnections="2")
    manager.start()
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(connected(manager)) for _ in range(60)]
        late = stack.enter_context(connected(manager))
        late.sendall(head("/v1/models", "GET"))
        for sock in silent:
            sock.close()
        assert answer(late)[0] in {200, 429}
