"""Which requests are seen coming, from how much of them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroshell_orch.foresee import asked

CHAT = {"messages": [{"role": "user", "content": "hi"}]}


def request(path="/v1/chat/completions", body=None, *headers, method="POST"):
    head = "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *headers])
    return head.encode() + b"\r\n\r\n" + (b"" if body is None else json.dumps(body).encode())


@pytest.mark.parametrize(
    ("data", "model"),
    [
        (request(body=CHAT), ""),
        (request(body=CHAT | {"model": "m"}), "m"),
        (request(body=CHAT | {"model": None}), ""),
        (request("/v1/completions?x=1", {"prompt": "hi", "model": "m"}), "m"),
        (request("/api/chat", CHAT | {"model": "m:latest"}), "m"),
        (request("/api/embed", {"input": ["a"], "model": "e"}), "e"),
        (request("/v2/models/t/infer"), "t"),
        (request("/v2/models/t/versions/1/infer"), "t"),
        (request("/v1/chat/completions", None, "X-Nsorch-Model: m"), "m"),
        (request("/v1/chat/completions", None, "x-nsorch-model:"), ""),
        (b"POST /v1/chat/completions HTTP/1.1\r\nX-Nsorch-Model: m\r\n", "m"),
        (b"POST /v1/chat/completions HTTP/1.1\r\nX-Nsorch-Model: m", None),
        (request(), None),
        (request(body=CHAT)[:-3], None),
        (request("/api/generate", {"model": "m", "keep_alive": 0}), None),
        (request("/api/chat", {"model": "m", "messages": []}), None),
        (request(body=CHAT, method="GET"), None),
        (request("/orch/status", CHAT), None),
        (request("/v1/models"), None),
        (request(body=[1]), None),
        (request(body=CHAT | {"model": 3}), None),
        (b"", None),
        (b"\x16\x03\x01", None),
    ],
)
def test_table(data, model):
    assert asked(data) == model


@given(st.binary(max_size=200))
def test_no_bytes_make_it_fail(data):
    asked(data)
    asked(b"POST /v1/chat/completions HTTP/1.1\r\n\r\n" + data)
