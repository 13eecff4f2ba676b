"""A client that leaves frees the model, whatever convention it spoke and however far its answer was."""

from __future__ import annotations

import http.client
import json

import pytest

from neuroshell_orch.errors import OrchError
from tests.api.test_idempotent import Sent
from tests.api.test_tokens import both, call, tokens  # noqa: F401 - a fixture
from tests.support_daemon import Manager, chat, wait_until

CHAT = "/v1/chat/completions"
MESSAGES = chat("a b")["messages"]
TENSOR = {"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}

REQUESTS = [
    ("fake", CHAT, {"messages": MESSAGES}),
    ("fake", CHAT, {"messages": MESSAGES, "stream": True}),
    ("fake", CHAT, {"messages": MESSAGES, "stream": True, "n": 3}),
    ("fake", "/v1/completions", {"prompt": "a"}),
    ("fake", "/v1/completions", {"prompt": "a", "stream": True}),
    ("encoder", "/v1/embeddings", {"model": "encoder", "input": "a"}),
    ("tensors", "/v2/models/tensors/infer", {"inputs": [TENSOR]}),
    ("fake", "/api/generate", {"model": "fake", "prompt": "a"}),
    ("fake", "/api/generate", {"model": "fake", "prompt": "a", "stream": False}),
    ("fake", "/api/chat", {"model": "fake", "messages": MESSAGES}),
    ("fake", "/api/chat", {"model": "fake", "messages": MESSAGES, "stream": False}),
    ("encoder", "/api/embed", {"model": "encoder", "input": "a"}),
    ("encoder", "/api/embeddings", {"model": "encoder", "prompt": "a"}),
]


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    """A daemon whose models never come to an end by themselves, and whose clients may read one stream at once."""
    root = tmp_path_factory.mktemp("endless")
    patch = pytest.MonkeyPatch()
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"):
        folder = root / {"XDG_RUNTIME_DIR": "run", "XDG_CONFIG_HOME": "config"}.get(name, name.lower())
        folder.mkdir(mode=0o700)
        patch.setenv(name, str(folder))
    manager = Manager(root)
    fake = "tests.workers.fake_runtime"
    manager.environment = {"NSORCH_RUNTIMES": f"genai={fake},onnx={fake},encoder=tests.api.fake_encoder"}
    manager.settings(MaxStreams="1")
    for name, runtime in (("fake", "genai"), ("encoder", "encoder"), ("tensors", "onnx")):
        manager.model(name, runtime, tokens=-1, delay=0.005)
    manager.start()
    yield manager
    manager.end()
    patch.undo()
    log = manager.log.read_text()
    assert "Traceback" not in log
    assert "never retrieved" not in log


def idle(manager, name):
    status = manager.status(name)
    return status["running"] + status["waiting"] == 0 and status


@pytest.mark.parametrize("key", [None, "a-key"])
@pytest.mark.parametrize(("model", "path", "body"), REQUESTS)
def test_the_worker_stops_and_goes_on_with_the_next(endless, model, path, body, key):
    pids = set()
    for _ in range(2):
        headers = {"Idempotency_Key": key} if key else {}
        sent = Sent(endless, path, body, **headers)
        wait_until(lambda: endless.status(model)["running"] >= 1)
        if body.get("stream", path.startswith("/api/") and model == "fake"):
            assert sent.connection.getresponse().read1(10)
        sent.connection.close()
        status = wait_until(lambda: idle(endless, model))
        assert status["phase"] == "HOT"
        pids.add(status["pid"])
    assert len(pids) == 1, "a worker that stops when it is told to is not replaced"


@pytest.mark.parametrize("path", [path for _, path, body in REQUESTS if body.get("stream")])
def test_a_seat_is_given_back(endless, path):
    body = next(body for _, its, body in REQUESTS if its == path and body.get("stream"))
    for _ in range(3):
        sent = Sent(endless, path, body)
        sent.connection.getresponse()
        with pytest.raises(OrchError, match="reads 1 streams already"):
            endless.post(path, body)
        sent.connection.close()
        wait_until(lambda: idle(endless, "fake"))


def test_over_tcp_too(both):  # noqa: F811
    both.model("other", tokens=-1, delay=0.005)
    secret = tokens.create("one", None, None)
    status, _headers, _text = call(both, "POST", CHAT, secret, chat("a"))
    assert status == 200
    connection = http.client.HTTPConnection("127.0.0.1", both.port, timeout=20)
    try:
        body = json.dumps(chat("a", stream=True, model="other"))
        connection.request("POST", CHAT, body, {"Authorization": f"Bearer {secret}"})
        assert connection.getresponse().read1(10)
        assert both.status("other")["running"] == 1
    finally:
        connection.close()
    wait_until(lambda: idle(both, "other"))
