"""What ``/api`` refuses, with which status and words, and what it takes though it changes nothing."""

from __future__ import annotations

import json

import ollama
import pytest

from tests.api.support_ollama import ABC, connected, raw, refused


@pytest.fixture
def client(manager):
    with connected(manager.path) as client:
        yield client


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
