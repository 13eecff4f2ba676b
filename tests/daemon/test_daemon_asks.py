"""Asks against the real daemon: answered once, whatever happens to models, workers and clients meanwhile."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from contextlib import closing

import pytest

from neuroshell_orch.client import connect
from neuroshell_orch.errors import OrchError
from tests.support_daemon import alive, chat, wait_until


def problem_of(function, *arguments, **fields):
    with pytest.raises(OrchError) as caught:
        function(*arguments, **fields)
    assert caught.value.message
    return caught.value


def test_an_ask_is_answered_and_the_model_stays_hot(manager):
    manager.model()
    manager.start()
    assert manager.phase() == "COLD", "looking does not wake a model"
    assert manager.ask("one two three").split() == ["one", "two", "three"]
    status = manager.status()
    assert (status["phase"], status["wanted"], status["next_warmth"]) == ("HOT", "HOT", "COLD")
    assert alive(status["pid"])
    assert status["memory"]["pss"] > 1 << 20, "read from the kernel"


def test_a_stream_arrives_piece_by_piece_and_ends_with_usage(manager):
    manager.model(tokens=5)
    manager.start()
    events = list(manager.stream("a b", stream_options={"include_usage": True}))
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(e["choices"][0]["delta"].get("content", "") for e in events if e["choices"]).split() == list("ababa")
    assert [e["choices"][0]["finish_reason"] for e in events if e["choices"]][-1] == "stop"
    assert events[-1]["usage"]["completion_tokens"] == 5
    assert events[-1]["timings"]["load_seconds"] >= 0


def test_two_models_are_hot_together_in_processes_of_their_own(manager):
    manager.model("fake")
    manager.model("other")
    manager.start()
    manager.ask("x", model="fake")
    manager.ask("x", model="other")
    one, two = manager.status("fake"), manager.status("other")
    assert (one["phase"], two["phase"]) == ("HOT", "HOT")
    assert one["pid"] != two["pid"]


def test_asks_queue_up_and_each_gets_its_own_answer(manager):
    manager.model(delay=0.01)
    manager.start()
    answers = {}

    def ask(word):
        answers[word] = manager.ask(word).strip()

    threads = [threading.Thread(target=ask, args=(f"w{n}",)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {f"w{n}": f"w{n}" for n in range(12)}


def test_a_full_queue_refuses_and_says_when_to_come_back(manager):
    manager.settings(MaxQueue=1, StopTimeoutSec="200ms")
    manager.model(tokens=-1, delay=0.01)
    manager.start()
    first = manager.stream()
    next(first)
    waiting = threading.Thread(target=problem_of, args=(manager.ask,))
    waiting.start()
    wait_until(lambda: manager.status()["waiting"] == 1)
    assert problem_of(manager.ask).problem == "queue-full"
    manager.process.terminate()
    list_until_error(first)
    waiting.join()


def list_until_error(events):
    try:
        return list(events)
    except OrchError as error:
        return error


def test_a_client_that_leaves_stops_the_worker_and_the_next_is_served(manager):
    manager.model(tokens=-1, delay=0.005)
    manager.start()
    answer = manager.stream()
    next(answer)
    next(answer)
    pid = manager.status()["pid"]
    answer.close()
    wait_until(lambda: manager.status()["running"] == 0)
    second = manager.stream()
    next(second)
    assert manager.status()["pid"] == pid, "the same worker goes on"
    second.close()


def test_a_client_that_leaves_while_the_model_loads_cancels_the_load(manager):
    manager.model(load_seconds=60)
    manager.start()
    client = manager.client()
    with pytest.raises(OrchError):
        client.call("POST", "/v1/chat/completions", chat("x"), 0.5)
    wait_until(lambda: manager.phase() == "COLD")


def test_an_answer_that_does_not_stop_costs_its_worker_and_nobody_else(manager):
    manager.model(tokens=-1, delay=0.005, ignore_cancel=True)
    manager.start()
    answer = manager.stream()
    next(answer)
    pid = manager.status()["pid"]
    answer.close()
    wait_until(lambda: not alive(pid))
    assert next(manager.stream())["object"] == "chat.completion.chunk"


@pytest.mark.parametrize(("how", "words"), [("kill", "SIGKILL"), ("segv", "SIGSEGV"), ("exit", "exit code 3")])
def test_a_worker_that_dies_in_the_middle_is_one_typed_error_and_the_next_ask_works(manager, how, words):
    path = manager.model(die_after=2, die=how, tokens=10)
    manager.start()
    error = problem_of(lambda: list(manager.stream()))
    assert error.problem == "worker-died"
    assert words in str(error)
    error = problem_of(manager.ask)
    assert error.problem == "worker-died"
    path.write_text("{}")
    assert manager.ask("fine") == "fine "


@pytest.mark.parametrize("how", ["fail", "exit", "segv", "kill"])
def test_a_load_that_fails_is_a_typed_error_and_the_daemon_lives(manager, how):
    path = manager.model(load=how)
    manager.start()
    error = problem_of(manager.ask)
    assert error.kind.exit_code in {4, 6}
    assert error.message
    path.write_text("{}")
    assert manager.ask("fine") == "fine "


def test_a_load_that_hangs_is_given_up_after_its_timeout(manager):
    manager.model(load="hang", keys={"LoadTimeoutSec": "500ms"})
    manager.start()
    began = time.monotonic()
    error = problem_of(manager.ask)
    assert error.problem == "load-timeout"
    assert "LoadTimeoutSec=0.5 s" in error.message
    assert time.monotonic() - began < 10
    wait_until(lambda: manager.phase() == "COLD")


def test_unknown_and_missing_models(manager):
    manager.start()
    assert problem_of(manager.ask).problem == "no-model"
    assert problem_of(manager.ask, model="nope").problem == "model-unknown"
    assert problem_of(manager.status, "nope").problem == "model-unknown"


def test_the_wrong_api_for_a_model_says_which_one(manager):
    manager.model("tensors", runtime="onnx")
    manager.start()
    error = problem_of(manager.ask, model="tensors")
    assert error.problem == "unsupported"
    assert "nsorch infer tensors" in error.hint


BAD = [
    ({"messages": []}, "empty-prompt"),
    ({"messages": [{"role": "user", "content": "   "}]}, "empty-prompt"),
    ({}, "bad-request"),
    ({"messages": "hello"}, "bad-request"),
    ({"messages": [{"role": "user", "content": "a\0b"}]}, "bad-request"),
    ({"messages": [{"role": "wizard", "content": "x"}]}, "bad-request"),
    ({"messages": [{"role": "user", "content": "x"}], "temperature": 9}, "bad-request"),
    ({"messages": [{"role": "user", "content": "x"}], "max_tokens": 0}, "bad-request"),
    ({"messages": [{"role": "user", "content": "x"}], "audio": {}}, "unsupported"),
    ({"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "custom"}]}, "unsupported"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "unsupported"),
]


def test_bad_requests_name_what_is_wrong_and_never_reach_a_worker(manager):
    manager.model()
    manager.start()
    for body, problem in BAD:
        assert problem_of(manager.post, "/v1/chat/completions", body).problem == problem, body
    assert problem_of(manager.get, "/v1/nothing").problem == "not-found"
    assert problem_of(manager.post, "/orch/status").problem == "bad-request", "changes are never made to look like it"
    assert manager.phase() == "COLD"


def test_prompts_and_answers_reach_no_log(manager):
    manager.model(die_after=3, die="segv", tokens=10)
    manager.start()
    problem_of(manager.ask, "xyzzy-secret")
    problem_of(manager.post, "/v1/chat/completions", {"messages": [{"role": "xyzzy", "content": ["xyzzy"]}]})
    assert "xyzzy" not in manager.log.read_text()


def test_preload_and_unload(manager):
    manager.mode("dynamic")
    manager.settings(Mode="dynamic")
    manager.model()
    manager.start()
    assert manager.post("/orch/models/fake/preload")["phase"] == "HOT"
    assert manager.status()["reason"].startswith("loaded in")
    status = manager.post("/orch/models/fake/unload")
    assert status["phase"] == "COLD"
    assert status["freed"]["after"] == 0
    assert status["freed"]["before"] > 1 << 20
    assert manager.post("/orch/models/fake/unload")["phase"] == "COLD", "once more does no harm"
    manager.model("broken", load="fail")
    manager.post("/orch/reload")
    assert problem_of(manager.post, "/orch/models/broken/preload").kind.exit_code in {4, 6}


def test_workers_die_with_a_daemon_that_is_killed(manager):
    manager.model(tokens=-1, delay=0.01)
    manager.start()
    answer = manager.stream()
    next(answer)
    pid = manager.status()["pid"]
    manager.process.kill()
    assert problem_of(list, answer).problem == "service-unreachable"
    wait_until(lambda: not alive(pid), 1.0)


def test_a_stopped_worker_is_noticed_by_its_cancel_and_replaced(manager):
    manager.model(tokens=-1, delay=0.005)
    manager.start()
    answer = manager.stream()
    next(answer)
    pid = manager.status()["pid"]
    os.kill(pid, signal.SIGSTOP)
    answer.close()
    wait_until(lambda: not alive(pid))
    assert next(manager.stream())["object"] == "chat.completion.chunk"


def request_of(text):
    body = json.dumps(chat(text)).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def retry_after(manager):
    """Status and Retry-After of one ask."""
    with connect(manager.path) as client:
        client.settimeout(20)
        client.sendall(request_of("hi"))
        text = b""
        while chunk := client.recv(65536):
            text += chunk
    lines = text.partition(b"\r\n\r\n")[0].decode().lower().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:])
    return int(lines[0].split()[1]), headers.get("retry-after")


def test_a_load_that_failed_says_when_to_come_back(manager):
    manager.model(load="exit")
    manager.start()
    assert retry_after(manager) == (503, "10")
    status, seconds = retry_after(manager)
    assert status == 503
    assert 1 <= int(seconds) <= 10, "not tried again before that"


def test_a_full_queue_says_when_to_come_back(manager):
    manager.settings(MaxQueue=1)
    manager.model(tokens=-1, delay=0.01)
    manager.start()
    with closing(manager.stream("endless")) as running, connect(manager.path) as waiting:
        next(running)
        waiting.sendall(request_of("waits"))
        wait_until(lambda: manager.status()["waiting"] == 1)
        assert retry_after(manager) == (429, "2")
