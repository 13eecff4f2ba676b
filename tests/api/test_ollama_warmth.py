"""What the ``ollama`` package loads and unloads, how long models stay, and what ``ps`` says of them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tests.api.support_ollama import connected, refused
from tests.support_daemon import wait_until


@pytest.fixture
def client(manager):
    with connected(manager.path) as client:
        yield client


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
