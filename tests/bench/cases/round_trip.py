"""A whole request and its answer: what the daemon and the worker put between a client and a model that costs nothing.

Owns the client, which is the same plain socket for both contestants and keeps its connection, and the tiny model (one
Identity of eight numbers). The peer does no work at all: what is beyond it is parsing, the engine, the worker and the
session.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from tests.api.support_oip import identity
from tests.bench.cases.scheduling import Instance
from tests.bench.registry import BenchError, Finding, Row, benchmark, interleave
from tests.support_daemon import connect, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.bench.world import World

NUMBERS = [float(number) for number in range(8)]
BODY = json.dumps({"inputs": [{"name": "x", "shape": [8], "datatype": "FP32", "data": NUMBERS}]}).encode()
HEAD = (
    "POST /v2/models/tiny/infer HTTP/1.1\r\nHost: localhost\r\n"
    f"Content-Type: application/json\r\nContent-Length: {len(BODY)}\r\n\r\n"
)
REQUEST = HEAD.encode() + BODY
EACH = 1000
"""Requests of one sample, one after the other."""


class Caller:
    """One kept connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.percentiles: list[tuple[float, float]] = []

    def once(self) -> float:
        """Milliseconds. Raises BenchError where the answer is not the one expected."""
        begun = time.perf_counter()
        self.connection.sendall(REQUEST)
        received = self.connection.recv(65536)
        head, _, body = received.partition(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        while len(body) < length:
            body += self.connection.recv(65536)
        took = (time.perf_counter() - begun) * 1000
        if json.loads(body)["outputs"][0]["data"] != NUMBERS:
            raise BenchError("the tiny model did not give back what it got")
        return took

    def many(self) -> float:
        """The median; it and the 99th percentile are kept."""
        times = sorted(self.once() for _ in range(EACH))
        self.percentiles.append((median(times), times[EACH * 99 // 100]))
        return times[EACH // 2]


@contextmanager
def bare(world: World, path: Path, module: str, *arguments: str) -> Iterator[Caller]:
    """A peer, listening."""
    command = [sys.executable, "-m", f"tests.bench.{module}", str(path), *arguments]
    with subprocess.Popen(command, env=world.environment, stdin=subprocess.DEVNULL) as process:
        try:
            wait_until(path.exists)
            connection = wait_until(lambda: _connected(path))
            with connection:
                yield Caller(connection)
        finally:
            process.terminate()


def _connected(path: Path) -> socket.socket | None:
    try:
        return connect(path)
    except ConnectionRefusedError:
        return None


@benchmark(58, "round-trip", "A round trip: a tensor model that costs nothing", "a bare uvicorn with httptools")
def round_trip(world: World) -> Iterator[Finding]:
    """Rows of the median and of the 99th percentile, of the service and of the least that two processes take."""
    folder = world.folder / "round-trip"
    folder.mkdir()
    tiny = identity(folder / "tiny.onnx", "FP32")
    service = Instance(world, folder / "service", {"tiny": tiny}, runtime="onnx", Mode="persistent")
    try:
        with (
            bare(world, folder / "bare.sock", "bare_server") as peer,
            bare(world, folder / "hop.sock", "bare_hop", str(tiny)) as hop,
            connect(service.path) as connection,
        ):
            ours = Caller(connection)
            interleave({"ours": ours.many, "bare": peer.many, "hop": hop.many}, world.runs)
    finally:
        service.close()
    for what, caller in (("infer", ours), ("floor: the bare server with a bare worker", hop)):
        for number, name in enumerate(("median", "99th percentile")):
            own, other = ([sample[number] for sample in which.percentiles[1:]] for which in (caller, peer))
            yield Row(f"{what}, {EACH} in a row, {name}", "ms", own, other)
