"""Which device a model runs on.

Owns the question whether CUDA is really usable, answered without creating a context: a context costs hundreds of
megabytes and stays until the process ends. Must not import a runtime.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Final

from neuroshell_orch.errors import OrchError

CHOICES: Final = ("auto", "cpu", "cuda")


def cuda_devices(dev: Path = Path("/dev"), library: str = "libcuda.so.1") -> int:
    """How many CUDA devices the driver offers this process. Asks nothing of a machine without the driver's nodes."""
    if not (dev / "nvidiactl").exists():
        return 0
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def choose_device(options: dict[str, str]) -> str:
    """``cpu`` or ``cuda`` for the option ``device`` (auto, cpu, cuda). Raises OrchError where cuda is asked in vain."""
    wanted = options.get("device", "auto")
    if wanted not in CHOICES:
        raise OrchError(
            "config-invalid", f"The device {wanted!r} is not known.", f"Set device to one of: {', '.join(CHOICES)}."
        )
    if wanted == "cpu":
        return "cpu"
    if cuda_devices() > 0:
        return "cuda"
    if wanted == "cuda":
        raise OrchError(
            "load-failed", "The model wants CUDA, but no CUDA device can be used here.", "Set device to auto or cpu."
        )
    return "cpu"
