"""While a model loads, streams for OpenAI's clients say so in comments, which their package skips."""

from __future__ import annotations

import http.client
import json

import httpx2 as httpx
import openai
import pytest

from neuroshell_orch.errors import OrchError
from tests.api.support_raw import answer, connected, head
from tests.api.test_streams import open_stream
from tests.support_daemon import chat, wait_until

CHAT = "/v1/chat/completions"


@pytest.fixture
def slow(manager):
    manager.settings(ProgressSec="100ms")
    manager.model(load_seconds=1)
    manager.start()
    return manager


def lines(manager, path, body):
    with connected(manager) as sock:
        content = json.dumps(body).encode()
        sock.sendall(head(path, Content_Length=len(content), Connection="close") + content)
        response = http.client.HTTPResponse(sock)
        response.begin()
        assert response.status == 200
        return response.read().decode().splitlines()


@pytest.mark.parametrize(
    ("path", "body"), [(CHAT, chat("a b", stream=True)), ("/v1/completions", {"prompt": "a b", "stream": True})]
)
def test_comments_while_it_loads_and_none_afterwards(slow, path, body):
    said = [line for line in lines(slow, path, body) if line]
    told = [line for line in said if line.startswith(":")]
    assert len(told) >= 2
    assert all(line.startswith((": loading fake, ", ": waiting for fake, ")) for line in told)
    assert said[: len(told)] == told
    assert all(line.startswith("data: ") for line in said[len(told) :])
    assert said[-1] == "data: [DONE]"
    assert not any(line.startswith(":") for line in lines(slow, path, body))


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
def test_conventions_without_comments_have_none(slow, path):
    said = lines(slow, path, {"model": "fake"} | (chat("a b") if path.endswith("chat") else {"prompt": "a b"}))
    assert all(json.loads(line) for line in said)
    assert not any(line.startswith(":") for line in said)


def test_openais_package_does_not_mind(slow):
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(slow.path)), timeout=30) as over:
        client = openai.OpenAI(base_url="http://localhost/v1", api_key="x", http_client=over, max_retries=0)
        messages = [{"role": "user", "content": "a b c"}]
        chunks = list(
            client.chat.completions.create(
                model="fake", messages=messages, stream=True, n=2, stream_options={"include_usage": True}
            )
        )
    for index in (0, 1):
        said = [choice.delta.content for chunk in chunks for choice in chunk.choices if choice.index == index]
        assert "".join(filter(None, said)) == "a b c "
    assert chunks[-1].usage.completion_tokens == 6


def test_nor_does_a_client_that_gives_up_on_silence(slow):
    transport = httpx.HTTPTransport(uds=str(slow.path))
    slow.model(load_seconds=3)
    with httpx.Client(transport=transport, timeout=httpx.Timeout(30, read=2)) as over:
        client = openai.OpenAI(base_url="http://localhost/v1", api_key="x", http_client=over, max_retries=0)
        messages = [{"role": "user", "content": "a b c"}]
        chunks = client.chat.completions.create(model="fake", messages=messages, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "a b c "
        slow.post("/orch/models/fake/unload")
        with pytest.raises(openai.APITimeoutError):
            client.chat.completions.create(model="fake", messages=messages)


def test_what_goes_wrong_later_is_an_event_that_the_package_raises(manager):
    manager.settings(ProgressSec="100ms")
    manager.model(load_seconds=0.5, load="fail")
    manager.start()
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(manager.path)), timeout=30) as over:
        client = openai.OpenAI(base_url="http://localhost/v1", api_key="x", http_client=over, max_retries=0)
        messages = [{"role": "user", "content": "a"}]
        stream = client.chat.completions.create(model="fake", messages=messages, stream=True)
        with pytest.raises(openai.APIError, match="does not want to"):
            list(stream)


def test_what_goes_wrong_at_once_has_its_status(manager):
    manager.model(load="fail")
    manager.start()
    with pytest.raises(OrchError) as caught:
        next(manager.stream("a"))
    assert caught.value.problem == "model-invalid"


def test_whoever_waits_for_a_turn_is_told_too_and_may_leave(manager):
    manager.settings(ProgressSec="100ms")
    manager.model(tokens=-1, delay=0.005)
    manager.start()
    first = open_stream(manager, "a")
    wait_until(lambda: manager.status()["running"] == 1)
    second = open_stream(manager, "b")
    try:
        assert second.getresponse().readline().startswith(b": waiting for fake, ")
        assert manager.status()["waiting"] == 1
        second.close()
        wait_until(lambda: manager.status()["waiting"] == 0)
        assert manager.status()["running"] == 1
    finally:
        first.close()
        second.close()
    wait_until(lambda: manager.status()["running"] == 0)


def test_whoever_leaves_while_it_loads_has_told_nobody_anything(slow):
    gone = open_stream(slow, "a")
    assert gone.getresponse().readline().startswith(b": ")
    gone.close()
    wait_until(lambda: slow.status()["waiting"] + slow.status()["running"] == 0)
    with connected(slow) as sock:
        body = json.dumps(chat("a")).encode()
        sock.sendall(head(CHAT, Content_Length=len(body)) + body)
        assert answer(sock)[0] == 200
