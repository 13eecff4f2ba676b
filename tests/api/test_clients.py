"""The unmodified ``openai`` and ``ollama`` packages over both sockets: what their documentation shows, with fakes.

Each client wakes the daemon itself. Over the unix socket nobody needs a token, over the loopback port everybody does.
What each field means is tested elsewhere, over the unix socket; here it is that neither transport loses anything.
"""

from __future__ import annotations

import asyncio
import json

import httpx
import httpx2
import ollama
import openai
import pytest
from pydantic import BaseModel

from neuroshell_orch.api import tokens
from neuroshell_orch.errors import OrchError
from tests.api.support_oip import TwoSockets
from tests.support_daemon import wait_until
from tests.support_fake import fake_environment

RUNTIMES = "genai=tests.api.fake_obedient,encoder=tests.api.fake_encoder"
ABC = [{"role": "user", "content": "alpha beta gamma"}]
TOOL = {
    "type": "function",
    "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "number"}}}},
}


class Answer(BaseModel):
    """What the documentation calls a structured output."""

    name: str = "nobody"


@pytest.fixture
def both(xdg):
    manager = TwoSockets(xdg)
    manager.settings(DefaultModel="fake", KeepAlivePolicy="client")
    manager.model("fake")
    manager.model("vectors", "encoder")
    manager.environment = fake_environment() | {"NSORCH_RUNTIMES": RUNTIMES}
    manager.activate()
    yield manager
    manager.end()
    log = manager.log.read_text()
    assert "Traceback" not in log, log
    assert "never retrieved" not in log, log


class Way:
    """How a client is told to connect. The openai package has a transport of its own, so ``http`` is either's."""

    def __init__(self, kind, manager):
        self.unix = kind == "unix"
        self.path = str(manager.path)
        self.host = "http://localhost" if self.unix else f"http://127.0.0.1:{manager.port}"
        self.token = None if self.unix else tokens.create("client", None, None)

    def transport(self, http, kind):
        return getattr(http, kind)(uds=self.path) if self.unix else None

    def openai(self):
        http = httpx2.Client(transport=self.transport(httpx2, "HTTPTransport"), timeout=60)
        return openai.OpenAI(base_url=f"{self.host}/v1", api_key=self.token or "-", http_client=http, max_retries=0)

    def openai_async(self):
        http = httpx2.AsyncClient(transport=self.transport(httpx2, "AsyncHTTPTransport"), timeout=60)
        key = self.token or "-"
        return openai.AsyncOpenAI(base_url=f"{self.host}/v1", api_key=key, http_client=http, max_retries=0)

    def ollama(self, make=ollama.Client, kind="HTTPTransport"):
        options = {"transport": getattr(httpx, kind)(uds=self.path)} if self.unix else {}
        return make(host=self.host, timeout=60, **options)


@pytest.fixture(params=["unix", "tcp"])
def way(request, both, monkeypatch):
    found = Way(request.param, both)
    monkeypatch.delenv("OLLAMA_API_KEY", raising=False)
    if found.token is not None:
        monkeypatch.setenv("OLLAMA_API_KEY", found.token)
    return found


def test_openai(way, both):
    with way.openai() as client:
        chat = client.chat.completions
        assert chat.create(model="fake", messages=ABC).choices[0].message.content == "alpha beta gamma "
        chunks = list(chat.create(model="fake", messages=ABC, stream=True, stream_options={"include_usage": True}))
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "alpha beta gamma "
        assert chunks[-1].usage.completion_tokens == 3
        with chat.stream(model="fake", messages=ABC) as events:
            texts = [event.delta for event in events if event.type == "content.delta"]
        assert "".join(texts) == "alpha beta gamma "
        called = chat.create(model="fake", messages=ABC, tools=[TOOL], tool_choice="required").choices[0]
        assert (called.finish_reason, called.message.tool_calls[0].function.name) == ("tool_calls", "add")
        call = called.message.tool_calls[0]
        result = {"role": "tool", "tool_call_id": call.id, "content": "three"}
        again = chat.create(model="fake", messages=[*ABC, called.message, result], tools=[TOOL])
        assert again.choices[0].message.content == "three "
        streamed = list(chat.create(model="fake", messages=ABC, tools=[TOOL], tool_choice="required", stream=True))
        calls = [call for chunk in streamed for call in chunk.choices[0].delta.tool_calls or []]
        assert [call.function.name for call in calls] == ["add"]
        parsed = chat.parse(model="fake", messages=ABC, response_format=Answer).choices[0].message.parsed
        assert parsed == Answer()
        assert (
            json.loads(
                chat.create(model="fake", messages=ABC, response_format={"type": "json_object"})
                .choices[0]
                .message.content
            )
            == {}
        )
        assert client.completions.create(model="fake", prompt="one two", max_tokens=1).choices[0].text == "one "
        vectors = client.embeddings.create(model="vectors", input=["a", "b c"])
        assert [item.embedding for item in vectors.data] == [[1, 1, 1], [3, 2, 1]]
        floats = client.embeddings.create(model="vectors", input="b c", encoding_format="float")
        assert floats.data[0].embedding == [3, 2, 1]
        assert {model.id for model in client.models.list()} == {"fake", "vectors"}
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("nope")
        chat.create(model="fake", messages=ABC, extra_body={"keep_alive": 0})
    both.wait_phase("COLD")


