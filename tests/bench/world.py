"""Where one run of the benchmarks happens: the folder, the environment, the model, the launchers there are.

Owns everything that must be the same for all contestants, and that all answers are the same. Must not know any
benchmark.
"""

from __future__ import annotations

import asyncio
import compileall
import os
import shutil
import subprocess
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

import neuroshell_orch
from neuroshell_orch.errors import OrchError
from neuroshell_orch.workers import prepared
from tests.bench.kernel import marked
from tests.bench.orchestrator import Orchestrator
from tests.bench.registry import BenchError
from tests.support_manager import UnavailableError, user_manager

if TYPE_CHECKING:
    from types import TracebackType

PROMPT = "What is the capital of France?"
STORY = "Write a long story about a lighthouse keeper and a storm."

_LEFT_OUT = ("PYTHON", "OPENBLAS_", "OMP_", "LISTEN_", "NOTIFY_", "WATCHDOG_", "NSORCH_", "GLIBC_TUNABLES")
"""What a person's terminal does not set; some of it changes the times."""


class World:
    """One run. A context manager."""

    def __init__(self, model: Path, runs: int, launcher: str = "auto", long: bool = False) -> None:
        self.model = model
        self.runs = runs
        self.long = long
        self.folder = Path(tempfile.mkdtemp(prefix="nsorch-bench-"))
        self.marker = f"BENCH_MARK={self.folder.name}"
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(_LEFT_OUT)}
        self.environment |= dict([self.marker.split("=")])
        self.bus: dict[str, str] = {}
        self.series: dict[str, list[tuple[float, float]]] = {}
        """Memory over time by mode, for the chart."""
        self.launchers = ["child"]
        self.launcher_note = "workers are child processes of the daemon"
        self._answers: dict[tuple[str, int], tuple[str, str]] = {}
        self._wanted = launcher
        self._stack = ExitStack()
        self._live: list[Orchestrator] = []

    def __enter__(self) -> Self:
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        # Bytecode as an installed package has it; a sandboxed worker could not write it.
        compileall.compile_dir(Path(neuroshell_orch.__file__).parent, quiet=2)
        if self._wanted != "child":
            self._find_manager()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            for instance in self._live:
                instance.close()
        finally:
            self._stack.close()

    def _find_manager(self) -> None:
        try:
            if _session_manager():
                self.bus = {"DBUS_SESSION_BUS_ADDRESS": _session_bus()}
                whose = "this session's user manager"
            else:
                folder = self.folder / "manager"
                folder.mkdir()
                bus = self._stack.enter_context(user_manager(folder))["DBUS_SESSION_BUS_ADDRESS"]
                self.bus = {"DBUS_SESSION_BUS_ADDRESS": bus}
                whose = "a user manager started for this run"
        except UnavailableError as why:
            if self._wanted == "systemd":
                raise BenchError(f"no systemd user manager: {why}") from None
            self.launcher_note += f" (no user manager: {why})"
            return
        self.launchers = ["systemd"] if self._wanted == "systemd" else ["child", "systemd"]
        self.launcher_note = (
            f"workers are transient services of {whose}"
            if self._wanted == "systemd"
            else f"workers are child processes, in the rows that say so transient services of {whose}"
        )

    def orchestrator(self, name: str, launcher: str = "", mode: str = "timeout", **keys: str) -> Orchestrator:
        """A new instance, which is closed at the end of the run at the latest."""
        if mode in {"hibernate", "adaptive"}:
            self._prepare()
        instance = Orchestrator(self, name, launcher or self.launchers[0], mode, **keys)
        self._live.append(instance)
        return instance

    def _prepare(self) -> None:
        """As ``nsorch model prepare`` does; the copy lies in the cache that all instances share."""
        with suppress(OrchError):  # then the mode unloads instead, and the rows say so
            asyncio.run(prepared.make(self.folder / "cache" / "nsorch", self.model))

    def close(self, *instances: Orchestrator) -> None:
        """End instances, so that the next benchmark has the machine for itself. Raises BenchError if any is left."""
        for instance in instances:
            instance.close()
            self._live.remove(instance)
        if not self._live and (left := marked(self.marker)):
            raise BenchError(f"processes left behind: {left}")

    def same(self, prompt: str, limit: int, text: str, path: str) -> None:
        """Greedy answers to one prompt must be equal whichever path they took. Raises BenchError."""
        reference, by = self._answers.setdefault((prompt, limit), (text, path))
        if text != reference:
            raise BenchError(f"{path} answered {text!r}, but {by} {reference!r}")


def _session_bus() -> str:
    default = f"unix:path=/run/user/{os.getuid()}/bus"
    return os.environ.get("DBUS_SESSION_BUS_ADDRESS") or default


def _session_manager() -> bool:
    """Whether this very session has a user manager that answers."""
    if shutil.which("systemctl") is None or not os.environ.get("XDG_RUNTIME_DIR"):
        return False
    command = ["systemctl", "--user", "show", "--property=Version"]
    return subprocess.run(command, capture_output=True, check=False, timeout=10).returncode == 0
