"""What a worker sees of its first frames before it can decode them, and a load that begins with that."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroshell_orch.workers import boot
from neuroshell_orch.workers.protocol import Announce, Load, Standby, encode
from tests.support_tiny import tiny_genai_folder

LOADS = st.builds(
    Load,
    model=st.text(max_size=40),
    runtime=st.sampled_from(["genai", "onnx"]),
    path=st.text(max_size=300),
    threads=st.integers(0, 5000),
    context_length=st.integers(0, 1 << 40),
    options=st.dictionaries(st.text(max_size=9), st.text(max_size=9), max_size=4),
    parallel=st.integers(1, 64),
    keep_prefix=st.booleans(),
)


def seen(data: bytes):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(data)
        found = boot.peeked(theirs.fileno())
        assert theirs.recv(1 << 20) == data, "they are still there"
    return found


@given(load=LOADS)
def test_a_load_is_understood_as_msgspec_wrote_it(load):
    frames = seen(bytes(encode(Announce(load.runtime, load.path))) + bytes(encode(load)))
    assert frames == [
        {"t": "announce", **msgspec.to_builtins(Announce(load.runtime, load.path)), "t": "announce"},  # noqa: F601
        {"t": "load", **msgspec.to_builtins(load)},
    ]


@given(data=st.binary(min_size=1, max_size=200))
def test_no_bytes_make_it_fail(data):
    seen(data)
    seen(len(data).to_bytes(4, "little") + data)


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_half_a_frame_is_none(cut):
    assert seen(bytes(encode(Load("m", "genai", "/p")))[:-cut]) == []


def test_nothing_to_see_is_nothing():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert boot.peeked(theirs.fileno()) == []
    with open(os.devnull) as other:  # noqa: PTH123
        assert boot.peeked(other.fileno()) == []


BEGUN = """
import os, sys
from neuroshell_orch.workers import boot
boot.begin()
print("open" if "neuroshell_orch.runtimes.genai_open" in sys.modules else "", "msgspec" in sys.modules, flush=True)
os._exit(0)  # as a worker ends, whatever its threads are doing
"""


@pytest.mark.parametrize(
    ("messages", "begun"),
    [
        (["load"], True),
        (["announce", "load"], True),
        (["announce"], False),
        (["standby", "load"], False),
        (["other"], False),
        ([], False),
    ],
)
def test_only_a_load_is_begun(tmp_path, messages, begun):
    folder = str(tiny_genai_folder(tmp_path / "model"))
    frames = {
        "load": Load("m", "genai", folder),
        "announce": Announce("genai", folder),
        "standby": Standby("genai"),
        "other": Load("m", "onnx", folder),
    }
    ours, theirs = socket.socketpair()
    environment = {name: value for name, value in os.environ.items() if name != "NSORCH_RUNTIMES"}
    with ours, theirs:
        ours.sendall(b"".join(bytes(encode(frames[name])) for name in messages))
        result = subprocess.run(
            [sys.executable, "-c", BEGUN],
            stdin=theirs.fileno(),
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    assert (result.stdout, result.returncode) == ("open False\n" if begun else " False\n", 0), result.stderr
