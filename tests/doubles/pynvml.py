"""A stand-in for NVIDIA's driver library: cards and processes as NSORCH_FAKE_GPUS (a JSON file) says.

``{"gpus": [{"total": N, "used": N, "processes": {"PID": N}}]}`` (``"each": N`` instead: every process);
``"broken": true`` makes every question fail, a size of null is what the driver calls N/A.
"""

import json
import os
from pathlib import Path
from types import SimpleNamespace


class NVMLError(Exception):
    pass


def _world():
    return json.loads(Path(os.environ["NSORCH_FAKE_GPUS"]).read_text())


def nvmlInit():  # noqa: N802 - the library's own names
    if _world().get("no_driver"):
        raise NVMLError("driver not loaded")


def nvmlShutdown():  # noqa: N802
    pass


def _gpus():
    world = _world()
    if world.get("broken"):
        raise NVMLError("GPU is lost")
    return world["gpus"]


def nvmlDeviceGetCount():  # noqa: N802
    return len(_gpus())


def nvmlDeviceGetHandleByIndex(index):  # noqa: N802
    return _gpus()[index]


def nvmlDeviceGetMemoryInfo(handle):  # noqa: N802
    return SimpleNamespace(total=handle["total"], used=handle.get("used"))


def nvmlDeviceGetComputeRunningProcesses(handle):  # noqa: N802
    processes = handle.get("processes", {})
    if "each" in handle:
        processes = {entry.name: handle["each"] for entry in Path("/proc").iterdir() if entry.name.isdigit()}
    return [SimpleNamespace(pid=int(pid), usedGpuMemory=size) for pid, size in processes.items()]


def nvmlDeviceGetGraphicsRunningProcesses(handle):  # noqa: N802
    return []
