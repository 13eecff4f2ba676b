"""The commands that look and set: what each prints beside a running service, and that none wakes one that sleeps."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from neuroshell_orch import __version__
from neuroshell_orch.cli.root import COMMANDS
from neuroshell_orch.errors import PROBLEMS

LOOKING = [
    ["ps"],
    ["status"],
    ["why", "tiny"],
    ["mode", "list"],
    ["mode", "show", "timeout"],
    ["mode", "set", "timeout"],
    ["model", "list"],
    ["model", "show", "tiny"],
    ["model", "unload", "tiny"],
    ["model", "rm", "tiny"],
    ["config", "cat"],
    ["config", "show"],
    ["config", "check"],
    ["token", "list"],
    ["doctor"],
    ["help", "exit-codes"],
    ["setup", "--dry-run"],
    ["setup", "--remove", "--dry-run"],
]
WITH_SERVICE = [
    *LOOKING,
    ["ask", "hi"],
    ["infer", "tiny", "x=1"],
    ["model", "preload", "tiny"],
]


@pytest.fixture
def with_units(monkeypatch, models):
    """A world in which ``nsorch setup`` finds a program to start."""
    program = models.root / "home" / "nsorch"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return models


@pytest.mark.parametrize("arguments", WITH_SERVICE, ids=" ".join)
def test_json_parses_with_a_service(with_units, arguments):
    with_units.daemon()
    result = with_units(*arguments, "--json")
    assert result.code in (0, 1 if arguments == ["doctor"] else 0), result
    assert result.json is not None
    assert "\x1b" not in result.out + result.err


@pytest.mark.parametrize("arguments", LOOKING, ids=" ".join)
def test_json_parses_without_a_service(with_units, arguments):
    result = with_units(*arguments, "--json")
    assert result.code in (0, 1 if arguments == ["doctor"] else 0), result
    assert result.json is not None


@pytest.mark.parametrize("arguments", LOOKING, ids=" ".join)
def test_a_sleeping_service_sleeps_on(with_units, arguments):
    """The socket listens, as systemd's would, and the lock is free: nobody may connect."""
    with_units.run_dir.mkdir()
    (with_units.run_dir / "daemon.lock").touch()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(with_units.run_dir / "api.sock"))
        listener.listen()
        listener.setblocking(False)
        result = with_units(*arguments)
        assert result.code in (0, 1 if arguments == ["doctor"] else 0), result
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.parametrize("arguments", WITH_SERVICE, ids=" ".join)
def test_text_is_plain_where_nobody_sees_it(with_units, arguments):
    with_units.daemon()
    result = with_units(*arguments)
    assert "\x1b" not in result.out + result.err
    assert "Traceback" not in result.err
    assert result.out or result.err


def test_ps_is_a_table(nsorch):
    nsorch.daemon()
    head, line = nsorch("ps").out.splitlines()
    assert head.split() == ["NAME", "MODE", "WARMTH", "SINCE", "PID", "MEMORY", "NEXT", "FREED", "REASON"]
    assert line.split()[:3] == ["tiny", "timeout", "HOT"]
    assert "4242  128 MiB  COLD in " in line
    assert line.endswith("answered an ask")


def test_ps_asleep_says_cold(models):
    lines = models("ps").out.splitlines()
    assert [line.split()[:3] for line in lines[1:]] == [["other", "timeout", "COLD"], ["tiny", "timeout", "COLD"]]
    assert all("the service sleeps" in line for line in lines[1:])


def test_ps_without_models_says_what_to_do(nsorch):
    result = nsorch("ps")
    assert (result.code, result.out) == (0, "")
    assert "nsorch model pull smollm2-135m" in result.err


def test_status_and_why_tell_the_story(nsorch):
    nsorch.daemon(status={"warnings": ["a.conf:3: warning: odd"]})
    status = nsorch("status").out
    assert "pid 17" in status
    assert "warning: a.conf:3: warning: odd" in status
    why = nsorch("why", "tiny").out.splitlines()
    assert why[0] == "tiny is HOT: answered an ask"
    assert why[1] == "COLD in 5 min"
    assert why[2].endswith("COLD → HOT  an ask")


def test_mode_set_writes_the_file_and_tells_a_running_service(models):
    models.daemon(warnings=["x is odd"])
    result = models("mode", "set", "hibernate")
    assert (result.code, result.out, result.err) == (0, "The mode is hibernate.\n", "warning: x is odd\n")
    assert "Mode=hibernate" in (models.config / "nsorch.conf.d" / "50-mode.conf").read_text()
    assert [entry["path"] for entry in models.log()] == ["/orch/reload"]


