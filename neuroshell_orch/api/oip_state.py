"""What ``/v2`` remembers between requests: statistics, shared memory regions, and what models declare.

Owns nothing that a restart of the daemon may not lose. A model's inputs and outputs are known from its live worker,
or from the last one of the same file, or are read from the head of the file by a process of its own: looking never
wakes a model, and a damaged file harms nobody. Must not know how anything is shown.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from neuroshell_orch.api.oip_shm import Regions
from neuroshell_orch.api.oip_stats import Statistics
from neuroshell_orch.errors import OrchError
from neuroshell_orch.workers.protocol import TensorInfo

if TYPE_CHECKING:
    from starlette.requests import Request

    from neuroshell_orch.service import Service

VERSION: Final = "1"
"""Every model has this one version: a file is replaced, not kept beside its successor."""
_HEADER_SECONDS: Final = 20.0
_OFF: Final = "Set SharedMemory=yes in the section [Orchestrator] of nsorch.conf, then: systemctl --user reload nsorch"


class Declared(msgspec.Struct, frozen=True):
    """A model's inputs and outputs."""

    inputs: list[TensorInfo] = []
    outputs: list[TensorInfo] = []


class _Header(msgspec.Struct):
    """What ``runtimes.onnxheader`` prints."""

    problem: str = ""
    message: str = ""
    hint: str = ""
    inputs: list[TensorInfo] = []
    outputs: list[TensorInfo] = []


class State:
    """One for each daemon."""

    def __init__(self) -> None:
        self.regions = Regions()
        self.statistics = Statistics()
        self._declared: dict[tuple[str, int, int, int], Declared] = {}

    def model(self, request: Request) -> str:
        """The model that the path names. Raises OrchError."""
        service: Service = request.app.state.service
        name = service.resolve(request.path_params["model"])
        version = request.path_params.get("version", VERSION)
        if version != VERSION:
            raise OrchError("not-found", f"Model {name} has no version {version[:40]!r}.", f"It has one: {VERSION}.")
        return name

    def usable_regions(self, service: Service) -> Regions:
        """The regions, while shared memory is switched on. Raises OrchError."""
        if not service.configuration.settings.shared_memory:
            self.regions.unregister()
            raise OrchError("not-allowed", "System shared memory is switched off.", _OFF)
        return self.regions

    async def declared(self, service: Service, name: str) -> Declared:
        """What the tensor model ``name`` takes and returns. Raises OrchError where its file cannot be read."""
        path = model_path(service, name)
        key = _identity(path)
        loaded = service.loaded(name)
        if loaded is not None:
            self._declared[key] = Declared(loaded.inputs, loaded.outputs)
        elif key not in self._declared:
            self._declared[key] = await asyncio.to_thread(_read_header, path)
        return self._declared[key]


def model_path(service: Service, name: str) -> Path:
    """The file of the model ``name``."""
    return Path(service.configuration.models[name].path).expanduser()


def _identity(path: Path) -> tuple[str, int, int, int]:
    """What changes when another file takes its place. Raises OrchError where there is none."""
    try:
        facts = path.stat()
    except OSError as error:
        hint = "Add the model again, or remove it."
        raise OrchError("file-missing", f"{path} cannot be read: {error.strerror}.", hint) from None
    return str(path), facts.st_ino, facts.st_size, facts.st_mtime_ns


def _read_header(path: Path) -> Declared:
    command = [sys.executable, "-P", "-m", "neuroshell_orch.runtimes.onnxheader", str(path)]
    unreadable = OrchError("model-invalid", f"What {path} takes and returns cannot be read from it.", "Is it damaged?")
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_HEADER_SECONDS, check=False
        )
        header = msgspec.json.decode(done.stdout, type=_Header)
    except (subprocess.TimeoutExpired, msgspec.DecodeError):
        raise unreadable from None
    if header.problem:
        raise OrchError(header.problem, header.message, header.hint)
    return Declared(header.inputs, header.outputs)
