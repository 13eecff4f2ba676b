"""The timeline that ``ask --trace`` prints."""

from __future__ import annotations

import os
import subprocess
import sys

from neuroshell_orch.cli import trace


def test_lines_are_in_order_and_what_was_there_is_said_to_be(monkeypatch):
    monkeypatch.setattr(trace, "marks", lambda: {"exec": 100.0, "connected": 100.02, "first": 100.5})
    told = {
        "service": {"exec": 90.0, "ready": 90.1, "asked": 100.1, "unknown": 100.3},
        "worker": {"exec": 100.15, "loaded": 100.4},
    }
    assert list(trace.lines(told)) == [
        " before  the service's process begins",
        "      0  this command begins",
        "     20  connected to the service's socket",
        "    100  the service has read the request",
        "    150  the worker's process begins",
        "    400  the model is loaded",
        "    500  the first token is here",
    ]


def test_the_command_prints_it_behind_the_answer(manager):
    manager.model()
    manager.activate()
    environment = os.environ | {"NSORCH_SOCKET": str(manager.path)}
    command = [sys.executable, "-P", "-m", "neuroshell_orch.cli.main", "ask", "--trace", "one two"]
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=True
    )
    assert result.stdout == "one two \n"
    for what in ("the service's process begins", "the worker's process begins", "the model is loaded", "token is here"):
        assert what in result.stderr
