"""Raw tensors, control and limits of ``/v2`` as they are on the wire: no client package in between."""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from neuroshell_orch.api import oip_body
from neuroshell_orch.api.oip_body import MAX_JSON
from neuroshell_orch.api.oip_infer import schedule
from neuroshell_orch.client import connect
from neuroshell_orch.config.schema import Settings
from neuroshell_orch.core.messages import AskOptions
from neuroshell_orch.errors import OrchError
from neuroshell_orch.runtimes.tensors import NUMPY_TYPES
from tests.api.support_oip import HEADER, ONNX_TYPES, exchange, identity, infer_binary
from tests.support_daemon import wait_until


def request(size=None, datatype="FP32", shape=(3,), name="x", **fields):
    head = {"name": name, "shape": list(shape), "datatype": datatype}
    return {"inputs": [head if size is None else {**head, "parameters": {"binary_data_size": size}}], **fields}


RAW = struct.pack("<3f", 1, 2, 3)


@pytest.fixture
def fake(manager):
    """An echo: whatever goes in comes out."""
    manager.model("echo", "onnx")
    manager.start()
    return manager


def test_every_datatype_comes_back_as_it_was_sent(manager, tmp_path):
    for datatype in ONNX_TYPES:
        manager.register(datatype.lower(), identity(tmp_path / f"{datatype}.onnx", datatype, None), "onnx")
    manager.start(real=True)
    for datatype in ONNX_TYPES:
        model = datatype.lower()
        for shape in ([], [0], [3], [2, 0], [2, 1, 2]):
            count = math.prod(shape)
            if datatype == "BYTES":
                raw = b"".join(
                    struct.pack("<I", len(text)) + text for text in [b"", "ä\0b".encode(), b"c", b"d"][:count]
                )
            elif datatype == "BOOL":
                raw = bytes(number % 2 for number in range(count))
            else:  # the last bytes make every float a NaN, with a payload that has to survive
                size = NUMPY_TYPES[datatype].itemsize
                raw = b"".join((bytes([number + 1] * (size - 2)) + b"\xf1\xff")[:size] for number in range(count))
            body = request(len(raw), datatype, shape, parameters={"binary_data_output": True})
            status, answer, behind = infer_binary(manager, model, body, raw)
            assert status == 200, (datatype, shape, answer)
            (output,) = answer["outputs"]
            assert (output["datatype"], output["shape"], behind) == (datatype, shape, raw)
        manager.post(f"/v2/repository/models/{model}/unload", {})


def test_binary_and_json_side_by_side(fake):
    body = {
        "inputs": [
            {"name": "a", "shape": [3], "datatype": "FP32", "parameters": {"binary_data_size": 12}},
            {"name": "b", "shape": [2], "datatype": "INT64", "data": [1, 2]},
            {"name": "c", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 6}},
        ],
        "outputs": [{"name": "a", "parameters": {"binary_data": False}}, {"name": "b"}, {"name": "c"}],
        "parameters": {"binary_data_output": True},
    }
    status, answer, behind = infer_binary(fake, "echo", body, RAW + b"\2\0\0\0ab")
    assert status == 200
    a, b, c = answer["outputs"]
    assert a == {"name": "a", "datatype": "FP32", "shape": [3], "data": [1.0, 2.0, 3.0]}
    assert (b["parameters"], c["parameters"]) == ({"binary_data_size": 16}, {"binary_data_size": 6})
    assert behind == struct.pack("<2q", 1, 2) + b"\2\0\0\0ab"


def test_compressed_bodies(fake):
    head = json.dumps(request(12)).encode()
    for coding, content in (("gzip", gzip.compress(head + RAW)), ("deflate", zlib.compress(head + RAW))):
        headers = {HEADER: str(len(head)), "Content-Encoding": coding}
        for body, wanted in ((content, 200), (content[:-1], 400), (content + b"x", 400)):
            status, _headers, answer = exchange(fake, "POST", "/v2/models/echo/infer", body, headers)
            assert status == wanted, answer
    bomb = zlib.compress(bytes(Settings().max_tensor_body + 1), 1)
    status, _headers, answer = exchange(fake, "POST", "/v2/models/echo/infer", bomb, {"Content-Encoding": "deflate"})
    assert (status, b"longer than" in answer) == (413, True)