def test_mode_set_asleep_counts_from_the_next_ask(models):
    result = models("mode", "set", "dynamic", "--model", "tiny")
    assert (result.code, result.out) == (0, "tiny is in mode dynamic, from the next ask on.\n")
    modes = {model["name"]: model["mode"] for model in models("ps", "--json").json}
    assert modes == {"tiny": "dynamic", "other": "timeout"}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["mode", "set", "turbo"], 3),
        (["mode", "show", "turbo"], 3),
        (["mode", "set", "timeout", "--model", "nope"], 3),
        (["model", "show", "nope"], 3),
        (["model", "rm", "nope"], 3),
        (["model", "unload", "nope"], 3),
        (["why", "nope"], 3),
        (["help", "nope"], 3),
        (["model", "preload", "tiny"], 5),
        (["frobnicate"], 2),
        (["mode", "frobnicate"], 2),
        (["infer", "tiny"], 2),
        (["infer", "tiny", "x"], 4),
        (["infer", "tiny", "x=@nope.npy"], 3),
        (["infer", "tiny", "x=[[1],[2,3]]"], 4),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_what_is_wrong_is_a_sentence_and_a_stable_exit_code(models, arguments, code):
    result = models(*arguments)
    assert (result.code, result.out) == (code, ""), result
    assert "Traceback" not in result.err
    assert result.err.strip()


def test_a_mistyped_command_gets_a_suggestion(nsorch):
    assert "Did you mean 'status'?" in nsorch("statsu").err


def test_a_service_of_another_version_is_told(nsorch):
    nsorch.daemon(status={"models": 3})
    result = nsorch("ps")
    assert result.code == 1
    assert "systemctl --user restart" in result.err


def test_help_lists_every_command_and_the_exit_codes(nsorch):
    out = nsorch("--help").out
    assert all(f"  {name} " in out for name in COMMANDS)
    assert "Exit codes: 0 done" in out
    for name in COMMANDS:
        result = nsorch(name, "--help")
        assert (result.code, result.err) == (0, "")
        assert "Usage: nsorch" in result.out


def test_every_problem_has_a_documented_exit_code(nsorch):
    rows = nsorch("help", "exit-codes", "--json").json
    told = {problem: row["code"] for row in rows for problem in row["problems"]}
    assert told == {name: kind.exit_code for name, kind in PROBLEMS.items()}


def test_version(nsorch):
    for arguments in (["--version"], ["--version", "ps"]):
        result = nsorch(*arguments)
        assert (result.code, result.out, result.err) == (0, f"nsorch {__version__}\n", "")


def test_config_check_names_file_and_line(models):
    file = models.config / "nsorch.conf"
    file.write_text("[Orchestrator]\nMode=turbo\nTypo=1\n")
    result = models("config", "check")
    assert result.code == 4
    assert f"{file}:2: error: Mode=turbo" in result.out
    assert f"{file}:3: warning: Typo=" in result.out
    assert models("config", "check", "--json").json["ok"] is False


def test_config_show_says_where_a_value_comes_from(models):
    lines = models("config", "show").out.splitlines()
    assert any(line.startswith("Model tiny") and str(models.config / "models.d") in line for line in lines)
    everything = models("config", "show", "--json").json
    assert {"section", "name", "key", "value", "source"} == set(everything[0])


def test_infer_sends_what_was_meant_and_saves_what_came(models, tmp_path):
    models.daemon(declared=[{"name": "ids", "datatype": "INT32", "shape": [-1]}])
    np.save(tmp_path / "x.npy", np.ones((2, 2), np.float32))
    out = tmp_path / "out.npz"
    words = [f"x=@{tmp_path}/x.npy", "ids=1,2,3", "m=[[1.5],[2]]", "f:FP64=1", "s=a,b"]
    result = models("infer", "tiny", *words, "-o", str(out))
    assert (result.code, result.out) == (0, ""), result
    sent = next(entry["body"]["inputs"] for entry in models.log() if entry["method"] == "POST")
    assert [(item["name"], item["datatype"], item["shape"]) for item in sent] == [
        ("x", "FP32", [2, 2]),
        ("ids", "INT32", [3]),
        ("m", "FP32", [2, 1]),
        ("f", "FP64", [1]),
        ("s", "BYTES", [2]),
    ]
    with np.load(out) as saved:
        assert saved["y"].tolist() == [[1.5, 2.5], [3.5, 4.5]]


def test_infer_without_a_file_prints_a_summary(models):
    models.daemon()
    lines = models("infer", "tiny", "x=1").out.splitlines()
    assert lines[1].split() == ["y", "float32", "2x2", "1.5,", "2.5,", "3.5,", "4.5"]


