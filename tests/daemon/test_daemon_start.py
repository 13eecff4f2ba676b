"""The head start: a daemon begins with the worker that the last one needed, and takes it back where that was wrong."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from tests.support_daemon import alive, wait_until

USED, USELESS = "fake: the worker started ahead is used", "the worker started ahead is of no use"


@pytest.fixture
def slept(manager):
    """A daemon has answered and left."""
    manager.settings(IdleExitSec="100ms", Mode="dynamic", LogLevel="debug")
    manager.model()
    manager.model("other", tokens=1)
    manager.activate()
    assert manager.ask("one") == "one "
    wait_until(lambda: manager.process.poll() == 0)
    assert note(manager).exists()
    assert "ahead" not in manager.log.read_text()
    return manager


def note(manager):
    return manager.root / "state" / "nsorch" / "likely-service"


def workers(manager):
    try:
        return Path(f"/proc/{manager.process.pid}/task/{manager.process.pid}/children").read_text().split()
    except FileNotFoundError:
        return []


def test_the_next_ask_finds_its_worker_started(slept):
    assert slept.ask("two") == "two "
    assert USED in slept.log.read_text()
    assert slept.starts == 2
    wait_until(lambda: slept.process.poll() == 0)
    assert slept.ask("three", model="fake") == "three "
    assert slept.log.read_text().count(USED) == 2


def test_who_only_looks_sees_no_load_and_the_worker_goes(slept):
    slept.settings(IdleExitSec="1h", Mode="dynamic", LogLevel="debug")
    slept.ask("two")
    slept.process.terminate()
    slept.process.wait()
    assert slept.status()["phase"] == "COLD"
    started = workers(slept)  # on a slow machine it may be gone already
    assert len(started) <= 1
    assert (slept.status()["pid"], slept.status()["reason"]) == (None, "nobody has asked")
    wait_until(lambda: "fake: the worker started ahead was not wanted and is gone" in slept.log.read_text())
    assert not workers(slept)
    assert not any(map(alive, started))
    assert slept.ask("four") == "four "


def test_another_model_gets_its_own_worker_and_the_other_one_is_gone(slept):
    assert slept.ask("words", model="other") == "words "
    assert USELESS in slept.log.read_text()
    assert note(slept).exists()
    wait_until(lambda: slept.process.poll() == 0)
    assert slept.ask("more words", model="other") == "more "
    assert "other: the worker started ahead is used" in slept.log.read_text()


@pytest.mark.parametrize("change", ["configuration", "model", "garbage", "gone"])
def test_a_note_that_no_longer_holds_starts_nothing(slept, change):
    if change == "configuration":
        slept.settings(IdleExitSec="100ms", Mode="timeout", LogLevel="debug")
    elif change == "model":
        slept.model(tokens=1)
    elif change == "garbage":
        note(slept).write_bytes(b"\xff\0" * 300)
    else:
        note(slept).unlink()
    assert slept.ask("two words") == ("two " if change == "model" else "two words ")
    assert "ahead" not in slept.log.read_text()


def test_a_load_that_fails_ahead_is_told_as_ever(slept):
    text = note(slept).read_text()
    slept.model(load="fail")
    lines = text.split("\n")
    # As if the note had been left by a daemon that saw this file: its stamps are not what is tested here.
    note(slept).write_text("\n".join([*lines[:8], ""]))
    answer = slept.client()
    with pytest.raises(Exception, match="does not want to"):
        answer.call("POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]})
    assert USED in slept.log.read_text()


def test_whoever_connects_and_says_nothing_is_served_when_he_speaks(slept):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as silent:
        silent.connect(str(slept.path))
        assert slept.ask("two") == "two "
        silent.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert silent.recv(1000).startswith(b"HTTP/1.1 200")


def test_the_timeline_is_a_comment_for_who_wants_it(slept):
    told = []
    body = {"messages": [{"role": "user", "content": "a secret"}], "stream": True}
    events = slept.client().events(
        "/v1/chat/completions", body, headers={"X-Nsorch-Trace": "1"}, on_comment=told.append
    )
    assert [event for event in events if event["choices"]]
    marks = [json.loads(text.removeprefix(b"timeline ")) for text in told if text.startswith(b"timeline ")]
    assert len(marks) == 1
    service, worker = marks[0]["service"], marks[0]["worker"]
    assert service["exec"] < service["ahead"] < service["ready"] < service["first"]
    assert service["exec"] < worker["exec"] < worker["ready"] < worker["runtime"] < worker["loaded"] < service["first"]
    assert "secret" not in str(told)


def test_nobody_else_hears_of_it(slept):
    told = []
    body = {"messages": [{"role": "user", "content": "x"}], "stream": True}
    assert list(slept.client().events("/v1/chat/completions", body, on_comment=told.append))
    assert not [text for text in told if text.startswith(b"timeline")]


def test_a_model_that_no_longer_fits_leaves_no_note(slept):
    slept.settings(IdleExitSec="1h", Mode="dynamic", LogLevel="debug")
    slept.ask("two")  # this daemon has measured what the model takes
    slept.settings(IdleExitSec="100ms", Mode="dynamic", MemoryBudget="1M", LogLevel="debug")
    slept.post("/orch/reload")
    wait_until(lambda: slept.process.poll() == 0)
    assert not note(slept).exists()
