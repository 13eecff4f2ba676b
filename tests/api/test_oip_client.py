"""The unmodified ``tritonclient`` against a socket-activated daemon: over TCP and the unix socket.

The client has no transport for unix sockets, so that there somebody passes on what it says: a few lines of socat.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from neuroshell_orch.api import tokens
from tests.api.support_forward import passed_on
from tests.api.support_oip import HEADER, TwoSockets, exchange, identity, simple

SCRIPT = Path(__file__).with_name("triton_examples.py")


@pytest.fixture
def both(xdg):
    manager = TwoSockets(xdg)
    manager.settings(SharedMemory="yes", DefaultModel="simple")
    manager.register("simple", simple(xdg / "simple.onnx"), "onnx")
    for name, datatype, shape in (("words", "BYTES", (1, "n")), ("floats", "FP32", ("n",)), ("brain", "BF16", ("n",))):
        manager.register(name, identity(xdg / f"{name}.onnx", datatype, shape), "onnx")
    manager.activate()
    yield manager
    manager.end()
    log = manager.log.read_text()
    sys.stdout.write(log)
    assert "Traceback" not in log
    assert "never retrieved" not in log


def run_examples(mode, port, token):
    command = [sys.executable, str(SCRIPT), mode, f"127.0.0.1:{port}", token, str(os.getpid())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]


@pytest.mark.parametrize("mode", ["sync", "aio"])
def test_the_documented_examples_over_tcp(both, mode):
    run_examples(mode, both.port, tokens.create("examples", None, None))


@pytest.mark.parametrize("mode", ["sync", "aio"])
def test_the_documented_examples_over_the_unix_socket(both, mode):
    with passed_on(both.path) as port:
        run_examples(mode, port, "none is needed")
    assert not tokens.path().exists()


def test_bodies_of_the_client_over_the_unix_socket(both):
    httpclient = pytest.importorskip("tritonclient.http")
    inputs = [httpclient.InferInput(name, [1, 16], "INT32") for name in ("INPUT0", "INPUT1")]
    a = np.arange(16, dtype=np.int32).reshape(1, 16)
    for tensor, binary in zip(inputs, (True, False), strict=True):
        tensor.set_data_from_numpy(a, binary_data=binary)
    body, size = httpclient.InferenceServerClient.generate_request_body(inputs)
    status, headers, answer = exchange(both, "POST", "/v2/models/simple/infer", body, {HEADER: str(size)})
    assert status == 200, answer
    parse = httpclient.InferenceServerClient.parse_response_body
    result = parse(answer, header_length=int(headers[HEADER]))
    assert (result.as_numpy("OUTPUT0") == a + a).all()
