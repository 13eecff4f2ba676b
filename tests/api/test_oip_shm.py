"""System shared memory: whose it must be, where it must end, and clients that pull it away."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroshell_orch.api.oip_shm import MAX_REGIONS, Regions
from neuroshell_orch.errors import OrchError
from tests.api.support_oip import exchange

ROOT = "only root can give a file to somebody else"


@contextmanager
def shm(content):
    path = Path("/dev/shm") / f"nsorch-test-{uuid.uuid4().hex}"
    path.write_bytes(content)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


@pytest.fixture
def regions():
    regions = Regions()
    yield regions
    regions.unregister()


def test_reading_and_writing_inside_a_region(regions):
    with shm(bytes(range(100))) as path:
        regions.register("r", f"/{path.name}", 10, 20)
        assert regions.read("r", 0, 20) == bytes(range(10, 30))
        assert regions.read("r", 20, 0) == b""
        regions.write("r", 5, memoryview(b"abc"))
        assert path.read_bytes()[14:19] == bytes([14]) + b"abc" + bytes([18])
        assert regions.shown() == [{"name": "r", "key": f"/{path.name}", "offset": 10, "byte_size": 20}]
        with pytest.raises(OrchError, match="registered already"):
            regions.register("r", path.name, 0, 1)


@given(st.integers(-5, 40), st.integers(-5, 40))
def test_nothing_outside_of_a_region_is_touched(offset, size):
    with shm(bytes(100)) as path:
        regions = Regions()
        regions.register("r", path.name, 10, 20)
        inside = offset >= 0 and size >= 0 and offset + size <= 20
        try:
            if inside:
                assert len(regions.read("r", offset, size)) == size
            else:
                with pytest.raises(OrchError):
                    regions.read("r", offset, size)
            with pytest.raises(OrchError):
                regions.write("r", max(offset, 0), bytes(21))
        finally:
            regions.unregister()
        assert path.read_bytes() == bytes(100)


def test_a_region_that_was_shrunk_is_an_error_and_is_not_made_larger(regions):
    with shm(bytes(100)) as path:
        regions.register("r", path.name, 0, 100)
        os.truncate(path, 50)
        for use in (lambda: regions.read("r", 0, 10), lambda: regions.write("r", 90, b"x")):
            with pytest.raises(OrchError, match="smaller"):
                use()
        assert path.stat().st_size == 50
        os.truncate(path, 100)
        assert regions.read("r", 0, 100) == bytes(100)


def test_a_region_is_not_closed_under_a_copy(regions, tmp_path, monkeypatch):
    """The number of a closed descriptor goes to the next file that is opened: nothing may be written there."""
    bystander = tmp_path / "bystander"
    bystander.write_bytes(bytes(1 << 20))
    with shm(bytes(1 << 20)) as path:
        stop, writing = threading.Event(), threading.Event()
        pwrite = os.pwrite

        def in_small_pieces(descriptor, data, at):
            writing.set()
            return pwrite(descriptor, data[:4096], at)

        monkeypatch.setattr(os, "pwrite", in_small_pieces)

        def write():
            while not stop.is_set():
                with suppress(OrchError):
                    regions.write("r", 0, b"x" * (1 << 20))

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for _ in range(30):
                regions.register("r", path.name, 0, 1 << 20)
                writing.clear()
                assert writing.wait(20)
                regions.unregister("r")
                other = os.open(bystander, os.O_RDWR)
                writing.clear()
                writing.wait(0.02)  # a copy that went on would write now
                os.close(other)
        finally:
            stop.set()
            writer.join()
    assert bystander.read_bytes() == bytes(1 << 20)


@pytest.mark.parametrize("key", ["", "/", ".", "..", "/..", "a/b", "/a/b", "../etc/passwd", "a\0b", "x" * 300])
def test_a_key_is_a_plain_name(regions, key):
    with pytest.raises(OrchError) as refused:
        regions.register("r", key, 0, 1)
    assert refused.value.problem == "bad-request"


def test_only_plain_files_of_this_user(regions, tmp_path):
    with shm(b"x") as target, shm(b"x") as other:
        other.unlink()
        other.symlink_to(target)
        with pytest.raises(OrchError, match="cannot be opened"):
            regions.register("r", other.name, 0, 1)
        other.unlink()
        os.mkfifo(other)
        with pytest.raises(OrchError, match="not a shared memory object"):
            regions.register("r", other.name, 0, 1)
        with pytest.raises(OrchError, match="names no"):
            regions.register("r", f"{target.name}-not", 0, 1)
        for offset, size in ((0, 2), (1, 1), (-1, 1), (0, 0)):
            with pytest.raises(OrchError):
                regions.register("r", target.name, offset, size)
    assert regions.shown() == []


@pytest.mark.skipif(os.geteuid() != 0, reason=ROOT)
def test_what_belongs_to_somebody_else_is_refused(regions):
    with shm(b"x") as path:
        os.chown(path, 65534, 65534)
        with pytest.raises(OrchError, match="of this user"):
            regions.register("r", path.name, 0, 1)


def test_there_is_a_limit(regions):
    with shm(b"x") as path:
        for number in range(MAX_REGIONS):
            regions.register(str(number), path.name, 0, 1)
        with pytest.raises(OrchError, match="Unregister some"):
            regions.register("more", path.name, 0, 1)


def call(manager, path, body):
    status, _headers, answer = exchange(manager, "POST", path, json.dumps(body))
    return status, json.loads(answer)


def infer(manager, shape, size, out=None):
    where = {"shared_memory_region": "r", "shared_memory_byte_size": size}
    head = {"name": "x", "shape": shape, "datatype": "FP32", "parameters": where}
    outputs = [{"name": "x", "parameters": {"shared_memory_region": "r", **out}}] if out else []
    return call(manager, "/v2/models/echo/infer", {"inputs": [head], "outputs": outputs})


def test_tensors_through_a_region_of_a_running_daemon(manager):
    manager.settings(SharedMemory="yes")
    manager.model("echo", "onnx")
    manager.start()
    values = np.arange(1000, dtype=np.float32)
    with shm(values.tobytes() + bytes(4000)) as path:
        body = {"key": path.name, "offset": 0, "byte_size": 8000}
        assert call(manager, "/v2/systemsharedmemory/region/r/register", body) == (200, {})
        out = {"shared_memory_offset": 4000, "shared_memory_byte_size": 4000}
        status, answer = infer(manager, [1000], 4000, out)
        assert status == 200, answer
        assert answer["outputs"][0]["parameters"]["shared_memory_byte_size"] == 4000
        assert "data" not in answer["outputs"][0]
        assert path.read_bytes()[4000:] == values.tobytes()
        assert infer(manager, [1000], 3996)[0] == 400
        assert infer(manager, [2001], 8004)[0] == 400
        assert infer(manager, [1], 4, {"shared_memory_offset": 7999, "shared_memory_byte_size": 2})[0] == 400
        status, answer = infer(manager, [1000], 4000, out | {"shared_memory_byte_size": 3000})
        assert (status, "3000" in answer["error"]) == (400, True)
        os.truncate(path, 100)
        status, answer = infer(manager, [1000], 4000)
        assert (status, "smaller" in answer["error"]) == (400, True)
        assert manager.process.poll() is None
    manager.settings()
    manager.post("/orch/reload")
    assert infer(manager, [1000], 4000)[0] == 403


def test_a_client_that_keeps_shrinking_its_region_only_hurts_itself(manager):
    manager.settings(SharedMemory="yes")
    manager.model("echo", "onnx")
    manager.start()
    with shm(bytes(4 << 20)) as path:
        body = {"key": path.name, "byte_size": 4 << 20}
        assert call(manager, "/v2/systemsharedmemory/region/r/register", body) == (200, {})
        script = "import os, sys\nwhile True: os.truncate(sys.argv[1], 0); os.truncate(sys.argv[1], 4 << 20)"
        with subprocess.Popen([sys.executable, "-c", script, str(path)]) as shrinker:
            try:
                size = {"shared_memory_byte_size": 4 << 20}
                found = {infer(manager, [1 << 20], 4 << 20, size)[0] for _ in range(30)}
            finally:
                shrinker.kill()
        assert found <= {200, 400}
        assert manager.process.poll() is None
