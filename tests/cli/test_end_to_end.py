"""The command line against the real daemon with fake models, behind a socket and without any service."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import numpy as np
import pytest
from support_cli import wait_until

from tests.support_daemon import Manager, alive
from tests.support_fake import fake_environment, fake_model


def family(pid):
    """A process's descendants."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return []
    return [int(child) for child in children] + [one for child in children for one in family(int(child))]


@pytest.fixture
def manager(nsorch, xdg):
    manager = Manager(xdg)
    manager.activate()
    yield manager
    manager.end()


def test_ask_wakes_the_service_and_ps_tells_what_it_did(nsorch, manager):
    manager.model()
    assert nsorch("ps", "--json").json[0]["reason"] == "the service sleeps"
    assert manager.starts == 0
    result = nsorch("ask", "what is the capital", "--stats")
    assert (result.code, result.out) == (0, "what is the capital \n")
    assert "fake: " in result.err
    assert "4 tokens" in result.err
    line = nsorch("ps").out.splitlines()[1].split()
    assert line[:3] == ["fake", "timeout", "HOT"]
    assert nsorch("status", "--json").json["running"] is True
    assert "COLD → loading" in nsorch("why", "fake").out
    assert manager.starts == 1


def test_modes_are_set_while_it_runs_and_while_it_sleeps(nsorch, manager):
    manager.model()
    (manager.config / "nsorch.conf").write_text("[Orchestrator]\nWorkerLauncher=child\nDefaultModel=fake\n")
    assert nsorch("mode", "set", "persistent").code == 0
    assert manager.starts == 0
    assert nsorch("ask", "hi").code == 0
    assert nsorch("ps", "--json").json[0]["mode"] == "persistent"
    assert nsorch("mode", "set", "dynamic").code == 0
    wait_until(lambda: nsorch("ps", "--json").json[0]["warmth"] == "COLD")
    assert [mode["name"] for mode in nsorch("mode", "list", "--json").json if mode["active"]] == ["dynamic"]


def test_asleep_and_awake_list_the_same_modes(nsorch, manager):
    manager.model()
    asleep = nsorch("mode", "list", "--json").json
    nsorch("ask", "hi")
    assert nsorch("mode", "list", "--json").json == asleep


def test_preload_and_unload(nsorch, manager):
    manager.model()
    assert nsorch("model", "preload", "fake").out.startswith("fake is HOT, ")
    assert nsorch("model", "unload", "fake").out.startswith("fake is COLD: ")


def test_removing_a_hot_model_is_taken_over(nsorch, manager):
    manager.model()
    nsorch("ask", "hi")
    assert nsorch("model", "rm", "fake").code == 0
    assert nsorch("ps", "--json").json == []


def test_infer(nsorch, manager, tmp_path):
    manager.model("square", runtime="onnx")
    result = nsorch("infer", "square", "x=1,2,3", "--json")
    assert result.code == 0, result
    assert result.json["outputs"]


def test_infer_with_what_json_has_no_number_for(nsorch, manager, tmp_path):
    manager.model("echo", runtime="onnx")
    values = np.array([np.nan, np.inf, -0.0, 1.5], np.float32)
    np.save(tmp_path / "x.npy", values.astype(">f4"))
    np.save(tmp_path / "big.npy", np.arange(6_000_000, dtype=np.int32).reshape(2, -1))
    out = tmp_path / "out.npz"
    words = [
        f"x=@{tmp_path}/x.npy",
        f"big=@{tmp_path}/big.npy",
        "b:BF16=1.5,-2,nan",
        "s=ä,b",
        "t:BOOL=true,false",
        "e=[]",
    ]
    result = nsorch("infer", "echo", *words, "-o", str(out))
    assert result.code == 0, result
    with np.load(out) as saved:
        assert saved["x"].tobytes() == values.tobytes()
        assert (saved["big"] == np.arange(6_000_000).reshape(2, -1)).all()
        assert (saved["b"][:2].tolist(), np.isnan(saved["b"][2])) == ([1.5, -2.0], True)
        assert (saved["s"].tolist(), saved["t"].tolist(), saved["e"].shape) == (["ä", "b"], [True, False], (0,))
    shown = nsorch("infer", "echo", words[0], "--json").json["outputs"][0]
    assert shown == {"name": "x", "datatype": "FP32", "shape": [4], "data": ["NaN", "Infinity", -0.0, 1.5]}


