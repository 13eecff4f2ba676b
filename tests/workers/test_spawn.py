"""What a child process inherits and what it must not, and that it does not outlive its daemon."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from neuroshell_orch.errors import OrchError
from neuroshell_orch.workers import bare
from neuroshell_orch.workers.contract import exit_of
from neuroshell_orch.workers.environment import worker_environment
from neuroshell_orch.workers.launch import choose_launcher
from neuroshell_orch.workers.protocol import Load
from tests.support_fake import fake_environment
from tests.support_tiny import tiny_genai_folder
from tests.workers.conftest import until


def test_the_environment():
    inherited = {
        "PATH": "/bin",
        "LISTEN_FDS": "1",
        "LISTEN_PID": "2",
        "LISTEN_FDNAMES": "api",
        "NOTIFY_SOCKET": "/run/x",
        "WATCHDOG_USEC": "1",
        "WATCHDOG_PID": "1",
        "INVOCATION_ID": "x",
    }
    got = worker_environment(inherited, {"EXTRA": "1"})
    assert got == {
        "PATH": "/bin",
        "EXTRA": "1",
        "ORT_DISABLE_TELEMETRY": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
        "GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=131072:glibc.malloc.arena_max=2",
    }


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "glibc.malloc.check=1",
            "glibc.malloc.check=1:glibc.malloc.mmap_threshold=131072:glibc.malloc.arena_max=2",
        ),
        ("glibc.malloc.mmap_threshold=5:glibc.malloc.arena_max=9",) * 2,
    ],
)
def test_tunables_of_the_user_are_kept(before, after):
    assert worker_environment({"GLIBC_TUNABLES": before}, {})["GLIBC_TUNABLES"] == after


@pytest.mark.anyio
async def test_a_child_is_alone_with_its_socket(world, monkeypatch):
    monkeypatch.setenv("LISTEN_FDS", "3")
    async with world.worker() as worker:
        await worker.standby("fake")
        assert worker.unit is None
        descriptors = {fd: os.readlink(f"/proc/{worker.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{worker.pid}/fd")}
        assert descriptors.pop("0") == "/dev/null"
        del descriptors["1"], descriptors["2"]
        assert [target.split(":")[0] for target in descriptors.values()] == ["socket"]
        assert b"LISTEN_FDS" not in Path(f"/proc/{worker.pid}/environ").read_bytes()
        assert os.getsid(worker.pid) == worker.pid
        limits = Path(f"/proc/{worker.pid}/limits").read_text().splitlines()
        assert next(line for line in limits if "core file" in line).split()[4:6] == ["0", "0"]


@pytest.mark.anyio
@pytest.mark.parametrize("load", ["ok", "hang"])
async def test_a_worker_dies_with_its_daemon(world, tmp_path, load):
    model = world.load(load=load).path
    daemon = tmp_path / "daemon.py"
    daemon.write_text(
        "import asyncio\n"
        "from neuroshell_orch.workers.launch import *\n"
        "from neuroshell_orch.workers.process import Worker\n"
        "from neuroshell_orch.workers.protocol import Load\n"
        "async def main():\n"
        "    worker = await Worker.start(ChildLauncher(), WorkerSpec('x', 1))\n"
        "    await worker.greeted\n"
        "    print(worker.pid, flush=True)\n"
        f"    await worker.load(Load('x', 'fake', {model!r}))\n"
        "    await asyncio.sleep(3600)\n"
        "asyncio.run(main())\n"
    )
    environment = {**os.environ, **fake_environment()}
    command = [sys.executable, str(daemon)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:  # noqa: ASYNC220
        pid = int(process.stdout.readline())
        process.kill()
    before = time.monotonic()
    await until(lambda: not alive(pid))
    assert time.monotonic() - before < 1


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.anyio
async def test_a_program_that_cannot_be_run(world, monkeypatch):
    monkeypatch.setattr(bare, "COMMAND", ("/no/such/python",))
    with pytest.raises(OrchError, match="could not be started"):
        async with world.worker():
            pass


@pytest.mark.anyio
async def test_an_unknown_preference_is_refused():
    assert (await choose_launcher("child")).kind == "child"
    with pytest.raises(OrchError, match="auto, systemd, child"):
        await choose_launcher("cgroup")


@pytest.mark.anyio
async def test_a_runtime_writes_nothing_at_home(world, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    folder = tiny_genai_folder(tmp_path / "tiny")
    async with world.worker(environment={"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}) as worker:
        await worker.standby("onnx")
        await worker.standby("genai")
        await worker.load(Load("tiny", "genai", str(folder)))
    assert list(home.rglob("*")) == []


@pytest.mark.parametrize(
    ("returncode", "sentence", "hinted"),
    [
        (0, "ended with exit code 0", False),
        (3, "ended with exit code 3", True),
        (-signal.SIGSEGV, "was killed by SIGSEGV", True),
        (-signal.SIGKILL, "was killed by SIGKILL", True),
        (-signal.SIGTERM, "was killed by SIGTERM", True),
        (-250, "was killed by signal 250", True),
    ],
)
def test_exit_of(returncode, sentence, hinted):
    end = exit_of(returncode)
    assert (end.sentence, bool(end.hint)) == (sentence, hinted)
