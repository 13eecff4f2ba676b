"""The accelerators: which there are, how much memory they have, and what one process holds of it.

Owns the questions to NVIDIA's driver library. Asking can wake a sleeping card, so the kernel is asked first whether one
is awake; a card that sleeps has no model on it. Never makes a CUDA context, which would take hundreds of megabytes.
Every answer can be missing or nonsense (a card that fell off the bus, N/A): then there is no such card. Must not
know what a budget is.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec

NVIDIA: Final = "0x10de"
DISPLAY_CLASS: Final = "0x03"
Native: TypeAlias = Any
"""A handle of the driver's library, which comes without types."""


class Gpu(msgspec.Struct, frozen=True):
    """One accelerator: ``name`` as the runtimes number it, sizes in bytes."""

    name: str
    total: int
    used: int


def _sysfs() -> Path:
    """The kernel's view of devices; another folder stands in for it in tests."""
    return Path(os.environ.get("NSORCH_SYSFS") or "/sys")


def awake() -> bool:
    """Whether an NVIDIA card is there and does not sleep. Reads sysfs only, which wakes nothing."""
    for device in (_sysfs() / "bus/pci/devices").glob("*"):
        if _text(device / "vendor") != NVIDIA or not _text(device / "class").startswith(DISPLAY_CLASS):
            continue
        if _text(device / "power/runtime_status") in {"active", "unsupported", ""}:
            return True
    return False


def find() -> list[Gpu]:
    """Every accelerator that is awake and answers. Blocking: some milliseconds at the first call."""
    with _Library() as library:
        return [] if library is None else [gpu for index in range(library.count()) if (gpu := library.gpu(index))]


def used_by(pid: int) -> dict[str, int]:
    """Bytes that the process holds, by accelerator. Blocking."""
    with _Library() as library:
        return {} if library is None else library.used_by(pid)


class _Library:
    """The driver's library for the length of a block, or None where it is not to be had or no card is awake."""

    def __enter__(self) -> _Library | None:
        self._nvml: Native = None
        if not awake():
            return None
        try:
            import pynvml  # noqa: PLC0415 - 15 ms that a machine without such a card need not pay
        except ImportError:
            return None
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError:
            return None
        self._nvml = pynvml
        return self

    def __exit__(self, *_error: object) -> None:
        if self._nvml is not None:
            self._nvml.nvmlShutdown()

    def count(self) -> int:
        return int(self._ask(self._nvml.nvmlDeviceGetCount) or 0)

    def gpu(self, index: int) -> Gpu | None:
        info = self._ask(lambda: self._nvml.nvmlDeviceGetMemoryInfo(self._nvml.nvmlDeviceGetHandleByIndex(index)))
        if info is None or not isinstance(info.total, int) or info.total <= 0:
            return None
        return Gpu(f"cuda:{index}", info.total, info.used if isinstance(info.used, int) else 0)

    def used_by(self, pid: int) -> dict[str, int]:
        found: dict[str, int] = {}
        for index in range(self.count()):
            for lister in ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses"):
                processes = self._ask(
                    lambda lister=lister, index=index: getattr(self._nvml, lister)(
                        self._nvml.nvmlDeviceGetHandleByIndex(index)
                    )
                )
                for process in processes or ():
                    # The driver says N/A (None) where it may not tell.
                    if process.pid == pid and isinstance(process.usedGpuMemory, int):
                        name = f"cuda:{index}"
                        found[name] = max(found.get(name, 0), process.usedGpuMemory)
        return found

    def _ask(self, question: Native) -> Native:
        try:
            return question()
        except self._nvml.NVMLError:
            return None


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
