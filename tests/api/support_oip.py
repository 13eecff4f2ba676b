"""For tests of ``/v2``: ONNX models of a few nodes, the daemon behind both of its sockets, and raw requests to it."""

from __future__ import annotations

import http.client
import json
import os
import select
import socket
import subprocess
import sys
import threading

import onnx
from onnx import TensorProto, helper

from neuroshell_orch.client import connect
from tests.support_daemon import Manager

HEADER = "Inference-Header-Content-Length"
STARTER = (
    "import os, sys; a, b = int(sys.argv[1]), int(sys.argv[2]); os.dup2(a, 3); os.dup2(b, 4); "
    "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='2', LISTEN_FDNAMES='api:http'); "
    "from neuroshell_orch import start; sys.exit(start.main())"
)
ONNX_TYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BF16": TensorProto.BFLOAT16,
    "BYTES": TensorProto.STRING,
}


def value(name, datatype, shape):
    return helper.make_tensor_value_info(name, ONNX_TYPES[datatype], shape)


def save(path, nodes, inputs, outputs, **options):
    graph = helper.make_graph(nodes, "g", inputs, outputs, **options)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def identity(path, datatype, shape=("n",), name="x"):
    shape = None if shape is None else list(shape)
    node = helper.make_node("Identity", [name], ["y"])
    return save(path, [node], [value(name, datatype, shape)], [value("y", datatype, shape)])


def simple(path):
    """The model of the client's own examples: the sum and the difference of two tensors of 1x16 INT32."""
    nodes = [
        helper.make_node("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"]),
        helper.make_node("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"]),
    ]
    inputs = [value(name, "INT32", [1, 16]) for name in ("INPUT0", "INPUT1")]
    return save(path, nodes, inputs, [value(name, "INT32", [1, 16]) for name in ("OUTPUT0", "OUTPUT1")])


class TwoSockets(Manager):
    """The daemon behind its unix socket and the loopback port."""

    def __init__(self, root):
        super().__init__(root)
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.port = self.tcp.getsockname()[1]

    def start(self):
        environment = os.environ | {"PYTHONWARNINGS": "error", "XDG_RUNTIME_DIR": str(self.root / "run")}
        descriptors = [self.listener.fileno(), self.tcp.fileno()]
        self.starts += 1
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", STARTER, *map(str, descriptors)],
                env=environment | self.environment,
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return self

    def activate(self):
        """Start the daemon when somebody connects to either socket."""

        def watch():
            while not self._stopping.is_set():
                if self.process is None or self.process.poll() is not None:
                    if select.select([self.listener, self.tcp], [], [], 0.05)[0]:
                        self.start()
                else:
                    self._stopping.wait(0.02)

        self._thread = threading.Thread(target=watch)
        self._thread.start()
        return self

    def end(self):
        super().end()
        self.tcp.close()


def exchange(manager, method, path, body=b"", headers=None):
    """One request over the unix socket: status, headers, body."""
    connection = http.client.HTTPConnection("localhost")
    connection.sock = connect(manager.path)
    try:
        connection.request(method, path, body=body, headers=headers or {})
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def infer_binary(manager, model, request, raw=b"", length=None, **headers):
    """An inference with raw tensors: status, JSON, what lies behind the JSON."""
    head = json.dumps(request).encode() if not isinstance(request, bytes) else request
    headers = {HEADER: str(len(head) if length is None else length)} | headers
    status, found, body = exchange(manager, "POST", f"/v2/models/{model}/infer", head + raw, headers)
    size = int(found.get(HEADER, len(body)))
    return status, json.loads(body[:size]), body[size:]