@pytest.mark.parametrize("name", ["no/folder/out.npz", "out.npy"])
def test_infer_leaves_nothing_where_it_cannot_write(models, tmp_path, name):
    models.daemon(outputs=[{"name": n, "shape": [1], "datatype": "INT64", "data": [1]} for n in "ab"])
    before = sorted(tmp_path.rglob("*"))
    result = models("infer", "tiny", "x=1", "-o", str(tmp_path / name))
    assert result.code in (4, 5)
    assert "Traceback" not in result.err
    assert [path for path in sorted(tmp_path.rglob("*")) if path not in before] == [models.run_dir / "log"]


def test_setup_and_remove_leave_a_home_as_it_was(with_units):
    home = with_units.root / "data"
    result = with_units("setup")
    assert result.code == 0, result
    written = sorted(path.name for path in home.rglob("nsorch*.s*"))
    assert written == ["nsorch-http.socket", "nsorch.service", "nsorch.socket"]
    assert with_units("setup", "--remove").code == 0
    assert not list(home.rglob("nsorch*.s*"))


def test_setup_dry_run_changes_nothing(with_units):
    result = with_units("setup", "--dry-run")
    assert "would write" in result.out
    assert not list(with_units.root.rglob("*.service"))


def test_doctor_says_what_is_missing_and_what_to_type(nsorch):
    result = nsorch("doctor")
    assert result.code == 1
    assert "missing  model" in result.out
    assert "→ nsorch model pull smollm2-135m" in result.out
    checks = {check["what"]: check for check in nsorch("doctor", "--json").json["checks"]}
    assert checks["python modules"]["state"] == "ok"


def test_doctor_is_content_with_a_model(models):
    (models.config / "nsorch.conf").write_text("[Orchestrator]\nDefaultModel=tiny\n")
    result = models("doctor")
    assert result.code == 0, result
    assert "Everything that an answer needs is there." in result.out


def test_model_rm_never_touches_files_of_your_own(models):
    result = models("model", "rm", "tiny")
    assert result.code == 0
    assert (models.root / "tiny.onnx").exists()
    assert f"{models.root / 'tiny.onnx'} stays" in result.out
    assert [model["name"] for model in models("model", "list", "--json").json] == ["other"]


@pytest.mark.parametrize(
    ("words", "cword", "expected"),
    [
        ("nsorch mode set h", 3, ["hibernate"]),
        ("nsorch why t", 2, ["tiny"]),
        ("nsorch ask -m o", 3, ["other"]),
        ("nsorch mode s", 2, ["show", "set"]),
        ("nsorch st", 1, ["status"]),
    ],
)
def test_the_shell_completes_names(models, words, cword, expected):
    env = {"_NSORCH_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(cword)}
    assert models(env=env).out.split() == expected


def test_completion_of_a_broken_configuration_is_silent(models):
    (models.config / "nsorch.conf").write_text("[Orch\x00")
    env = {"_NSORCH_COMPLETE": "complete_bash", "COMP_WORDS": "nsorch why ", "COMP_CWORD": "2"}
    result = models(env=env)
    assert (result.code, result.err) == (0, "")


def test_the_completion_script_can_be_printed(nsorch):
    for shell in ("bash", "zsh", "fish"):
        out = nsorch(env={"_NSORCH_COMPLETE": f"source_{shell}"}).out
        assert "_NSORCH_COMPLETE" in out


def test_ask_needs_neither_msgspec_nor_rich_nor_numpy(nsorch):
    nsorch.daemon()
    code = (
        "import sys; sys.argv = ['nsorch', 'ask', 'hi']\n"
        "from neuroshell_orch.cli.main import run\n"
        "try: run()\n"
        "except SystemExit: pass\n"
        "import json; print(json.dumps(sorted(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    )
    loaded = json.loads(done.stderr)
    heavy = {"msgspec", "rich", "numpy", "starlette", "uvicorn", "systemd", "onnx", "neuroshell_orch.config.load"}
    assert not heavy.intersection(loaded)
    assert done.stdout == "Paris is it.\n"
    assert Path(nsorch.run_dir).exists()


def test_version_needs_no_parser():
    code = (
        "import sys; sys.argv = ['nsorch', '--version']\n"
        "from neuroshell_orch.cli.main import run\n"
        "try: run()\n"
        "except SystemExit: pass\n"
        "assert not {'typer', 'socket', 'http', 'json'}.intersection(sys.modules), sorted(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_setup_leaves_a_package_its_own_units(tmp_path):
    from neuroshell_orch.cli.setup import packaged  # noqa: PLC0415 - the only test that needs it

    (tmp_path / "nsorch.socket").touch()
    assert packaged(Path("/usr/lib/nsorch/venv"), tmp_path)
    assert not packaged(Path("/home/alice/.local/pipx/venvs/neuroshell-orch"), tmp_path)
    assert not packaged(Path("/usr/lib/nsorch/venv"), tmp_path / "nowhere")
