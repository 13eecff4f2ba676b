"""Pulling over ``/api``: progress as the ``ollama`` package reads it, and from inside a daemon that has no network."""

from __future__ import annotations

import asyncio
import fcntl
import functools
import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import ollama
import pytest

from neuroshell_orch.models.catalogue import entry
from tests.api.support_oip import exchange
from tests.api.support_ollama import connected
from tests.support_daemon import wait_until
from tests.support_shop import stock
from tests.workers.conftest import manager as user_manager  # noqa: F401 - a fixture
from tests.workers.conftest import manager_environment  # noqa: F401 - likewise


@pytest.fixture
def shop(manager):
    manager.environment = stock(manager.config, manager.root)
    return manager


@pytest.fixture
def client(shop):
    with connected(shop.path, 60) as client:
        yield client


def lock_held(root):
    """The lock that pulls of the model wait for, held by somebody else."""
    folder = root / "cache" / "nsorch"
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / ".tiny.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def test_progress_objects(shop, client):
    shop.activate()
    wanted = entry("tiny")
    said = list(client.pull("tiny:latest", stream=True))
    assert said[0].status == "pulling manifest"
    assert said[-1].status == "success"
    bars = [step for step in said if step.digest]
    assert {step.digest for step in bars} <= {f"sha256:{wanted.package.sha256}", f"sha256:{wanted.member.sha256}"}
    unpacked = [step for step in bars if step.digest == f"sha256:{wanted.member.sha256}"][-1]
    assert (unpacked.completed, unpacked.total) == (wanted.member.size, wanted.member.size)
    told = [step.status for step in said if not step.digest]
    assert len(told) == len(set(told)), "what is no bar is said once"
    (listed,) = client.list().models
    assert (listed.model, listed.details.family, listed.details.format) == ("tiny:latest", "qwen2", "onnx")
    assert len(listed.digest) == 64
    shown = client.show("tiny")
    assert (shown.license, shown.details.quantization_level) == ("CC0-1.0", listed.details.quantization_level)
    assert shown.modelinfo["general.parameter_count"] > 0
    assert "FROM" in shown.modelfile


def test_a_pull_that_is_not_streamed_and_one_of_what_is_there(shop, client):
    shop.activate()
    assert client.pull("tiny").status == "success"
    assert client.pull("tiny").status == "success"
    assert [step.status for step in client.pull("tiny", stream=True)][-1] == "success"
    assert client.delete("tiny").status == "success"
    assert not list((shop.root / "data" / "nsorch" / "models").glob("*"))
    assert client.pull("tiny").status == "success"


def test_what_is_pulled_gets_its_copy_as_on_the_command_line(shop, client):
    shop.settings(Prepare="yes")
    shop.activate()
    told = [step.status for step in client.pull("tiny", stream=True)]
    assert told[-3:] == ["preparing and measuring", "writing manifest", "success"]
    (copy,) = (shop.root / "cache" / "nsorch" / "prepared").glob("tiny-*")
    assert json.loads((copy / "nsorch-prepared.json").read_text())["source"].endswith("models/tiny")
    client.delete("tiny")
    shutil.rmtree(copy.parent)
    copy.parent.write_text("a file in the place of the folder")
    told = [step.status for step in client.pull("tiny", stream=True)]
    assert told[-3].startswith("tiny works, but no prepared copy could be made")
    assert told[-1] == "success"
    assert [model.model for model in client.list().models] == ["tiny:latest"]


def test_what_cannot_be_pulled(shop, client):
    shop.start()
    for stream in (False, True):
        with pytest.raises(ollama.ResponseError, match="smollm2-135m, tiny") as caught:
            list(client.pull("llama9", stream=True)) if stream else client.pull("llama9")
        assert caught.value.status_code == 404
    (shop.root / "shelf" / "tiny_model-1.0-py3-none-any.whl").write_bytes(b"something else")
    with pytest.raises(ollama.ResponseError, match="tiny_model") as caught:
        list(client.pull("tiny", stream=True))
    assert caught.value.status_code == -1, "it had begun, so it is a line of the stream"
    with pytest.raises(ollama.ResponseError) as caught:
        client.pull("tiny")
    assert caught.value.status_code == 502


