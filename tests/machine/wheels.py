"""What pip needs inside a guest: a folder of wheels for the guest's Python, and our own wheel.

Owns the download of the dependencies (once for each list of dependencies and version of Python) and the layer with
a venv that holds them, so that a run installs only our own wheel. Must not know how a guest is booted.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import roots

CHECKOUT = Path(__file__).parents[2]
SOURCE_ONLY = ("systemd-python", "sdnotify")
"""Dependencies that the registry has no wheels of: they are built in the guest, as they are for a user."""

GLIBC = 36
"""Wheels for a newer glibc than Debian 12's (2.36) are not taken."""


def why_not() -> str:
    """Why nothing can be downloaded or built here, or an empty string."""
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=False).returncode != 0:
        return f"{sys.executable} has no pip"
    return ""


def dependencies() -> list[str]:
    """As pyproject.toml lists them."""
    return tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["dependencies"]


def wheelhouse(python: str) -> Path:
    """A folder with every dependency for CPython ``python`` on this kind of machine."""
    wanted = dependencies()
    target = roots.cache() / "wheels" / f"cp{python}-{roots.key(*wanted)}"
    with roots.lock(target.name):
        if not target.exists():
            building = target.with_name(f"{target.name}.new")
            building.mkdir(parents=True, exist_ok=True)  # what an interrupted run has downloaded is used
            binary = [line for line in wanted if not line.startswith(SOURCE_ONLY)]
            source = [line for line in wanted if line.startswith(SOURCE_ONLY)]
            download = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(building)]
            machine = os.uname().machine
            platforms = [f"--platform=manylinux_2_{minor}_{machine}" for minor in range(GLIBC, 16, -1)]
            platforms += [f"--platform=manylinux2014_{machine}"]
            where = [f"--find-links={building}", "--python-version", python, "--implementation", "cp", *platforms]
            roots.command([*download, "--no-deps", "--no-binary", ":all:", *source])
            roots.command([*download, *where, "--only-binary", ":all:", "setuptools", "wheel", *binary])
            building.rename(target)
    return target


def own_wheel(folder: Path) -> Path:
    """Our own wheel, built from the checkout into ``folder``."""
    source = folder / "source"
    # A copy: a build leaves files behind, and the checkout may be edited meanwhile.
    shutil.copytree(
        CHECKOUT / "neuroshell_orch", source / "neuroshell_orch", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copytree(CHECKOUT / "systemd", source / "systemd")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, source)
    argv = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(source)]
    roots.command(argv)
    shutil.rmtree(source)
    folder.chmod(0o755)  # alice reads it too
    return next(folder.glob("neuroshell_orch-*.whl"))


def venv_layer(suite: roots.Suite) -> Path:
    """A layer with ~/venv of alice that holds the dependencies and not us."""
    wanted = dependencies()
    script = f"""
export HOME=/home/{roots.USER} PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
exec setpriv --reuid={roots.UID} --regid={roots.UID} --init-groups /bin/sh -euc '
  cd
  python3 -m venv venv
  printf "%s\\n" "$@" > /tmp/wanted
  venv/bin/pip install --quiet --requirement /tmp/wanted
  rm /tmp/wanted
' venv {" ".join(map(shlex.quote, wanted))}
"""
    root = roots.root(suite)
    name = f"venv-{suite.name}-{roots.key(root.name, script, *wanted)}"
    return roots.layer(name, [root], script, {wheelhouse(suite.python): "/wheels"})
