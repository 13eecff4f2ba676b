"""The checks behind ``nsorch doctor``.

Owns what counts as missing (an answer is impossible) and as a note (it works, but less well). Only looks: imports no
runtime, wakes no GPU, service or model. Must not know how findings are shown.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

from neuroshell_orch import client
from neuroshell_orch.cli import local, output, private
from neuroshell_orch.config import paths
from neuroshell_orch.errors import OrchError
from neuroshell_orch.sd import units

MODULES: Final = {
    "onnxruntime": "onnxruntime",
    "onnxruntime_genai": "onnxruntime-genai",
    "onnx": "onnx",
    "numpy": "numpy",
    "gguf": "gguf",
    "tokenizers": "tokenizers",
    "systemd": "systemd-python",
    "sdnotify": "sdnotify",
    "starlette": "starlette",
    "uvicorn": "uvicorn",
    "httptools": "httptools",
    "msgspec": "msgspec",
    "dbus_fast": "dbus-fast",
    "rich": "rich",
}
"""What the service imports, and the package that brings it. The runtimes have other names on x86-64 with a GPU."""

FREE_MEMORY: Final = 512 << 20
"""Bytes that the default model needs with room to spare."""

DEFAULT: Final = "nsorch model pull smollm2-135m"


class Check(NamedTuple):
    """One finding: ``state`` is ok, missing or note; ``command`` is what to type."""

    what: str
    state: str
    detail: str
    command: str = ""


def everything() -> list[Check]:
    """All checks, in the order in which they should be mended."""
    return [
        modules(),
        *folders(),
        configuration(),
        model(),
        memory(),
        gpu(),
        manager(),
        *service_units(),
        socket(),
    ]


def modules() -> Check:
    """Whether every Python module can be found."""
    lacking = [package for name, package in MODULES.items() if find_spec(name) is None]
    if not lacking:
        return Check("python modules", "ok", f"Python {sys.version.split()[0]}, all {len(MODULES)} found")
    packaged = sys.prefix.startswith("/usr/lib/nsorch/")
    again = (
        "apt-get install --reinstall nsorch"
        if packaged
        else f"{sys.executable} -m pip install --force-reinstall neuroshell-orch"
    )
    return Check("python modules", "missing", f"not found: {', '.join(lacking)}", again)


def folders() -> list[Check]:
    """Whether our folders can be written to."""
    checks = []
    wanted = {
        "models folder": paths.models_dir(),
        "cache folder": paths.cache_dir(),
        "configuration folder": paths.config_dirs()[-1],
    }
    for what, path in wanted.items():
        there = path
        while not there.exists() and there != there.parent:
            there = there.parent
        if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
            checks.append(Check(what, "ok", str(path)))
        else:
            owner = f"sudo chown -R $(id -u) {there}" if there.is_dir() else f"mv {there} {there}.old"
            checks.append(Check(what, "missing", f"{there} is not a folder that you can write to", owner))
    return checks


def configuration() -> Check:
    """Whether the configuration has errors."""
    bad = [item for item in local.configuration().warnings if item.severity == "error"]
    if bad:
        return Check("configuration", "missing", f"{len(bad)} errors, the first: {bad[0]}", "nsorch config check")
    return Check("configuration", "ok", "no errors")


def model() -> Check:
    """Whether a model is registered that can answer."""
    found = local.configuration()
    if not found.models:
        return Check("model", "missing", "none is registered", DEFAULT)
    gone = [name for name, settings in found.models.items() if not Path(settings.path).exists()]
    default = found.settings.default_model
    if gone:
        return Check("model", "missing", f"the files of {', '.join(gone)} are gone", f"nsorch model rm {gone[0]}")
    if default not in found.models:
        return Check("model", "note", f"{len(found.models)} registered, no default", "nsorch ask -m NAME PROMPT")
    return Check("model", "ok", f"{', '.join(found.models)}; default {default}")


def memory() -> Check:
    """Whether there is room for the default model."""
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    free = int(lines["MemAvailable"].split()[0]) * 1024
    state = "ok" if free >= FREE_MEMORY else "note"
    total = int(lines["MemTotal"].split()[0]) * 1024
    return Check("memory", state, f"{output.size(free)} of {output.size(total)} free", "nsorch model unload NAME")


def gpu() -> Check:
    """Which GPUs there are, without waking one."""
    names = []
    for device in sorted(Path("/sys/bus/pci/devices").glob("*")):
        try:
            display = (device / "class").read_text().startswith("0x03")
            vendor = (device / "vendor").read_text().strip()
        except OSError:
            continue
        if display:
            maker = {"0x10de": "NVIDIA", "0x1002": "AMD", "0x8086": "Intel"}.get(vendor, vendor)
            names.append(f"{maker} at {device.name}")
    if not names and Path("/dev/nvidiactl").exists():
        names.append("NVIDIA")
    if not names:
        return Check("gpu", "ok", "none; models run on the processor")
    usable = os.access("/dev/nvidiactl", os.R_OK | os.W_OK) or not any(name.startswith("NVIDIA") for name in names)
    detail = ", ".join(names)
    if usable:
        return Check("gpu", "ok", detail)
    return Check("gpu", "note", f"{detail}: no driver, or not allowed to use it", "sudo usermod -aG video,render $USER")


def manager() -> Check:
    """Whether a systemd user manager runs."""
    if units.manager_runs():
        return Check("user manager", "ok", "systemd --user runs")
    detail = "none runs; each command starts the service for itself"
    if os.getuid() == 0:
        return Check("user manager", "note", detail, "log in as an ordinary user")
    return Check(
        "user manager", "note", detail, "sudo apt install dbus-user-session; sudo loginctl enable-linger $USER"
    )


def service_units() -> list[Check]:
    """Whether the units are installed and the socket is on."""
    path = private.installed_unit()
    if path is None:
        return [Check("units", "note", "not installed; each command starts the service for itself", "nsorch setup")]
    checks = [Check("units", "ok", str(path.parent))]
    if units.manager_runs():
        command = ["systemctl", "--user", "is-active", private.UNIT]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
            active = done.stdout.strip() == "active"
        except (OSError, subprocess.TimeoutExpired):
            active = False
        enable = f"systemctl --user enable --now {private.UNIT}"
        detail = "active" if active else "not active; each command starts the service for itself"
        checks.append(Check(private.UNIT, "ok" if active else "note", detail, enable))
    return checks


def socket() -> Check:
    """Whether the socket can be used, without connecting to it: that would wake the service."""
    try:
        path = client.socket_path()
    except OrchError as error:
        return Check("socket", "missing", error.message, error.hint)
    if not path.exists():
        return Check("socket", "note", f"{path} is not there", "nsorch setup")
    if not os.access(path, os.R_OK | os.W_OK):
        return Check(
            "socket", "missing", f"{path} belongs to somebody else", "run nsorch as the user whose service it is"
        )
    pid = client.daemon_pid()
    return Check("socket", "ok", f"{path}, the service {f'runs as {pid}' if pid is not None else 'sleeps'}")