@pytest.mark.anyio
async def test_openai_async(way):
    async with way.openai_async() as client:
        chat = client.chat.completions
        stream = await chat.create(model="fake", messages=ABC, stream=True)
        assert "".join([c.choices[0].delta.content or "" async for c in stream]) == "alpha beta gamma "
        called = await chat.create(model="fake", messages=ABC, tools=[TOOL], tool_choice="required")
        assert called.choices[0].message.tool_calls[0].function.name == "add"
        parsed = await chat.parse(model="fake", messages=ABC, response_format=Answer)
        assert parsed.choices[0].message.parsed == Answer()
        asks = [client.embeddings.create(model="vectors", input=f"text {number}") for number in range(8)]
        assert [len(answer.data) for answer in await asyncio.gather(*asks)] == [1] * 8
        assert len((await client.models.list()).data) == 2


def test_ollama(way, both):
    with way.ollama() as client:
        assert {model.model for model in client.list().models} == {"fake:latest", "vectors:latest"}
        assert client.ps().models == []
        assert client.chat("fake", ABC).message.content == "alpha beta gamma "
        assert [c.message.content for c in client.chat("fake", ABC, stream=True)] == ["alpha ", "beta ", "gamma ", ""]
        answer = client.generate("fake", "one two", options={"num_predict": 1}, keep_alive="10m")
        assert (answer.response, answer.done_reason) == ("one ", "length")
        assert [c.response for c in client.generate("fake", "a b", stream=True, keep_alive=600)] == ["a ", "b ", ""]
        assert client.chat("fake", ABC, format=Answer.model_json_schema()).message.content.strip() == "{}"
        assert [model.model for model in client.ps().models] == ["fake:latest"]
        assert client.embed("vectors", ["a", "b c"]).embeddings == [[1, 1, 1], [3, 2, 1]]
        assert client.embeddings("vectors", "b c").embedding == [3, 2, 1]
        assert client.show("fake").capabilities == ["completion", "tools"]
        assert client.copy("fake", "twin").status == "success"
        assert client.delete("twin").status == "success"
        with pytest.raises(ollama.ResponseError, match="not found"):
            client.chat("nope", ABC)
        assert client.generate("fake", keep_alive=0).done_reason == "unload"
        assert client.generate("vectors", keep_alive=0).done_reason == "unload"
        assert client.ps().models == []
    both.wait_phase("COLD")


@pytest.mark.anyio
async def test_ollama_async(way):
    async with way.ollama(ollama.AsyncClient, "AsyncHTTPTransport") as client:
        stream = await client.chat("fake", ABC, stream=True)
        assert "".join([chunk.message.content async for chunk in stream]) == "alpha beta gamma "
        assert (await client.generate("fake", "a b")).response == "a b "
        assert (await client.embed("vectors", "b c")).embeddings == [[3, 2, 1]]
        assert len((await client.ps()).models) == 2


@pytest.mark.parametrize(
    "place", [{"keep_alive": 0}, {"parameters": {"keep_alive": 0}}, {"parameters": {"keep_alive": "0s"}}]
)
def test_keep_alive_of_an_inference(manager, place):
    manager.model("tensors", "onnx")
    manager.start()
    body = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1.5]}]}
    answer = manager.post("/v2/models/tensors/infer", body | {"keep_alive": "10m"})
    assert answer["outputs"][0]["data"] == [1.5]
    status = wait_until(lambda: (s := manager.status("tensors"))["running"] == 0 and s)
    assert status["next_at"] - status["since"] == pytest.approx(600, abs=100)
    for wrong in ({"keep_alive": "soon"}, {"parameters": {"keep_alive": [1]}}, {"parameters": {"keep_alive": True}}):
        with pytest.raises(OrchError, match="keep_alive"):
            manager.post("/v2/models/tensors/infer", body | wrong)
    manager.post("/v2/models/tensors/infer", body | place)
    manager.wait_phase("COLD", "tensors")


def test_tcp_without_a_token_is_refused_in_each_clients_own_words(both, monkeypatch):
    monkeypatch.delenv("OLLAMA_API_KEY", raising=False)
    address = f"http://127.0.0.1:{both.port}"
    nobody = openai.OpenAI(base_url=f"{address}/v1", api_key="-", max_retries=0)
    with nobody, pytest.raises(openai.AuthenticationError):
        nobody.models.list()
    with ollama.Client(host=address) as client, pytest.raises(ollama.ResponseError) as caught:
        client.list()
    assert caught.value.status_code == 401
