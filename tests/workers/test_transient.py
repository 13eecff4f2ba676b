"""SystemdLauncher: against a real user manager, started for these tests alone."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from neuroshell_orch.errors import OrchError
from neuroshell_orch.workers import transient, unit
from neuroshell_orch.workers.launch import ChildLauncher, WorkerSpec, choose_launcher, connect_systemd
from neuroshell_orch.workers.process import Worker
from tests.support_fake import ROOT, fake_environment
from tests.workers.conftest import World, ask, read, until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def systemd_world(manager, tmp_path):
    launcher = await connect_systemd()
    yield World(tmp_path, launcher)
    await launcher.close()


def show(name, *properties):
    command = ["systemctl", "--user", "show", name, *(f"--property={p}" for p in properties)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return dict(line.split("=", 1) for line in lines)


def active_units():
    command = ["systemctl", "--user", "list-units", "--all", "--plain", "--no-legend", "nsorch-worker-*"]
    return [
        line.split()[0]
        for line in subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    ]


async def test_a_worker_is_a_sandboxed_service_that_answers(systemd_world):
    async with systemd_world.loaded() as worker:
        assert worker.unit == f"nsorch-worker-fake-{worker.number}.service"
        status = Path(f"/proc/{worker.pid}/status").read_text()
        assert "NoNewPrivs:\t1" in status
        assert "Seccomp:\t2" in status
        assert Path(f"/proc/{worker.pid}/oom_score_adj").read_text().strip() == "500"
        assert " 0 " in next(
            line for line in Path(f"/proc/{worker.pid}/limits").read_text().splitlines() if "core file" in line
        )
        ours, theirs = (os.readlink(f"/proc/{who}/ns/net") for who in ("self", worker.pid))
        assert ours != theirs
        assert show(worker.unit, "Slice")["Slice"] == "background-nsorch.slice"
        assert (await read(ask(worker, "a b")))[0] == "a b "
        assert worker.memory().pss > 1 << 20
    assert worker.unit not in active_units()


async def test_it_cannot_write_and_cannot_reach_the_bus(systemd_world, tmp_path, manager):
    probe = tmp_path / "probe.py"
    out = tmp_path / "out"
    probe.write_text(
        "import os, socket, json\n"
        "def attempt(f):\n"
        "    try: f()\n"
        "    except OSError as e: return type(e).__name__\n"
        "    return 'worked'\n"
        f"results = [attempt(lambda: open({str(out)!r}, 'w')),\n"
        f"  attempt(lambda: socket.socket(socket.AF_UNIX).connect({manager['XDG_RUNTIME_DIR'] + '/bus'!r})),\n"
        "  attempt(lambda: socket.socket(socket.AF_INET))]\n"
        "from neuroshell_orch.errors import OrchError\n"
        "def create(): raise OrchError('unsupported', json.dumps(results))\n"
    )
    environment = {
        "NSORCH_RUNTIMES": "probe=probe",
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}",
    }
    async with systemd_world.worker(environment=environment) as worker:
        with pytest.raises(OrchError) as said:
            await worker.standby("probe")
    written, bus, network = json.loads(said.value.message)
    assert written in ("OSError", "PermissionError")
    assert bus == "FileNotFoundError"
    assert network != "worked"


@pytest.mark.parametrize(("how", "words"), [("kill", "SIGKILL"), ("segv", "SIGSEGV"), ("exit", "exit code 3")])
async def test_the_manager_tells_how_it_ended(systemd_world, how, words):
    async with systemd_world.worker() as worker:
        with pytest.raises(OrchError, match=words):
            await worker.load(systemd_world.load(load=how))
    await until(lambda: not active_units())


async def test_stop_is_quick_and_leaves_no_unit(systemd_world):
    async with systemd_world.loaded(tokens=-1) as worker:
        answer = ask(worker)
        await anext(answer)
        pid = worker.pid
        before = time.monotonic()
        await worker.stop()
        assert time.monotonic() - before < 2
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        with pytest.raises(OrchError, match="was stopped"):
            await read(answer)
    await until(lambda: not active_units())


async def test_stopping_the_unit_from_outside_is_noticed(systemd_world):
    async with systemd_world.loaded() as worker:
        await asyncio.to_thread(subprocess.run, ["systemctl", "--user", "stop", worker.unit], check=True)
        assert (await asyncio.wait_for(worker.exited, 10)).signal == signal.SIGKILL


async def test_a_name_in_use_is_avoided(systemd_world):
    spec = WorkerSpec("twin", 1, environment=fake_environment())
    first = await Worker.start(systemd_world.launcher, spec)
    second = await Worker.start(systemd_world.launcher, spec)
    assert (first.unit, second.unit) == ("nsorch-worker-twin-1.service", f"nsorch-worker-twin-1-{os.getpid()}.service")
    ends = await asyncio.gather(first.stop(), second.stop())
    assert [end.signal for end in ends] == [signal.SIGKILL] * 2


async def test_a_refused_setting_is_named(systemd_world, monkeypatch):
    monkeypatch.setattr(unit, "LIMITS", (("NoSuchSetting", "b", True),))
    with pytest.raises(OrchError, match=r"nsorch-worker-fake-1\.service.*NoSuchSetting"):
        async with systemd_world.worker():
            pass


async def test_a_setting_that_cannot_be_applied_is_named(systemd_world, monkeypatch, capfd):
    monkeypatch.setattr(unit, "SANDBOX", (("ReadWritePaths", "as", ["/no/such/folder"]),))
    with pytest.raises(OrchError, match=r"nsorch-worker-fake-1\.service did not start.*mount setting"):
        async with systemd_world.worker():
            pass
    assert "226" in capfd.readouterr().err


async def test_the_memory_limit_is_set_and_where_possible_enforced(systemd_world):
    async with systemd_world.worker(memory_max=96 << 20) as worker:
        await worker.greeted
        assert show(worker.unit, "MemoryMax")["MemoryMax"] == str(96 << 20)
        if worker.memory().cgroup is None:
            pytest.skip("memory is not accounted per unit here: the limit cannot be enforced")
        with pytest.raises(OrchError, match=r"lack of memory|SIGKILL") as died:
            await worker.load(systemd_world.load(eat_mb=300))
        assert "MemoryMax" in died.value.hint


async def test_the_launcher_comes_back_after_the_bus_was_lost(systemd_world):
    systemd_world.launcher._manager.close()
    async with systemd_world.loaded() as worker:
        assert worker.unit is not None


async def test_auto_prefers_systemd_and_falls_back(manager, monkeypatch):
    launcher = await choose_launcher("auto")
    assert launcher.kind == "systemd"
    await launcher.close()
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nowhere/bus")
    assert isinstance(await choose_launcher("auto"), ChildLauncher)
    with pytest.raises(OrchError, match="no systemd user manager"):
        await choose_launcher("systemd")


async def test_workers_of_a_service_end_with_it(manager, tmp_path):
    daemon = tmp_path / "daemon.py"
    model = World(tmp_path, None).load(load="hang").path
    daemon.write_text(
        "import asyncio\n"
        "from neuroshell_orch.workers.launch import *\n"
        "from neuroshell_orch.workers.process import Worker\n"
        "from neuroshell_orch.workers.protocol import Load\n"
        "async def main():\n"
        "    worker = await Worker.start(await choose_launcher('systemd'), WorkerSpec('bound', 7))\n"
        "    await worker.greeted\n"
        f"    open({str(tmp_path / 'pid')!r}, 'w').write(str(worker.pid))\n"
        f"    await worker.load(Load('bound', 'fake', {model!r}))\n"
        "asyncio.run(main())\n"
    )
    settings = [f"--setenv={k}={v}" for k, v in fake_environment().items()]
    command = ["systemd-run", "--user", "-q", "--unit=nsorch-test-daemon", *settings, sys.executable, str(daemon)]
    await asyncio.to_thread(subprocess.run, command, check=True)
    await until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    pid = int((tmp_path / "pid").read_text())
    assert show("nsorch-worker-bound-7.service", "BindsTo")["BindsTo"] == "nsorch-test-daemon.service"
    kill = ["systemctl", "--user", "kill", "-s", "KILL", "nsorch-test-daemon"]
    await asyncio.to_thread(subprocess.run, kill, check=True)
    before = time.monotonic()
    await until(lambda: not Path(f"/proc/{pid}").exists())
    assert time.monotonic() - before < 1
    await until(lambda: not active_units())


@pytest.mark.parametrize("sandbox", [[], ["--property=PrivateUsers=yes"]], ids=["open", "private users"])
async def test_a_sandboxed_daemon_can_read_a_sandboxed_workers_memory(manager, tmp_path, sandbox):
    daemon = tmp_path / "daemon.py"
    out = tmp_path / "out"
    daemon.write_text(
        "import asyncio\n"
        "from neuroshell_orch.workers.launch import *\n"
        "from neuroshell_orch.workers.process import Worker\n"
        "async def main():\n"
        "    launcher = await choose_launcher('systemd')\n"
        "    worker = await Worker.start(launcher, WorkerSpec('seen', 1))\n"
        "    await worker.greeted\n"
        f"    open({str(out)!r}, 'w').write(str(worker.memory().private_dirty))\n"
        "    await worker.stop()\n"
        "    await launcher.close()\n"
        "asyncio.run(main())\n"
    )
    settings = [f"--setenv={k}={v}" for k, v in fake_environment().items()]
    command = ["systemd-run", "--user", "-q", "--wait", "--collect", *sandbox, *settings, sys.executable, str(daemon)]
    await asyncio.to_thread(subprocess.run, command, check=True)
    assert int(out.read_text()) > 1 << 20


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("smollm2-135m", "nsorch-worker-smollm2-135m-3.service"),
        ("a b/ü", "nsorch-worker-a\\x20b\\x2f\\xc3\\xbc-3.service"),
    ],
)
def test_unit_names(name, expected):
    assert unit.unit_name(WorkerSpec(name, 3)) == expected


def test_an_environment_that_systemd_would_refuse_is_left_out():
    environment = {"A": "1", "BASH_FUNC_x%%": "() {", "B": "two\nlines", "C": "bell\x07", "D": "\udcff", "1E": "x"}
    assert unit.acceptable_environment(environment) == ["A=1", "B=two\nlines"]


@pytest.mark.parametrize(
    ("known", "sentence"),
    [
        ({"ExecMainCode": 2, "ExecMainStatus": 9, "Result": "oom-kill"}, "lack of memory"),
        ({"ExecMainCode": 2, "ExecMainStatus": 11}, "SIGSEGV"),
        ({"ExecMainCode": 1, "ExecMainStatus": 0}, "exit code 0"),
        ({}, "not known"),
    ],
)
def test_exit_of_service(known, sentence):
    assert sentence in transient.exit_of_service(known).sentence
