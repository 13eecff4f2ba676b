"""``/v1/embeddings`` over the activated socket: the real daemon and runtime, a tiny encoder, the ``openai`` package."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from pathlib import Path

import httpx2 as httpx
import numpy as np
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroshell_orch.api.embeddings_answer import inputs_of
from neuroshell_orch.config.paths import cache_dir
from neuroshell_orch.errors import OrchError
from neuroshell_orch.workers.prepared import prepare
from tests import support_encoder as tiny
from tests.support_daemon import wait_until

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("encoder")
    return tiny.converted(tiny.tiny_encoder(root / "source"), root / "tiny")


@pytest.fixture
def served(manager, folder):
    manager.register("tiny", folder, "encoder")
    manager.model()
    return manager


@pytest.fixture
def client(served):
    served.start(real=True)
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(served.path)), timeout=100) as http:
        yield openai.OpenAI(base_url="http://localhost/v1", api_key="unused", http_client=http, max_retries=0)


def test_the_openai_package(client):
    answer = client.embeddings.create(model="tiny", input=tiny.TEXTS)
    assert [item.index for item in answer.data] == list(range(len(tiny.TEXTS)))
    vectors = np.array([item.embedding for item in answer.data])
    assert vectors.shape == (len(tiny.TEXTS), tiny.HIDDEN)
    assert np.abs(vectors - np.load(DATA / "tiny_encoder_vectors.npz")["mean_True"]).max() < 1e-5
    assert (answer.model, answer.usage.prompt_tokens, answer.usage.total_tokens) == ("tiny", 46, 46)
    assert answer.usage.truncated == 1
    floats = client.embeddings.create(model="tiny", input=tiny.TEXTS[0], encoding_format="float", user="me")
    assert np.allclose(floats.data[0].embedding, vectors[0], atol=1e-6)
    assert client.embeddings.create(model="tiny", input="x", dimensions=tiny.HIDDEN).usage.truncated == 0
    by_tokens = client.embeddings.create(model="tiny", input=[[5, 6], [7]])
    assert by_tokens.usage.prompt_tokens == 7
    one = client.embeddings.create(model="tiny", input=[5, 6])
    assert len(one.data) == 1
    assert np.allclose(one.data[0].embedding, by_tokens.data[0].embedding, atol=1e-6)


@pytest.mark.anyio
async def test_the_openai_package_async_and_several_at_once(served):
    served.start(real=True)
    transport = httpx.AsyncHTTPTransport(uds=str(served.path))
    async with httpx.AsyncClient(transport=transport, timeout=100) as http:
        client = openai.AsyncOpenAI(base_url="http://localhost/v1", api_key="unused", http_client=http, max_retries=0)
        asks = [client.embeddings.create(model="tiny", input=[f"the cat {number}"] * 20) for number in range(8)]
        answers = await asyncio.gather(*asks)
    assert [len(answer.data) for answer in answers] == [20] * 8


def test_the_encoder_is_found_without_a_name(served):
    served.start(real=True)  # the default model, "fake", is no encoder
    assert served.post("/v1/embeddings", {"input": "x"})["model"] == "tiny"
    assert served.post("/v1/embeddings", {"input": "x", "keep_alive": 0})["model"] == "tiny"
    served.wait_phase("COLD", "tiny")


def test_base64_is_little_endian_float32(served):
    served.start(real=True)
    plain = served.post("/v1/embeddings", {"input": "the cat"})["data"][0]["embedding"]
    coded = served.post("/v1/embeddings", {"input": "the cat", "encoding_format": "base64"})["data"][0]["embedding"]
    assert np.frombuffer(base64.b64decode(coded), "<f4").tolist() == plain


BAD = [
    ({"input": "x", "model": "none"}, "model-unknown", "There is no model named none"),
    ({"input": "x", "model": "fake"}, "unsupported", "Model fake answers prompts and makes no embeddings"),
    ({"input": ""}, "empty-prompt", r"input\[0\] is empty"),
    ({"input": []}, "empty-prompt", "input is empty"),
    ({"input": [[]]}, "empty-prompt", r"input\[0\] is empty"),
    ({"input": ["x", ""]}, "empty-prompt", r"input\[1\] is empty"),
    ({"input": ["x", 1]}, "bad-request", "mixes texts and tokens"),
    ({"input": [[1], "x"]}, "bad-request", "mixes texts and tokens"),
    ({"input": ["x"] * 2049}, "bad-request", "more than 2048 entries"),
    ({"input": {"text": "x"}}, "bad-request", "input"),
    ({"input": [True]}, "bad-request", "input"),
    ({"input": [1.5]}, "bad-request", "input"),
    ({}, "bad-request", "input"),
    ({"input": "x", "surprise": 1}, "bad-request", "surprise"),
    ({"input": "x", "encoding_format": "int8"}, "bad-request", "encoding_format is not known"),
    ({"input": "x", "dimensions": 0}, "bad-request", "dimensions must be 1 or more"),
    ({"input": "x", "dimensions": 8}, "unsupported", "no vectors of 8 dimensions"),
    ({"input": [999999]}, "bad-request", r"input\[0\] has a token"),
    ({"input": [-1]}, "bad-request", r"input\[0\] has a token"),
    ({"input": "x", "keep_alive": "soon"}, "bad-request", "keep_alive is not a time"),
]


def test_what_is_refused_has_openais_shape_and_says_why(served):
    served.start(real=True)
    for body, problem, text in BAD:
        with pytest.raises(OrchError, match=text) as caught:
            served.post("/v1/embeddings", body)
        assert caught.value.problem == problem, body
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(served.path))) as http:
        answer = http.post("http://localhost/v1/embeddings", content=b'{"input": "\\ud800"}')
        assert answer.status_code == 400, answer.text
        error = http.post("http://localhost/v1/embeddings", json={"input": "x", "dimensions": 8}).json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["code"] == "unsupported"
    assert served.post("/v1/embeddings", {"input": "x\0y"})["usage"]["prompt_tokens"] >= 3, "and it lives on"
    assert [m["phase"] for m in served.get("/orch/status")["models"] if m["name"] == "fake"] == ["COLD"]


def test_an_encoder_is_asked_for_nothing_else(served):
    served.start(real=True)
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "x"}]}
    with pytest.raises(OrchError, match="turns texts into vectors, not prompts") as caught:
        served.post("/v1/chat/completions", chat)
    assert "nsorch embed -m tiny" in caught.value.hint
    tensor = {"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}
    with pytest.raises(OrchError, match="turns texts into vectors, not tensors"):
        served.post("/v2/models/tiny/infer", {"inputs": [tensor]})
    assert served.get("/v2/models/tiny")["platform"] == "onnx_encoder"
    assert {model["id"] for model in served.get("/v1/models")["data"]} == {"tiny", "fake"}


def test_encoders_alone_are_nobody_to_ask(manager, folder):
    manager.register("tiny", folder, "encoder")
    manager.start(real=True)
    with pytest.raises(OrchError, match="No model that answers prompts is registered"):
        manager.ask("x")


def test_several_encoders_have_to_be_named(served, folder):
    served.register("other", folder, "encoder")
    served.start(real=True)
    with pytest.raises(OrchError, match="There are several encoders") as caught:
        served.post("/v1/embeddings", {"input": "x"})
    assert "other, tiny" in caught.value.hint
    served.settings(DefaultModel="other")
    served.post("/orch/reload")
    assert served.post("/v1/embeddings", {"input": "x"})["model"] == "other"


def test_no_encoder_at_all(manager):
    manager.model()
    manager.start()
    with pytest.raises(OrchError, match="No encoder is registered") as caught:
        manager.post("/v1/embeddings", {"input": "x"})
    assert "nsorch model pull all-minilm-l6-v2" in caught.value.hint


@pytest.mark.parametrize(
    ("mode", "keys", "phase"),
    [
        ("dynamic", {}, "COLD"),
        ("timeout", {"IdleSec": "300ms"}, "COLD"),
        ("dummy-swap", {"IdleSec": "300ms"}, "PARKED"),
        # A model of a few kilobytes keeps more in private memory than could be given back: hibernate says so.
        ("hibernate", {"IdleSec": "300ms", "ForgetSec": "1h"}, "COLD"),
        ("persistent", {}, "HOT"),
    ],
)
def test_the_modes(served, mode, keys, phase):
    served.settings(Mode=mode)
    served.mode(mode, **keys)
    served.start(real=True)
    first = served.post("/v1/embeddings", {"input": "the cat"})["data"]
    status = served.wait_phase(phase, "tiny")
    assert status["runtime"] == "encoder"
    assert served.post("/v1/embeddings", {"input": "the cat"})["data"] == first
    served.wait_phase(phase, "tiny")


@pytest.mark.model
def test_minilm_hibernates(manager):
    asyncio.run(prepare(cache_dir(), tiny.minilm_folder()))  # a load waits for its first copy, but not for long
    manager.register("minilm", tiny.minilm_folder(), "encoder")
    manager.settings(Mode="hibernate")
    manager.mode("hibernate", IdleSec="300ms", ForgetSec="1h")
    manager.start(real=True)
    first = manager.post("/v1/embeddings", {"input": "the cat"})["data"]
    asleep = manager.wait_phase("HIBERNATED", "minilm")
    assert asleep["memory"]["pss"] < 90 << 20
    assert asleep["freed"]["before"] - asleep["freed"]["after"] > 20 << 20
    assert manager.post("/v1/embeddings", {"input": "the cat"})["data"] == first
    assert manager.wait_phase("HIBERNATED", "minilm")["pid"] == asleep["pid"]


def test_a_client_that_goes_away_stops_the_work(served):
    served.start(real=True)
    served.post("/v1/embeddings", {"input": "x"})
    body = json.dumps({"input": ["the cat sits outside in a new garden. " * 9] * 2048}).encode()
    client = served.client()
    client.reach()
    sock, client._ready = client._ready, None
    head = f"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    sender = threading.Thread(target=sock.sendall, args=(head + body,))
    sender.start()
    wait_until(lambda: served.status("tiny")["running"] == 1)
    sender.join()
    sock.close()
    wait_until(lambda: served.status("tiny")["running"] == 0)
    assert served.post("/v1/embeddings", {"input": "x"})["usage"]["prompt_tokens"] == 3


@given(st.text() | st.lists(st.text(max_size=2) | st.integers() | st.lists(st.integers(), max_size=3), max_size=5))
def test_inputs_are_read_or_refused(given_):
    alike = isinstance(given_, str) or len({type(item) for item in given_}) == 1
    numbers = isinstance(given_, list) and all(isinstance(item, int) for item in given_)
    if given_ and alike and (numbers or all(given_)):
        assert inputs_of(given_) == ([given_] if numbers or isinstance(given_, str) else given_)
    else:
        with pytest.raises(OrchError):
            inputs_of(given_)


@pytest.mark.model
def test_minilm_finds_the_sentence_that_was_meant(manager):
    manager.register("all-minilm-l6-v2", tiny.minilm_folder(), "encoder")
    manager.start(real=True)
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(manager.path)), timeout=100) as http:
        client = openai.OpenAI(base_url="http://localhost/v1", api_key="unused", http_client=http, max_retries=0)
        texts = [
            "How do I reset my password?",
            "I forgot my login.",
            "The soup needs more salt.",
            "Bananas are yellow.",
        ]
        answer = client.embeddings.create(model="all-minilm-l6-v2", input=texts)
    vectors = np.array([item.embedding for item in answer.data])
    likeness = vectors[0] @ vectors[1:].T
    assert likeness.argmax() == 0
    assert likeness[0] > likeness[1:].max() + 0.2