def test_ctrl_c_cancels_in_the_worker_and_the_next_ask_is_answered(nsorch, manager):
    manager.model(tokens=-1, delay=0.01)
    manager.model("short")
    process = nsorch.start("ask", "word")
    os.read(process.stdout.fileno(), 1)
    assert nsorch("ps", "--json").json[0]["running"] == 1
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    wait_until(lambda: nsorch("ps", "--json").json[0]["running"] == 0)
    assert nsorch("ask", "-m", "short", "one two").out == "one two \n"


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["ask", "-m", "nope", "hi"], 3, "nope"),
        (["why", "nope"], 3, "nope"),
        (["model", "preload", "nope"], 3, "nope"),
        (["infer", "nope", "x=1"], 3, "nope"),
        (["ask", "-m", "broken", "hi"], 4, "The fake model does not want to."),
        (["ask", "-m", "dies", "one two three"], 6, ""),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_goes_wrong_is_a_sentence_and_the_next_ask_is_answered(nsorch, manager, arguments, code, sentence):
    manager.model()
    manager.model("broken", load="fail")
    manager.model("dies", die_after=1)
    result = nsorch(*arguments)
    assert result.code == code, result
    assert sentence in result.err
    assert "Traceback" not in result.err
    lines = result.err.splitlines()
    assert len(lines) == len(set(lines)) <= 2
    assert nsorch("ask", "hi").out == "hi \n"


# ---- no service at all ----


@pytest.fixture
def alone(nsorch, xdg, monkeypatch):
    """No socket: each ask must bring its own service."""
    for name, value in fake_environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NSORCH_RUNTIMES", "genai=tests.workers.fake_runtime,onnx=tests.workers.fake_runtime")
    folder = nsorch.config / "models.d"
    folder.mkdir(parents=True)
    (nsorch.config / "nsorch.conf").write_text("[Orchestrator]\nDefaultModel=fake\n")
    knobs = {"fake": {}, "endless": {"tokens": -1, "delay": 0.01}, "broken": {"load": "fail"}}
    for name, settings in knobs.items():
        path = fake_model(xdg / f"{name}.json", **settings)
        (folder / f"{name}.conf").write_text(f"[Model]\nPath={path}\nRuntime=genai\n")
    yield nsorch
    assert not list((xdg / "home").iterdir()), "a private folder was left behind"
    assert not nsorch.run_dir.exists()


def test_without_a_service_ask_brings_its_own(alone):
    result = alone("ask", "one two")
    assert (result.code, result.out) == (0, "one two \n")
    assert result.err.count("\n") == 1
    assert result.err.startswith("nsorch: no running service; starting one for this command. `nsorch doctor`")


def test_a_stale_socket_counts_as_no_service(alone):
    alone.run_dir.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(alone.run_dir / "api.sock"))
    result = alone("ask", "one two")
    assert (result.code, result.out) == (0, "one two \n")
    (alone.run_dir / "api.sock").unlink()
    alone.run_dir.rmdir()


def test_an_error_comes_through_as_it_is(alone):
    result = alone("ask", "-m", "broken", "hi")
    assert (result.code, result.out) == (4, "")
    assert "The fake model does not want to." in result.err


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGKILL, -9)]
)
def test_however_it_ends_nothing_is_left_behind(alone, number, code):
    process = alone.start("ask", "-m", "endless", "hi")
    os.read(process.stdout.fileno(), 1)
    others = family(process.pid)
    assert len(others) >= 2, "the service and its worker"
    process.send_signal(number)
    assert process.wait(30) == code
    if number != signal.SIGKILL:
        assert not any(alive(pid) for pid in others), "it waited for the end of its service"
    wait_until(lambda: not any(alive(pid) for pid in others))
    wait_until(lambda: not list((alone.root / "home").iterdir()))


def test_without_a_model_the_way_to_one_is_told(alone):
    (alone.config / "nsorch.conf").unlink()
    for path in (alone.config / "models.d").iterdir():
        path.unlink()
    result = alone("ask", "hi")
    assert (result.code, result.out) == (3, "")
    assert "nsorch model pull smollm2-135m" in result.err


def test_several_at_once_do_not_meet(alone):
    running = [alone.start("ask", f"word{number}") for number in range(3)]
    for number, process in enumerate(running):
        out, _ = process.communicate(timeout=60)
        assert (process.returncode, out) == (0, f"word{number} \n".encode())


def test_a_chat_keeps_its_own_service_over_its_turns(alone):
    result = alone("chat", stdin=b"one\ntwo three\n")
    assert (result.code, result.out) == (0, "one \ntwo three \n")
    assert result.err.count("no running service") == 1


@pytest.mark.parametrize(
    ("manager_runs", "unit", "told"),
    [
        (False, False, "`nsorch doctor`"),
        (True, False, "`nsorch setup`"),
        (True, True, "`systemctl --user enable --now nsorch.socket`"),
    ],
)
def test_the_way_to_a_lasting_service_is_told(alone, monkeypatch, manager_runs, unit, told):
    if manager_runs:
        (alone.root / "run" / "systemd").mkdir()
        (alone.root / "run" / "systemd" / "private").touch()
        programs = alone.root / "programs"
        programs.mkdir()
        (programs / "systemctl").write_text("#!/bin/sh\nexit 1\n")
        (programs / "systemctl").chmod(0o755)
        monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    if unit:
        folder = alone.root / "config" / "systemd" / "user"
        folder.mkdir(parents=True)
        (folder / "nsorch.socket").touch()
    result = alone("ask", "hi")
    assert (result.code, result.out) == (0, "hi \n")
    assert told in result.err