def test_a_client_that_leaves_ends_the_pull(shop, client):
    shop.start()
    lock = lock_held(shop.root)
    stream = client.pull("tiny", stream=True)
    next(stream)
    pulls = lambda: [pid for pid in children(shop.process.pid) if b"pulling" in cmdline(pid)]  # noqa: E731
    wait_until(pulls)
    stream.close()
    wait_until(lambda: not pulls())
    os.close(lock)
    assert client.pull("tiny").status == "success"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_daemon_that_ends_takes_its_pull_along(shop, client, how):
    shop.start()
    lock = lock_held(shop.root)
    stream = client.pull("tiny", stream=True)
    next(stream)
    (pid,) = wait_until(lambda: [pid for pid in children(shop.process.pid) if b"pulling" in cmdline(pid)])
    shop.process.send_signal(how)
    assert shop.process.wait(10) == (0 if how == signal.SIGTERM else -how)
    wait_until(lambda: not cmdline(pid))
    stream.close()
    os.close(lock)


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def cmdline(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


# ---- from inside the daemon's sandbox ----


class Index(http.server.BaseHTTPRequestHandler):
    """A package index over TCP with one file."""

    def __init__(self, wheel, *arguments):
        self.wheel = wheel
        super().__init__(*arguments)

    def do_GET(self):
        page = self.path == "/simple/tiny-model/"
        files = {"files": [{"filename": self.wheel.name, "url": f"/{self.wheel.name}"}]}
        body = json.dumps(files).encode() if page else self.wheel.read_bytes()
        self.send_response(200)
        self.send_header("Content-Type", "application/vnd.pypi.simple.v1+json" if page else "application/zip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_told):
        pass


@pytest.fixture
def index(tmp_path):
    handler = functools.partial(Index, tmp_path / "shelf" / "tiny_model-1.0-py3-none-any.whl")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/simple"
    server.shutdown()
    thread.join()
    server.server_close()


SANDBOX = [
    *("PrivateUsers=yes", "NoNewPrivileges=yes", "ProtectSystem=strict", "RestrictAddressFamilies=AF_UNIX"),
    *("SystemCallArchitectures=native", "SystemCallFilter=@system-service", "SystemCallErrorNumber=EPERM"),
]


@pytest.mark.parametrize("launcher", ["systemd", "child"])
def test_a_sandboxed_daemon_pulls_over_the_network(xdg, user_manager, index, launcher):  # noqa: F811 - the fixture
    config = xdg / "config" / "nsorch"
    config.mkdir(parents=True)
    (config / "nsorch.conf").write_text(f"[Orchestrator]\nWorkerLauncher={launcher}\nIdleExitSec=1h\nPrepare=yes\n")
    stock(config, xdg)
    for folder in ("config", "data", "state", "cache"):
        (xdg / folder / "nsorch").mkdir(exist_ok=True)
    runtime = user_manager["XDG_RUNTIME_DIR"]
    places = {f"XDG_{kind}_HOME": str(xdg / kind.lower()) for kind in ("CONFIG", "DATA", "STATE", "CACHE")}
    settings = places | {"PIP_INDEX_URL": index, "PIP_CONFIG_FILE": os.devnull, "PYTHONPATH": str(Path.cwd())}
    writable = " ".join([str(xdg / folder / "nsorch") for folder in ("config", "data", "state", "cache")] + [runtime])
    properties = [*SANDBOX, f"ReadWritePaths={writable}"]
    command = ["systemd-run", "--user", "-q", *(f"--property={value}" for value in properties)]
    network = subprocess.run([*command, "--wait", sys.executable, "-c", "import socket; socket.socket()"], check=False)
    assert network.returncode == 1, "what the daemon runs in has no network"
    command += ["--unit=nsorch-test-pull", *(f"--setenv={name}={value}" for name, value in settings.items())]
    subprocess.run([*command, sys.executable, "-m", "neuroshell_orch.cli.main", "serve"], check=True)
    try:
        path = Path(runtime, "nsorch", "api.sock")
        wait_until(path.exists)
        with connected(path, 60) as client:
            stages = [step.status for step in client.pull("tiny", stream=True)]
            assert stages[-1] == "success", stages
            assert any(status.startswith("pulling ") for status in stages)
            assert [model.model for model in client.list().models] == ["tiny:latest"]
            assert list((xdg / "cache" / "nsorch" / "prepared").glob("tiny-*/nsorch-prepared.json")), stages
    finally:
        subprocess.run(["systemctl", "--user", "stop", "nsorch-test-pull"], check=True)
    listing = ["systemctl", "--user", "list-units", "--all", "--plain", "--no-legend", "nsorch-*"]
    wait_until(lambda: not subprocess.run(listing, capture_output=True, text=True, check=True).stdout.strip())


def test_the_first_line_is_there_before_anything_is_fetched(shop):
    shop.start()
    lock = lock_held(shop.root)

    async def first():
        transport = httpx.AsyncHTTPTransport(uds=str(shop.path))
        async with ollama.AsyncClient(host="http://localhost", transport=transport) as client:
            stream = await client.pull("tiny", stream=True)
            said = await anext(stream)
            await stream.aclose()
            return said.status

    assert asyncio.run(first()) == "pulling manifest"
    os.close(lock)
    status, _, body = exchange(shop, "POST", "/api/pull", b'{"name": "tiny", "stream": false}')
    assert (status, json.loads(body)) == (200, {"status": "success"})
