"""``/api/embed`` and ``/api/embeddings`` with the ``ollama`` package; the encoder's vectors can be foretold."""

from __future__ import annotations

import httpx
import ollama
import pytest

from tests.api.support_ollama import connected, refused
from tests.support_fake import fake_environment


@pytest.fixture
def client(manager):
    manager.environment = fake_environment() | {
        "NSORCH_RUNTIMES": "genai=tests.workers.fake_runtime,encoder=tests.api.fake_encoder"
    }
    manager.model("enc", "encoder", context_length=4)
    manager.model("fake")
    manager.activate()
    with connected(manager.path) as client:
        yield client


def test_one_text_and_many(client):
    one = client.embed("enc:latest", "a bc")
    assert (one.model, one.embeddings) == ("enc:latest", [[4, 2, 1]])
    assert one.total_duration > one.load_duration > 0
    assert one.prompt_eval_count == 2
    many = client.embed("enc", ["a", "b c d", ""])
    assert many.embeddings == [[1, 1, 1], [5, 3, 1], [0, 0, 1]]
    assert (many.prompt_eval_count, many.load_duration) == (4, 0)
    assert client.embeddings("enc", "a bc").embedding == [4, 2, 1]


@pytest.mark.anyio
async def test_the_asynchronous_client(client, manager):
    transport = httpx.AsyncHTTPTransport(uds=str(manager.path))
    async with ollama.AsyncClient(host="http://localhost", transport=transport) as other:
        assert (await other.embed("enc", "a")).embeddings == [[1, 1, 1]]


def test_no_text_loads_and_keep_alive_counts(client, manager):
    assert client.embed("enc", "", keep_alive="10m").embeddings == []
    assert manager.phase("enc") == "HOT"
    assert client.embed("enc", []).embeddings == []
    assert client.embeddings("enc", "").embedding == []
    assert client.generate("enc", keep_alive=0).done_reason == "unload"
    assert client.generate("enc").done_reason == "load"
    client.embed("enc", "a", keep_alive=0)
    manager.wait_phase("COLD", "enc")


def test_fields(client):
    assert client.embed("enc", "a b", dimensions=2).embeddings == [[3, 2]]
    assert client.embed("enc", "a b c d e f").embeddings == [[11, 4, 1]]
    assert refused(client.embed, "enc", "a b c d e f", truncate=False)[0] == 400
    assert client.embed("enc", "a b", options={"num_ctx": 8192, "min_p": 0.5}).embeddings == [[3, 2, 1]]
    status, message = refused(client.embed, "enc", "a b c", options={"num_ctx": 2})
    assert (status, "options.num_ctx" in message) == (400, True)
    assert refused(client.embed, "enc", ["a"] * 2049)[0] == 400
    assert refused(client.embed, "enc", "a\0b")[0] == 400
    assert refused(client.embed, "nope", "a")[0] == 404
    assert "no embeddings" in refused(client.embed, "fake", "a")[1]
    assert "vectors" in refused(client.chat, "enc", [{"role": "user", "content": "a"}])[1]


def test_encoders_are_listed(client):
    client.embed("enc", "a")
    assert {model.model for model in client.list().models} == {"enc:latest", "fake:latest"}
    assert [model.model for model in client.ps().models] == ["enc:latest"]
    assert client.show("enc").capabilities == ["embedding"]
