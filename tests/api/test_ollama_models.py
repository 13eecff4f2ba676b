"""The names and the list of models, as the ``ollama`` package sees and changes them."""

from __future__ import annotations

import pytest

from tests.api.support_ollama import connected, refused
from tests.support_daemon import wait_until


@pytest.fixture
def client(manager):
    with connected(manager.path) as client:
        yield client


def test_names_with_tags(manager, client):
    manager.model("fake-1b")
    manager.activate()
    for name in ("fake-1b", "fake-1b:latest", "fake:1b"):
        answer = client.generate(name, "a")
        assert (answer.model, answer.response) == (name, "a ")
    assert refused(client.generate, "fake", "a")[0] == 404
    assert refused(client.generate, "fake-1b:2b", "a")[0] == 404


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
