"""The real ``openai`` package against the activated socket."""

from __future__ import annotations

import httpx2 as httpx
import openai
import pytest


@pytest.fixture
def client(manager):
    transport = httpx.HTTPTransport(uds=str(manager.path))
    with httpx.Client(transport=transport, timeout=30) as http:
        yield openai.OpenAI(base_url="http://localhost/v1", api_key="unused", http_client=http, max_retries=0)


MESSAGES = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "alpha beta gamma"}]


def test_a_whole_answer(manager, client):
    manager.model()
    manager.start()
    answer = client.chat.completions.create(model="fake", messages=MESSAGES, max_tokens=2, seed=1)
    assert answer.choices[0].message.content == "alpha beta "
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 2
    assert answer.object == "chat.completion"


def test_a_stream(manager, client):
    manager.model()
    manager.start()
    stream = client.chat.completions.create(
        model="fake", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "alpha beta gamma "
    assert chunks[-1].usage.completion_tokens == 3


def test_the_models(manager, client):
    manager.model("fake")
    manager.model("other")
    manager.start()
    assert sorted(model.id for model in client.models.list()) == ["fake", "other"]
    assert client.models.retrieve("other").owned_by == "nsorch"


def test_errors_have_the_classes_that_programs_catch(manager, client):
    path = manager.model(load="fail")
    manager.start()
    with pytest.raises(openai.NotFoundError, match="nope"):
        client.chat.completions.create(model="nope", messages=MESSAGES)
    with pytest.raises(openai.BadRequestError, match="tools"):
        client.chat.completions.create(model="fake", messages=MESSAGES, tools=[{"type": "function", "function": {}}])
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(model="fake", messages=MESSAGES)
    assert caught.value.status_code >= 422
    path.write_text('{"die_after": 1, "die": "kill"}')
    with pytest.raises(openai.APIError, match="SIGKILL"):
        list(client.chat.completions.create(model="fake", messages=MESSAGES, stream=True))


def test_a_closed_stream_frees_the_model(manager, client):
    manager.model(tokens=-1, delay=0.005)
    manager.start()
    for _ in range(3):
        with client.chat.completions.create(model="fake", messages=MESSAGES, stream=True) as stream:
            next(iter(stream))
