"""The real ``ollama`` package against the activated socket; the models are fakes that repeat what they are told."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import httpx
import ollama
import pytest

from neuroshell_orch.api import tokens
from tests.api.support_oip import TwoSockets, exchange
from tests.support_daemon import wait_until
from tests.support_fake import fake_environment

ABC = [{"role": "user", "content": "alpha beta gamma"}]


def connected(manager):
    return ollama.Client(host="http://localhost", transport=httpx.HTTPTransport(uds=str(manager.path)), timeout=30)


@pytest.fixture
def client(manager):
    with connected(manager) as client:
        yield client


@pytest.fixture
def asynchronous(manager):
    def make():
        transport = httpx.AsyncHTTPTransport(uds=str(manager.path))
        return ollama.AsyncClient(host="http://localhost", transport=transport, timeout=30)

    return make


def raw(manager, method, path, body=None):
    status, headers, text = exchange(manager, method, path, b"" if body is None else json.dumps(body).encode())
    return status, headers, text


def refused(call, *arguments, **fields):
    with pytest.raises(ollama.ResponseError) as caught:
        call(*arguments, **fields)
    return caught.value.status_code, caught.value.error


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


def test_names_with_tags(manager, client):
    manager.model("fake-1b")
    manager.activate()
    for name in ("fake-1b", "fake-1b:latest", "fake:1b"):
        answer = client.generate(name, "a")
        assert (answer.model, answer.response) == (name, "a ")
    assert refused(client.generate, "fake", "a")[0] == 404
    assert refused(client.generate, "fake-1b:2b", "a")[0] == 404


# ---- loading and unloading ----


def test_an_empty_prompt_loads_and_with_keep_alive_0_unloads(manager, client):
    manager.model()
    manager.activate()
    loaded = client.generate("fake")
    assert (loaded.done, loaded.done_reason, loaded.response) == (True, "load", "")
    assert manager.phase() == "HOT"
    gone = client.generate("fake", keep_alive=0)
    assert (gone.done, gone.done_reason) == (True, "unload")
    assert manager.phase() == "COLD"
    assert client.ps().models == []
    chats = list(client.chat("fake", [], stream=True))
    assert [(chat.done_reason, chat.message.content) for chat in chats] == [("load", "")]
    assert client.chat("fake", keep_alive="0s").done_reason == "unload"


@pytest.mark.parametrize(("value", "seconds"), [("10m", 600), (90, 90), (90.5, 90.5), ("1h30m", 5400), ("45", 45)])
@pytest.mark.parametrize("prompt", ["", "a b"])
def test_keep_alive_in_all_its_forms(manager, client, value, seconds, prompt):
    manager.model()
    manager.activate()
    client.generate("fake", prompt, keep_alive=value)
    (model,) = client.ps().models
    left = (model.expires_at - datetime.now(UTC)).total_seconds()
    assert seconds - 20 < left <= seconds


def test_keep_alive_for_ever_and_not_at_all(manager, client):
    manager.model()
    manager.activate()
    client.generate("fake", "a", keep_alive=-1)
    (model,) = client.ps().models
    assert model.expires_at.year > 2300
    client.generate("fake", "a", keep_alive=0)
    manager.wait_phase("COLD")


@pytest.mark.parametrize(("policy", "unloads"), [("client", True), ("min", True), ("max", False), ("server", False)])
def test_the_service_may_have_the_last_word(manager, client, policy, unloads):
    manager.settings(KeepAlivePolicy=policy)
    manager.model()
    manager.activate()
    client.generate("fake", "a", keep_alive=-1)
    (model,) = client.ps().models
    assert (model.expires_at.year > 2300) == (policy in {"client", "max"})
    if unloads:
        assert client.generate("fake", keep_alive=0).done_reason == "unload"
    else:
        status, message = refused(client.generate, "fake", keep_alive=0)
        assert status == 403
        assert f"KeepAlivePolicy={policy}" in message
        assert manager.phase() == "HOT"


def test_ps_says_what_is_true(manager, client):
    manager.model(context_length=777, eat_mb=30)
    manager.register("other", manager.root / "other.json")
    manager.activate()
    assert client.ps().models == []
    client.generate("fake", "a")
    (model,) = client.ps().models
    status = manager.status()
    assert (model.name, model.model) == ("fake:latest", "fake:latest")
    assert model.size >= 30 << 20
    assert model.size == pytest.approx(status["memory"]["pss"], rel=0.2)
    assert (model.size_vram, model.context_length) == (0, 777)
    assert model.expires_at.timestamp() == pytest.approx(status["next_at"], abs=0.1)


def test_ps_during_an_answer(manager, client):
    manager.model(tokens=-1, delay=0.005)
    manager.activate()
    stream = client.generate("fake", "a", stream=True, keep_alive="2h")
    next(stream)
    (model,) = client.ps().models
    assert 7100 < (model.expires_at - datetime.now(UTC)).total_seconds() <= 7200
    stream.close()
    wait_until(lambda: not manager.status()["running"])


def test_num_ctx_never_loads_again(manager, client):
    manager.model(eat_mb=1)
    manager.activate()
    pids = set()
    for size in (None, 512, 4096, 512):
        client.generate("fake", "a b", options={} if size is None else {"num_ctx": size})
        pids.add(manager.status()["pid"])
    assert len(pids) == 1


# ---- tools ----

TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}]
CALL = '<tool_call> {"name": "add", "arguments": {"a": 1, "b": [NaN]}} </tool_call>'


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


# ---- errors ----


def test_errors_have_the_status_that_programs_look_at(manager, client):
    path = manager.model(load="fail")
    manager.register("tensors", path, "onnx")
    manager.start()
    for stream in (False, True):

        def ask(name, stream=stream):
            answer = client.chat(name, ABC, stream=stream)
            return list(answer) if stream else answer

        status, message = refused(ask, "nope")
        assert (status, "'nope' not found" in message) == (404, True)
        assert refused(ask, "tensors")[0] == 400
        status, message = refused(ask, "fake")
        assert status >= 422
        assert "does not want to" in message
    path.write_text('{"die_after": 1, "die": "kill"}')
    status, message = refused(lambda: list(client.chat("fake", ABC, stream=True)))
    assert (status, "SIGKILL" in message) == (-1, True), "it had begun, so it is a line of the stream"


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("generate", {}, "model is missing"),
        ("generate", {"model": "fake", "prompt": 3}, "prompt"),
        ("generate", {"model": "fake", "prompt": "a", "suffix": "b"}, "suffix"),
        ("generate", {"model": "fake", "prompt": "a", "template": "{{ .Prompt }}"}, "template"),
        ("generate", {"model": "fake", "prompt": "a", "context": [1]}, "context"),
        ("generate", {"model": "fake", "prompt": "a", "images": ["aGk="]}, "images"),
        ("generate", {"model": "fake", "images": ["aGk="]}, "images"),
        ("generate", {"model": "fake", "prompt": "a", "raw": True, "system": "s"}, "system with raw"),
        ("generate", {"model": "fake", "prompt": "a", "think": True}, "think"),
        ("generate", {"model": "fake", "prompt": "a", "think": "high"}, "think"),
        ("generate", {"model": "fake", "prompt": "a", "width": 5}, "width"),
        ("generate", {"model": "fake", "prompt": "a", "format": "xml"}, "format"),
        ("generate", {"model": "fake", "prompt": "a", "keep_alive": "soon"}, "keep_alive"),
        ("generate", {"model": "fake", "prompt": "a", "options": {"min_p": 0.1}}, "options.min_p"),
        ("generate", {"model": "fake", "prompt": "a", "options": {"mirostat": 2}}, "options.mirostat"),
        ("generate", {"model": "fake", "prompt": "a", "options": {"top_k": "4"}}, "options.top_k"),
        ("generate", {"model": "fake", "prompt": "a", "_debug_render_only": True}, "_debug_render_only"),
        ("chat", {"model": "fake", "messages": [{"role": "user", "content": "a", "images": ["b"]}]}, "images"),
        ("chat", {"model": "fake", "messages": [{"role": "robot", "content": "a"}]}, "role"),
        ("chat", {"model": "fake", "messages": [{"role": "tool", "content": "a"}]}, "answers no call"),
        ("chat", {"model": "fake", "messages": ABC, "tools": [{"type": "web"}]}, "tools"),
        ("create", {"model": "x", "from": "fake"}, "model add"),
        ("push", {"model": "fake"}, "not pushed"),
        ("embed", {"model": "fake", "input": "a"}, "no embeddings"),
        ("embeddings", {"model": "fake", "prompt": "a"}, "no embeddings"),
        ("show", {}, "model is missing"),
        ("copy", {"source": "fake"}, "name of a model"),
        ("copy", {"source": "fake", "destination": "../x"}, "cannot name a model"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(manager, path, body, words):
    manager.model()
    manager.start()
    status, _, text = raw(manager, "POST", f"/api/{path}", body)
    found = json.loads(text)
    assert status == 400
    assert words in found["error"]
    assert found["problem"]
    assert manager.phase() == "COLD"


def test_what_changes_nothing_is_taken(manager):
    manager.model()
    manager.start()
    body = {
        "model": "fake",
        "prompt": "a b",
        "stream": False,
        "think": False,
        "format": "",
        "context": [],
        "images": [],
        "suffix": "",
        "template": "",
        "system": "",
        "nobody_knows": 1,
        "options": {"num_gpu": 0, "num_thread": 2, "mirostat": 0, "typical_p": 1.0, "wonder": True, "top_k": 4.0},
    }
    status, _, text = raw(manager, "POST", "/api/generate", body)
    assert status == 200, text
    assert json.loads(text)["response"] == "a b "


# ---- models ----


def test_copy_and_delete(manager, client):
    path = manager.model(keys={"Threads": 1, "Description": "a fake"})
    manager.activate()
    assert client.copy("fake:latest", "twin:latest").status == "success"
    assert client.generate("twin", "a").response == "a "
    assert refused(client.copy, "fake", "twin")[0] == 409
    assert refused(client.copy, "nope", "x")[0] == 404
    assert "Threads=1" in (manager.config / "models.d" / "twin.conf").read_text()
    assert client.delete("twin").status == "success"
    assert refused(client.delete, "twin")[0] == 404
    assert path.exists(), "a file of one's own is never deleted"
    assert [model.model for model in client.list().models] == ["fake:latest"]
    wait_until(lambda: client.ps().models == [])


def test_models_that_write_no_text_are_not_listed(manager, client):
    manager.model()
    manager.register("tensors", manager.root / "x", "onnx")
    manager.register("gone", manager.root / "nowhere")
    manager.activate()
    listed = {model.model: model for model in client.list().models}
    assert set(listed) == {"fake:latest", "gone:latest"}
    assert (listed["gone:latest"].size, listed["gone:latest"].digest) == (0, "")
    assert client.show("gone").capabilities == ["completion", "tools"]
    assert refused(client.show, "tensors")[0] == 400


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


def test_a_client_that_leaves_frees_the_model(manager, client):
    manager.model(tokens=-1, delay=0.005)
    manager.start()
    for _ in range(3):
        stream = client.chat("fake", ABC, stream=True)
        next(stream)
        stream.close()
    wait_until(lambda: not manager.status()["running"])


def test_no_prompt_is_in_the_log(manager, client):
    path = manager.model(die_after=1)
    manager.start()
    for call in (
        lambda: client.generate("fake", "xyzzyprompt xyzzyword", system="xyzzysystem"),
        lambda: list(client.chat("fake", [{"role": "user", "content": "xyzzyprompt xyzzyword"}], stream=True)),
        lambda: client.generate("fake", "xyzzyprompt xyzzyword", options={"stop": [3], "xyzzy": 1}),
    ):
        with pytest.raises(ollama.ResponseError) as caught:
            call()
        assert "xyzzy" not in str(caught.value)
    assert path.exists()
    assert "xyzzy" not in manager.log.read_text()
