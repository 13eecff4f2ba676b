"""The Debian package of this checkout, built once for each state of it and kept in the cache folder.

Owns when it must be built anew and how many are kept. Must not know what is tested with it.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
from pathlib import Path

import roots

CHECKOUT = Path(__file__).parents[2]
BUILD = CHECKOUT / "packaging" / "deb" / "build"
INPUTS = ("neuroshell_orch", "systemd", "packaging", "docs", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md")
KEPT = 2


def why_not() -> str:
    reason = roots.why_not()
    if reason:
        return reason
    if shutil.which("dpkg-deb") is None:
        return "this is not a Debian: there is no dpkg-deb"
    if host() not in roots.SUITES:
        return f"a package fits the Debian that it was built on, and there is no guest of {host() or 'this system'}"
    done = subprocess.run([BUILD, "--check"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return done.stderr.strip()
    return ""


def host() -> str:
    return platform.freedesktop_os_release().get("VERSION_CODENAME", "")


def inputs() -> str:
    """Twelve digits that change with everything that is in the package."""
    digest = hashlib.sha256()
    for part in INPUTS:
        top = CHECKOUT / part
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(CHECKOUT)}\0{path.stat().st_mode}\0".encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def build() -> Path:
    """The package's path; built when something in it changed, with the same dependencies as last time if it can."""
    cache = roots.cache() / "deb"
    target = cache / f"nsorch-{inputs()}"
    dependencies = (CHECKOUT / "pyproject.toml").read_text().partition("dependencies = [")[2].partition("]")[0]
    with roots.lock("deb"):
        if not target.exists():
            building = cache / f"new-{os.getpid()}"
            variables = {
                "NSORCH_DEB_CACHE": str(cache / "environments"),
                "NSORCH_DEB_LOCK": str(cache / f"{roots.key(dependencies)}.lock"),
                "NSORCH_DEB_LEVEL": "3",
            }
            try:
                roots.command([str(BUILD), str(building)], env=os.environ | variables)
                building.rename(target)
            finally:
                shutil.rmtree(building, ignore_errors=True)
            kept = sorted(cache.glob("nsorch-*"), key=lambda path: path.stat().st_mtime, reverse=True)
            for old in kept[KEPT:]:
                shutil.rmtree(old)
    return next(target.glob("*.deb"))
