"""Debian roots for the machine tests: built once, kept in a cache folder, never written to again.

Owns the cache folder (``NSORCH_TEST_CACHE``, default ``~/.cache/nsorch-tests``), its locks, the recipe of each root
and of each layer above a root, and how roots and layers are stacked into a folder that a guest may write to. Must
not know what is tested in them.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import shlex
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

TOOLS = ("debootstrap", "systemd-nspawn", "nsenter", "unshare", "setpriv", "mount", "chroot")
BASE = "systemd,systemd-sysv,dbus,dbus-user-session,libpam-systemd,python3,ca-certificates"
USER = "alice"
UID = 1000

SETUP = f"""
useradd --create-home --uid {UID} --shell /bin/bash {USER}
mkdir -p /var/lib/systemd/linger
touch /var/lib/systemd/linger/{USER}
echo nsorch-test > /etc/hostname
rm -rf /var/cache/apt/archives/*.deb /var/lib/apt/lists/*
"""


@dataclass(frozen=True)
class Suite:
    """One Debian: what is in it besides systemd and Python, and the versions it must have."""

    name: str
    systemd: int
    python: str
    packages: str = ""


SUITES = {
    "bookworm": Suite("bookworm", 252, "3.11"),
    "trixie": Suite("trixie", 257, "3.13", "python3-venv,python3-dev,gcc,pkg-config,libsystemd-dev"),
}


def why_not() -> str:
    """Why no guest can run here, or an empty string."""
    if os.geteuid() != 0:
        return "booting a machine takes root"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (apt-get install debootstrap systemd-container)"
    return ""


def cache() -> Path:
    """The cache folder."""
    folder = Path(os.environ.get("NSORCH_TEST_CACHE") or Path.home() / ".cache" / "nsorch-tests")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def lock(name: str):
    """Only one process at a time builds ``name``; the others wait."""
    folder = cache() / "locks"
    folder.mkdir(exist_ok=True)
    with (folder / name).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def key(*parts: str) -> str:
    """A short name for everything that the content of a cache entry depends on."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def command(argv: list[str], **options) -> str:
    """Run a host command; its output belongs to the error when it fails."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, **options)
    if done.returncode != 0:
        raise RuntimeError(
            f"{shlex.join(argv)} failed ({done.returncode}):\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        )
    return done.stdout


def root(suite: Suite) -> Path:
    """The pristine root of ``suite``; the first call takes a minute."""
    packages = f"{BASE},{suite.packages}".rstrip(",")
    target = cache() / "roots" / f"{suite.name}-{key(packages, SETUP)}"
    with lock(target.name):
        if not target.exists():
            building = target.with_name(f"{target.name}.new")
            shutil.rmtree(building, ignore_errors=True)
            building.parent.mkdir(exist_ok=True)
            mirror = os.environ.get("NSORCH_TEST_MIRROR", "http://deb.debian.org/debian")
            command(["debootstrap", "--variant=minbase", f"--include={packages}", suite.name, str(building), mirror])
            command(["chroot", str(building), "/bin/sh", "-euc", SETUP])
            building.rename(target)
    return target


def layer(name: str, below: list[Path], script: str, binds: dict[Path, str]) -> Path:
    """What root's ``script`` adds when it is run in the stack ``below`` (topmost first), kept under ``name``.

    ``name`` must hold a key of everything that the result depends on.
    """
    target = cache() / "layers" / name
    with lock(name):
        if not target.exists():
            building = target.with_name(f"{name}.new")
            shutil.rmtree(building, ignore_errors=True)
            for folder in ("upper", "work", "merged"):
                (building / folder).mkdir(parents=True)
            nspawn = ["systemd-nspawn", "--quiet", "--keep-unit", "--register=no", "--as-pid2", "--console=pipe"]
            nspawn += [f"--machine=nsorch-build-{os.getpid()}", f"--directory={building / 'merged'}"]
            nspawn += [f"--bind-ro={source}:{inside}" for source, inside in binds.items()]
            nspawn += ["/bin/sh", "-euc", script]
            command(stacked(below, building, nspawn), stdin=subprocess.DEVNULL)
            for folder in ("work", "merged"):
                shutil.rmtree(building / folder)
            building.rename(target)
    return target / "upper"


@functools.cache
def overlay_works() -> bool:
    """Whether the cache's file system can carry the upper folder of an overlay."""
    probe = cache() / f"probe-{os.getpid()}"
    for folder in ("lower", "upper", "work", "merged"):
        (probe / folder).mkdir(parents=True)
    try:
        argv = stacked([probe / "lower"], probe, ["true"], overlay=True)
        return subprocess.run(argv, capture_output=True, check=False).returncode == 0
    finally:
        shutil.rmtree(probe)


def stacked(below: list[Path], folder: Path, argv: list[str], overlay: bool | None = None) -> list[str]:
    """The command that stacks ``below`` (topmost first) under ``folder/upper`` in ``folder/merged`` and runs ``argv``.

    The mount is made in a namespace of its own: it is gone with the command, however that ends. Where no overlay can
    be made the stack is copied.
    """
    if overlay_works() if overlay is None else overlay:
        options = f"lowerdir={':'.join(map(str, below))},upperdir={folder / 'upper'},workdir={folder / 'work'}"
        prepare = shlex.join(["mount", "-t", "overlay", "overlay", "-o", options, str(folder / "merged")])
    else:
        merged = shlex.quote(str(folder / "merged"))
        prepare = " && ".join(f"cp -a --reflink=auto {shlex.quote(str(part))}/. {merged}/" for part in reversed(below))
    script = f"{prepare} && exec {shlex.join(argv)}"
    return ["unshare", "--mount", "--propagation", "private", "/bin/sh", "-c", script]
