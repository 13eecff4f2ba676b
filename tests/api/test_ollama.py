"""Answers for the real ``ollama`` package on the activated socket; the models are fakes that repeat what is said."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import httpx
import ollama
import pytest

from neuroshell_orch.api import tokens
from tests.api.support_oip import TwoSockets
from tests.api.support_ollama import ABC, connected, raw, refused
from tests.support_daemon import wait_until
from tests.support_fake import fake_environment

TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}]
CALL = '<tool_call> {"name": "add", "arguments": {"a": 1, "b": [NaN]}} </tool_call>'


@pytest.fixture
def client(manager):
    with connected(manager.path) as client:
        yield client


@pytest.fixture
def asynchronous(manager):
    def make():
        transport = httpx.AsyncHTTPTransport(uds=str(manager.path))
        return ollama.AsyncClient(host="http://localhost", transport=transport, timeout=30)

    return make


def test_a_whole_chat(manager, client):
    manager.model()
    manager.activate()
    answer = client.chat("fake", ABC, options={"num_predict": 2, "seed": 1, "temperature": 0})
    assert answer.message.role == "assistant"
    assert answer.message.content == "alpha beta "
    assert (answer.model, answer.done, answer.done_reason) == ("fake", True, "length")
    assert (answer.prompt_eval_count, answer.eval_count) == (3, 2)
    assert answer.total_duration >= answer.load_duration > 0
    assert answer.eval_duration >= 0
    again = client.chat("fake", ABC)
    assert again.load_duration == 0, "it was loaded already"
    assert again.message.content == "alpha beta gamma "


def test_a_stream(manager, client):
    manager.model()
    manager.activate()
    chunks = list(client.chat("fake", ABC, stream=True))
    assert [chunk.message.content for chunk in chunks] == ["alpha ", "beta ", "gamma ", ""]
    assert [chunk.done for chunk in chunks] == [False, False, False, True]
    assert chunks[0].done_reason is None
    assert (chunks[-1].done_reason, chunks[-1].eval_count) == ("stop", 3)
    assert datetime.fromisoformat(chunks[0].created_at) - datetime.now(UTC) < timedelta(minutes=1)


def test_generate(manager, client):
    manager.model()
    manager.activate()
    answer = client.generate("fake", "alpha beta", system="be brief")
    assert (answer.response, answer.done_reason, answer.prompt_eval_count) == ("alpha beta ", "stop", 4)
    pieces = [chunk.response for chunk in client.generate("fake", "one two", raw=True, stream=True)]
    assert pieces == ["one ", "two ", ""]


@pytest.mark.anyio
async def test_the_asynchronous_client(manager, asynchronous):
    manager.model()
    manager.activate()
    async with asynchronous() as client:
        assert (await client.chat("fake", ABC)).message.content == "alpha beta gamma "
        assert [c.response async for c in await client.generate("fake", "x y", stream=True)] == ["x ", "y ", ""]
        assert [m.model for m in (await client.ps()).models] == ["fake:latest"]
        assert [m.model for m in (await client.list()).models] == ["fake:latest"]
        await client.copy("fake", "other")
        await client.delete("fake")
        assert [m.model for m in (await client.list()).models] == ["other:latest"]
        with pytest.raises(ollama.ResponseError, match="not found"):
            await client.show("fake")


def test_streaming_is_what_happens_where_nobody_says(manager):
    manager.model()
    manager.activate()
    status, headers, body = raw(manager, "POST", "/api/generate", {"model": "fake", "prompt": "a b"})
    assert (status, headers["content-type"]) == (200, "application/x-ndjson")
    lines = [json.loads(line) for line in body.splitlines()]
    assert [set(line) for line in lines[:2]] == [{"model", "created_at", "response", "done"}] * 2
    assert set(lines[2]) == {
        *("model", "created_at", "response", "done", "done_reason", "total_duration", "load_duration"),
        *("prompt_eval_count", "prompt_eval_duration", "eval_count", "eval_duration"),
    }


def test_calls_are_read_out_of_the_answer(manager, client):
    manager.model()
    manager.activate()
    told = [{"role": "user", "content": f"Let me see. {CALL}"}]
    message = client.chat("fake", told, tools=TOOLS).message
    assert message.content.strip() == "Let me see."
    (made,) = message.tool_calls
    assert (made.function.name, made.function.arguments) == ("add", {"a": 1, "b": [None]})
    chunks = list(client.chat("fake", told, tools=TOOLS, stream=True))
    assert [one.function.name for chunk in chunks for one in chunk.message.tool_calls or []] == ["add"]
    assert "tool_call" not in "".join(chunk.message.content for chunk in chunks)
    assert chunks[-1].done_reason == "stop"
    plain = client.chat("fake", told).message
    assert plain.tool_calls is None
    assert "tool_call" in plain.content
    history = [*told, message, {"role": "tool", "content": "it is two", "tool_name": "add"}]
    assert client.chat("fake", history, tools=TOOLS).message.content == "it is two "


def test_a_client_that_leaves_frees_the_model(manager, client):
    manager.model(tokens=-1, delay=0.005)
    manager.start()
    for _ in range(3):
        stream = client.chat("fake", ABC, stream=True)
        next(stream)
        stream.close()
    wait_until(lambda: not manager.status()["running"])


def test_how_clients_find_the_service(manager):
    manager.activate()
    assert raw(manager, "GET", "/")[::2] == (200, b"Ollama is running")
    assert raw(manager, "HEAD", "/")[0] == 200
    status, _, text = raw(manager, "GET", "/api/version")
    assert status == 200
    assert tuple(map(int, json.loads(text)["version"].split("."))) >= (0, 6, 4)
    status, _, text = raw(manager, "GET", "/api/nothing")
    assert (status, set(json.loads(text))) == (404, {"error", "problem", "hint"})
    assert raw(manager, "GET", "/api/generate")[0] == 405


def test_over_tcp_with_the_token(xdg, monkeypatch):
    both = TwoSockets(xdg)
    both.environment = fake_environment() | {"NSORCH_RUNTIMES": "genai=tests.workers.fake_runtime"}
    both.model()
    both.activate()
    try:
        address = f"http://127.0.0.1:{both.port}"
        with ollama.Client(host=address) as nobody:
            assert refused(nobody.list)[0] == 401
        monkeypatch.setenv("OLLAMA_API_KEY", tokens.create("ollama", None, None))
        with ollama.Client(host=address) as client:
            assert [model.model for model in client.list().models] == ["fake:latest"]
            assert client.ps().models == []
            assert client.chat("fake", ABC).message.content == "alpha beta gamma "
            assert [chunk.response for chunk in client.generate("fake", "a b", stream=True)] == ["a ", "b ", ""]
            assert len(client.ps().models) == 1
    finally:
        both.end()