def test_what_is_too_large_for_json_is_said(fake):
    raw = bytes(MAX_JSON + 4)
    status, answer, _ = infer_binary(fake, "echo", request(len(raw), shape=[len(raw) // 4]), raw)
    assert (status, "binary_data" in answer["hint"]) == (400, True)


def test_infinities_and_nan_as_json(fake):
    text = b'{"inputs": [{"name": "x", "shape": [4], "datatype": "FP64", "data": [NaN, Infinity, -Infinity, "NaN"]}]}'
    status, _headers, body = exchange(fake, "POST", "/v2/models/echo/infer", text)
    assert status == 200, body
    assert json.loads(body, parse_constant=pytest.fail)["outputs"][0]["data"] == ["NaN", "Infinity", "-Infinity", "NaN"]


BAD = [
    (request(12), RAW[:-1], "only 11 were sent"),
    (request(12), RAW + b"x", "1 bytes lie behind"),
    (request(11), RAW[:-1], "takes 12"),
    (request(), b"", "exactly one place"),
    (request(-1), b"", "whole number"),
    (request(True), b"", "whole number"),
    (request(1.5), b"", "whole number"),
    (request(1 << 70), b"", "whole number"),
    (request(12, shape=[1 << 62, 4]), RAW, "has 12 bytes"),
    (request(12, shape=[-3]), RAW, "negative"),
    (request(12, "FP8E5M2"), RAW, "FP8E5M2"),
    (request(12, parameters={"priority": "high"}), RAW, "priority"),
    (request(12, parameters={"timeout": -1}), RAW, "timeout"),
    (request(12, parameters={"sequence_id": 1}), RAW, "sequence_id"),
    (request(12, parameters={"Endianness": "big"}), RAW, "little-endian"),
    (request(12, outputs=[{"name": "x", "parameters": {"classification": 3}}]), RAW, "classification"),
    (request(12, outputs=[{"name": "x"}, {"name": "x"}]), RAW, "twice"),
    (request(12, outputs=[{"name": "x", "parameters": {"colour": 1}}]), RAW, "colour"),
    ({"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "parameters": {"byte_order": ">"}}]}, b"", "little"),
    ({"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "parameters": {"what": 1}}]}, b"", "what"),
    ({"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": "NaN "}]}, b"", "not numbers"),
    ({"inputs": 3}, b"", "inputs"),
    (b'{"inputs": NaN}', b"", "not valid JSON"),
]


def test_what_is_wrong_is_said_before_a_worker_starts(fake):
    for body, raw, words in BAD:
        status, answer, _ = infer_binary(fake, "echo", body, raw)
        assert status == 400, (words, answer)
        assert words in answer["error"], answer
        assert answer.keys() == {"error", "problem", "hint"}
    for length in ("-1", "x", "1e3", "99999", "9" * 30, ""):
        status, answer, _ = infer_binary(fake, "echo", request(12), RAW, length=length)
        assert (status, HEADER in answer["error"]) == (400, True), (length, answer)
    for coding, words in (("gzip", "not what gzip makes"), ("br", "is not known")):
        status, answer, _ = infer_binary(fake, "echo", request(12), RAW, **{"Content-Encoding": coding})
        assert (status, words in answer["error"]) == (400, True)
    status, answer, _ = infer_binary(fake, "echo", b" " * (MAX_JSON + 1))
    assert (status, "binary" in answer["hint"]) == (400, True)
    assert fake.phase("echo") == "COLD"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/nope", 404),
        ("GET", "/v2/models/echo/versions/2", 404),
        ("GET", "/v2/models/echo/versions/2/ready", 404),
        ("POST", "/v2/models/echo/versions/2/infer", 404),
        ("POST", "/v2/models/nope/infer", 404),
        ("GET", "/v2/models/echo/infer", 405),
        ("POST", "/v2/repository/models/nope/load", 404),
        ("POST", "/v2/repository/models/nope/unload", 404),
        ("GET", "/v2/systemsharedmemory/status", 403),
        ("GET", "/v2/cudasharedmemory/status", 400),
        ("GET", "/v2/logging", 404),
    ],
)
def test_errors_have_the_shape_of_the_protocol(fake, method, path, status):
    found, headers, body = exchange(fake, method, path, b"{}" if method == "POST" else b"")
    assert found == status, body
    assert headers["Content-Type"] == "application/json"
    assert json.loads(body)["error"]


def test_a_timeout_is_kept_while_waiting_and_while_running(manager):
    manager.model("endless", "onnx", tokens=-1)
    manager.model("slow", "onnx", load_seconds=30)
    manager.start()
    for model in ("endless", "slow"):
        body = request(12, parameters={"timeout": 700_000, "priority": 1})
        status, answer, _ = infer_binary(manager, model, body, RAW)
        assert (status, answer["problem"]) == (408, "timed-out"), answer
    wait_until(lambda: manager.status("endless")["running"] == 0)
    (stats,) = manager.get("/v2/models/endless/stats")["model_stats"]
    assert stats["inference_stats"]["fail"]["count"] == 1
    assert stats["inference_count"] == 0


@pytest.mark.parametrize(
    ("parameters", "priority", "seconds"),
    [
        ({}, "normal", None),
        ({"priority": 0, "timeout": 0}, "normal", None),
        ({"priority": 1, "timeout": 1_500_000}, "interactive", 1.5),
        ({"priority": 2}, "normal", None),
        ({"priority": 3}, "background", None),
        ({"priority": (1 << 32) - 1, "sequence_id": 0}, "background", None),
    ],
)
def test_the_schedule_policy_becomes_options_of_the_ask(parameters, priority, seconds):
    assert schedule(parameters) == (AskOptions(priority=priority, patience=seconds), seconds)


def test_a_client_that_leaves_takes_its_run_with_it(manager):
    manager.model("endless", "onnx", tokens=-1)
    manager.start()
    head = json.dumps(request(12)).encode()
    lengths = f"Content-Length: {len(head) + 12}\r\n{HEADER}: {len(head)}"
    text = f"POST /v2/models/endless/infer HTTP/1.1\r\nHost: x\r\n{lengths}"
    with connect(manager.path) as connection:
        connection.sendall(text.encode() + b"\r\n\r\n" + head + RAW)
        wait_until(lambda: manager.status("endless")["running"] == 1)
    wait_until(lambda: manager.status("endless")["running"] == 0)
    assert manager.phase("endless") == "HOT"


def test_statistics_add_up(fake):
    for _ in range(3):
        assert infer_binary(fake, "echo", request(12), RAW)[0] == 200
    (stats,) = fake.get("/v2/models/echo/versions/1/stats")["model_stats"]
    times = stats["inference_stats"]
    assert stats["inference_count"] == stats["execution_count"] == times["success"]["count"] == 3
    parts = sum(times[part]["ns"] for part in ("queue", "compute_input", "compute_infer", "compute_output"))
    assert 0 < parts <= times["success"]["ns"]
    assert stats["last_inference"] > 1_700_000_000_000


def test_looking_leaves_a_cold_model_cold(manager, tmp_path):
    manager.register("cold", identity(tmp_path / "cold.onnx", "BF16", (2, "n")), "onnx")
    (tmp_path / "bad.onnx").write_bytes(b"\x0a\xff")
    manager.register("bad", tmp_path / "bad.onnx", "onnx")
    manager.register("gone", tmp_path / "gone.onnx", "onnx")
    manager.model("words")
    manager.start()
    assert manager.get("/v2/models/cold/versions/1")["outputs"] == [{"name": "y", "datatype": "BF16", "shape": [2, -1]}]
    assert manager.get("/v2/models/cold/config")["input"] == [{"name": "x", "data_type": "TYPE_BF16", "dims": [2, -1]}]
    assert manager.get("/v2/models/words")["platform"] == "onnx_genai"
    assert exchange(manager, "GET", "/v2/models/bad")[0] == 422
    assert exchange(manager, "GET", "/v2/models/gone")[0] == 404
    assert exchange(manager, "GET", "/v2/models/gone/ready")[0] == 409
    rows = {row["name"]: row for row in manager.post("/v2/repository/index", {"ready": False})}
    assert (rows["cold"]["state"], rows["gone"]["state"]) == ("READY", "UNAVAILABLE")
    assert "gone" not in {row["name"] for row in manager.post("/v2/repository/index", {"ready": True})}
    assert all(manager.phase(name) == "COLD" for name in ("cold", "bad", "gone", "words"))
    identity(tmp_path / "new.onnx", "FP64", ("n",)).replace(tmp_path / "cold.onnx")
    assert manager.get("/v2/models/cold")["inputs"] == [{"name": "x", "datatype": "FP64", "shape": [-1]}]


def test_a_large_tensor_takes_no_more_than_three_copies_in_the_daemon(fake):
    size = 64 << 20
    body = request(4, shape=[1], parameters={"binary_data_output": True})
    assert infer_binary(fake, "echo", body, RAW[:4])[0] == 200
    status = Path(f"/proc/{fake.process.pid}")

    def peak():
        text = (status / "status").read_text()
        return int(text.split("VmHWM:")[1].split()[0]) << 10

    (status / "clear_refs").write_text("5")
    before = peak()
    raw = np.arange(size // 4, dtype=np.float32).tobytes()
    body = request(size, shape=[size // 4], parameters={"binary_data_output": True})
    found, answer, behind = infer_binary(fake, "echo", body, raw)
    assert found == 200, answer
    assert behind == raw
    copies = (peak() - before) / size
    assert copies <= 3.2, f"{copies:.2f}"


@given(st.binary(max_size=40), st.binary(max_size=12), st.integers(0, 60))
def test_no_split_of_a_body_surprises_the_reader(head, raw, length):
    chunks = [head, raw]

    async def receive():
        chunk = chunks.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": bool(chunks)}

    headers = [(HEADER.lower().encode(), str(length).encode())]
    try:
        text, behind = asyncio.run(oip_body.read(Request({"type": "http", "headers": headers}, receive)))
    except OrchError as error:
        assert error.problem == "bad-request"  # noqa: PT017
        assert length > len(head + raw)
        return
    assert bytes(text) + bytes(behind) == head + raw
    assert len(text) == length
