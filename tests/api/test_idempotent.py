"""``Idempotency-Key``: what is sent twice is answered once, at the same time, afterwards and after a restart."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor

import httpx2 as httpx
import openai
import pytest

from neuroshell_orch.api.answers import IN_ALL, LARGEST, MOST, Answers
from neuroshell_orch.api.idempotency import ASKING
from neuroshell_orch.api.openapi_document import operations
from tests.api import test_tokens
from tests.api.test_tokens import both, call  # noqa: F401 - a fixture
from tests.support_daemon import chat, wait_until

CHAT = "/v1/chat/completions"


class Sent:
    """A request that has been sent, and its answer when somebody wants it."""

    def __init__(self, manager, path, body, **headers):
        self.connection = http.client.HTTPConnection("localhost", timeout=30)
        self.connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.connection.sock.settimeout(30)
        self.connection.sock.connect(str(manager.path))
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        self.connection.request("POST", path, json.dumps(body), names)

    def read(self):
        try:
            response = self.connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            self.connection.close()


def post(manager, path, body, key, **headers):
    return Sent(manager, path, body, Idempotency_Key=key, **headers).read()


def folder(manager):
    return manager.run_dir / "answers"


def restart(manager, how=signal.SIGKILL):
    manager.process.send_signal(how)
    manager.process.wait(20)
    manager.start()


BODIES = [
    (CHAT, chat("one two three")),
    (CHAT, chat("one two three", stream=True)),
    ("/v1/completions", {"prompt": "one two", "model": "fake"}),
    ("/v1/completions", {"prompt": "one two", "model": "fake", "stream": True}),
    ("/api/generate", {"prompt": "one two", "model": "fake"}),
    ("/api/chat", {"messages": [{"role": "user", "content": "one two"}], "model": "fake", "stream": False}),
    ("/v2/models/tensors/infer", {"inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "data": [1, 2]}]}),
]


@pytest.mark.parametrize(("path", "body"), BODIES)
def test_the_same_again_is_the_same_answer_also_after_the_daemon_was_killed(manager, path, body):
    manager.model()
    manager.model("tensors", "onnx")
    manager.start()
    status, headers, first = post(manager, path, body, "a-key")
    assert (status, headers["Idempotent-Replayed"]) == (200, None)
    for number in range(2):
        status, again, text = post(manager, path, body, "a-key", X_Request_Id=f"try-{number}")
        assert (status, text, again["Idempotent-Replayed"]) == (200, first, "true")
        assert again["Content-Type"] == headers["Content-Type"]
        assert again["X-Request-Id"] == f"try-{number}"
        if number == 0:
            restart(manager)
    assert {model["phase"] for model in manager.get("/orch/models")} == {"COLD"}  # nobody was asked
    other = post(manager, path, body, "another-key")[2]
    assert other != first or path.startswith("/v2")


def test_what_is_kept_is_the_owners_and_names_neither_key_nor_prompt(manager):
    manager.model(tokens=1)
    manager.start()
    post(manager, CHAT, chat("hello secretprompt"), "secretkey")
    (file,) = folder(manager).iterdir()
    assert folder(manager).stat().st_mode & 0o777 == 0o700
    assert file.stat().st_mode & 0o777 == 0o600
    text = file.read_bytes() + file.name.encode()
    assert b"hello" in text
    assert b"secretprompt" not in text
    assert b"secretkey" not in text
    assert "hello" not in manager.log.read_text()
    assert "secretkey" not in manager.log.read_text()


@pytest.mark.parametrize("stream", [False, True])
def test_a_second_request_joins_the_first(manager, stream):
    manager.model(tokens=60, delay=0.01)
    manager.start()
    body = chat("word", stream=stream)
    first = Sent(manager, CHAT, body, Idempotency_Key="k")
    wait_until(lambda: manager.status()["running"] == 1)
    others = [Sent(manager, CHAT, body, Idempotency_Key="k") for _ in range(3)]
    answers = [one.read() for one in [first, *others]]
    assert [status for status, *_ in answers] == [200] * 4
    assert len({text for *_, text in answers}) == 1
    assert [headers["Idempotent-Replayed"] for _, headers, _ in answers] == [None, "true", "true", "true"]


def test_the_answer_goes_on_while_anybody_listens_and_no_longer(manager):
    manager.model(tokens=-1, delay=0.005)
    manager.start()
    body = chat("word", stream=True)
    first = Sent(manager, CHAT, body, Idempotency_Key="k")
    response = first.connection.getresponse()
    second = Sent(manager, CHAT, body, Idempotency_Key="k")
    joined = second.connection.getresponse()
    begun = response.read(50)
    assert joined.read(50) == begun
    response.close()
    first.connection.close()
    for _ in range(50):
        assert joined.readline()
    assert manager.status()["running"] == 1
    joined.close()
    second.connection.close()
    wait_until(lambda: manager.status()["running"] == 0)
    assert not folder(manager).exists()  # it was never whole
    third = Sent(manager, CHAT, body, Idempotency_Key="k")
    fresh = third.connection.getresponse()
    assert (fresh.status, fresh.headers["Idempotent-Replayed"]) == (200, None)
    assert fresh.read(50) != begun
    fresh.close()
    third.connection.close()


def test_one_that_left_and_comes_back_at_once_is_answered(manager):
    """The usual retry: the first connection is given up, the second one comes while the first is being cancelled."""
    manager.model(tokens=20, delay=0.01)
    manager.start()
    body = chat("word")
    for number in range(5):
        first = Sent(manager, CHAT, body, Idempotency_Key=f"k{number}")
        wait_until(lambda: manager.status()["running"] == 1)
        first.connection.close()
        status, _headers, text = post(manager, CHAT, body, f"k{number}")
        assert (status, json.loads(text)["usage"]["completion_tokens"]) == (200, 20)


@pytest.mark.parametrize("path", [CHAT, "/api/chat", "/v2/models/tensors/infer"])
def test_another_request_with_the_same_key_is_refused(manager, path):
    bodies = {
        CHAT: [chat("a"), chat("b")],
        "/api/chat": [chat("a", model="fake"), chat("b", model="fake")],
        "/v2/models/tensors/infer": [
            {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [n]}]} for n in (1, 2)
        ],
    }
    for body in bodies.values():
        for one in body:
            one.pop("temperature", None)
    manager.model()
    manager.model("tensors", "onnx")
    manager.start()
    assert post(manager, path, bodies[path][0], "k")[0] == 200
    status, headers, text = post(manager, path, bodies[path][1], "k", X_Request_Id="mine")
    assert (status, headers["X-Request-Id"]) == (422, "mine")
    assert "used for another request" in text.decode()
    assert "key-reused" in text.decode()
    if path != CHAT:
        assert post(manager, CHAT, bodies[CHAT][0], "k")[0] == 422


def test_while_the_first_one_runs_too(manager):
    manager.model(tokens=-1, delay=0.005)
    manager.start()
    first = Sent(manager, CHAT, chat("a", stream=True), Idempotency_Key="k")
    wait_until(lambda: manager.status()["running"] == 1)
    assert post(manager, CHAT, chat("b", stream=True), "k")[0] == 422
    first.connection.close()


def test_what_failed_is_tried_again(manager):
    path = manager.model(die_after=2, tokens=5)
    manager.start()
    for body in (chat("a"), chat("a", stream=True)):
        post(manager, CHAT, body, "k")
        assert not folder(manager).exists()
    status, _headers, text = post(manager, "/api/chat", {**body, "model": "fake"} | {"temperature": None}, "j")
    assert not folder(manager).exists(), (status, text)
    path.write_text(json.dumps({"tokens": 5}))
    wait_until(lambda: post(manager, CHAT, chat("a"), "k")[0] == 200)
    assert post(manager, CHAT, chat("a"), "k")[1]["Idempotent-Replayed"] == "true"


@pytest.mark.parametrize("key", ["", "a b", "\xe9", "k" * 256])
def test_a_key_that_cannot_be(manager, key):
    manager.start()
    status, _headers, text = post(manager, CHAT, chat("a"), key.encode("latin-1"))
    assert (status, b"1 to 255 visible" in text) == (400, True)


def test_without_time_nothing_is_kept(manager):
    manager.settings(KeepAnswersSec="0")
    manager.model()
    manager.start()
    first = post(manager, CHAT, chat("a"), "k")
    second = post(manager, CHAT, chat("a"), "k")
    assert (first[0], second[0]) == (200, 200)
    assert second[1]["Idempotent-Replayed"] is None
    assert not folder(manager).exists()


def test_old_answers_go_by_themselves_also_those_of_an_earlier_daemon(manager):
    manager.settings(KeepAnswersSec="1s")
    manager.model()
    manager.start()
    post(manager, CHAT, chat("a"), "k")
    wait_until(lambda: not list(folder(manager).iterdir()))
    post(manager, CHAT, chat("a"), "k")
    (file,) = folder(manager).iterdir()
    manager.process.kill()
    manager.process.wait()
    os.utime(file, (1, 1))
    manager.start()
    wait_until(lambda: not file.exists())


def test_an_answer_that_is_too_long_is_given_and_not_kept(manager):
    manager.model(tokens=300)
    manager.start()
    body = chat("w" * 20_000, stream=True)
    with ThreadPoolExecutor(2) as pool:
        one, two = [pool.submit(post, manager, CHAT, body, "k") for _ in range(2)]
        results = [one.result(), two.result()]
    for status, _headers, text in results:
        assert status in {200, 422}
        assert status == 422 or text.endswith(b"data: [DONE]\n\n")
    assert any(status == 200 for status, *_ in results)
    assert not folder(manager).exists()


def test_a_key_belongs_to_its_token(both):  # noqa: F811
    body = chat("a b")
    secrets = [test_tokens.tokens.create(name, None, None) for name in ("one", "two")]
    names = {"idempotency_key": "k", "x_request_id": "mine"}
    answers = [call(both, "POST", CHAT, secret, body, **names) for secret in (*secrets, *secrets)]
    assert {headers["X-Request-Id"] for _, headers, _ in answers} == {"mine"}  # over TCP as over the unix socket
    assert [headers["Idempotent-Replayed"] for _, headers, _ in answers] == [None, None, "true", "true"]
    assert answers[0][2] == answers[2][2] != answers[1][2] == answers[3][2]
    assert post(both, CHAT, body, "k")[1]["Idempotent-Replayed"] is None


def test_the_openai_package_sends_it(manager):
    manager.model()
    manager.start()
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(manager.path))) as over:
        client = openai.OpenAI(base_url="http://localhost/v1", api_key="x", http_client=over)
        body = {"model": "fake", "messages": [{"role": "user", "content": "a b c"}]}
        header = {"extra_headers": {"Idempotency-Key": "k"}}
        first, second = [client.chat.completions.create(**body, **header) for _ in range(2)]
        assert first == second
        texts = [
            "".join(c.choices[0].delta.content or "" for c in client.chat.completions.create(**body, stream=True))
            for _ in range(2)
        ]
        assert texts == ["a b c "] * 2
        with pytest.raises(openai.UnprocessableEntityError, match="another request"):
            client.chat.completions.create(**body, seed=1, **header)


def test_the_description_says_where_it_is_understood():
    for _convention, operation in operations():
        path = operation.path.replace("{model}", "m").replace("{version}", "1")
        understood = operation.method == "POST" and ASKING.fullmatch(path) is not None
        assert understood == operation.replays, operation.path


# ---- the store ----


@pytest.fixture
def store(tmp_path):
    clock = [1e9]
    answers = Answers(tmp_path / "answers", lambda: clock[0])

    def put(name, body=b"x", keep=60.0):
        answers.put(name, b"asked", [(b"a", b"b")], body, keep)
        clock[0] += 0.001

    return answers, put, clock, tmp_path / "answers"


def test_it_is_bounded_by_count(store):
    answers, put, _clock, path = store
    for number in range(MOST + 10):
        put(f"{number:064x}")
    answers.sweep(60.0)
    assert len(list(path.iterdir())) == MOST
    assert answers.find(f"{0:064x}", 60.0) is None
    assert answers.find(f"{MOST + 9:064x}", 60.0).body == b"x"


def test_it_is_bounded_by_bytes(store):
    answers, put, _clock, path = store
    put("too-large", bytes(LARGEST + 1))
    assert not path.exists()
    for number in range(8):
        put(f"{number:064x}", bytes(LARGEST))
    assert sum(file.stat().st_size for file in path.iterdir()) <= IN_ALL
    assert answers.find(f"{7:064x}", 60.0) is not None


def test_it_is_bounded_by_time(store):
    answers, put, clock, path = store
    put("one")
    clock[0] += 59.0
    assert answers.find("one", 60.0) is not None
    clock[0] += 2.0
    assert answers.find("one", 60.0) is None
    assert answers.find("one", float("inf")) is not None
    put("two")
    assert [file.name for file in path.iterdir()] == ["two"]
    clock[0] -= 3600.0  # somebody set the clock back
    assert answers.find("two", 60.0) is None


def test_a_file_that_is_not_ours_is_no_answer(store):
    answers, put, _clock, path = store
    put("one")
    (path / "two").write_bytes(b"\xc1 not msgpack")
    (path / "three").write_bytes((path / "one").read_bytes()[:-1])
    (path / "four").symlink_to(path / "one")
    assert [answers.find(name, 60.0) is None for name in ("one", "two", "three", "four", "five")] == [
        False,
        *[True] * 4,
    ]


def test_where_nothing_can_be_written_the_journal_says_so(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    Answers(tmp_path / "file" / "answers").put("one", b"", [], b"", 60.0)
    assert "could not be kept" in capsys.readouterr().err
