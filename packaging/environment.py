"""Builds the self-contained environment that a distribution's package carries: a venv that may lie anywhere.

``environment.py DEST --prefix /usr/lib/nsorch/venv --cache DIR [--lock FILE]`` puts it below ``DEST``. Owns the
resolution of the dependencies, the cache of the installed ones (keyed by the resolved versions; our own code is
always fresh) and the promise that no path of the build is left in any file: no script but ours, no record of the
installer, byte code that names the final path. Uses the standard library alone, because it runs under the
interpreter that the package will depend on. Must not know any package format.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"
SITE = f"lib/python{VERSION}/site-packages"

SOURCE_ONLY = ("systemd-python", "sdnotify")
"""What the registry has no wheels of. They are compiled here, so the flags are ours and pip's cache is not asked."""

CODE_FLAGS = ("-g0", "-O2", "-fstack-protector-strong", "-Wformat", "-Werror=format-security", "-D_FORTIFY_SOURCE=2")
LINK_FLAGS = ("-Wl,-z,relro", "-Wl,-z,now", "-Wl,--as-needed")

INSTALLER_RECORDS = ("RECORD", "REQUESTED", "direct_url.json")
"""Without them pip leaves the files alone: they belong to the package manager."""

KEPT = 2
"""How many sets of dependencies the cache holds."""

LAUNCHER = """#!{prefix}/bin/python3 -I
from neuroshell_orch.cli.main import run

run()
"""


@dataclass(frozen=True)
class Place:
    """Where the environment is put, where it will lie, and what is kept for the next time."""

    dest: Path
    prefix: str
    cache: Path
    lock: Path | None
    installer: str

    @property
    def root(self) -> Path:
        """The environment's folder below ``dest``."""
        return self.dest / self.prefix.lstrip("/")


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("dest", type=Path, help="the folder that stands for /")
    parser.add_argument("--prefix", required=True, help="where the environment will lie once it is installed")
    parser.add_argument("--cache", required=True, type=Path, help="what is kept for the next build")
    parser.add_argument("--lock", type=Path, help="exact versions: read if the file is there, else written")
    parser.add_argument("--installer", default="package-manager", help="who pip shall say installed it")
    given = parser.parse_args()
    place = Place(given.dest.resolve(), given.prefix, given.cache.resolve(), given.lock, given.installer)
    place.cache.mkdir(parents=True, exist_ok=True)
    tools = make_tools(place.cache)
    lock = read_lock(place, tools)
    dependencies = install_dependencies(place, tools, lock)
    assemble(place, dependencies)
    install_ourselves(place, tools)
    check(place)


def say(text: str) -> None:
    """One line of progress."""
    sys.stderr.write(f"environment: {text}\n")
    sys.stderr.flush()


def run(argv: list[str], **variables: str) -> str:
    """Run a program; what it prints is returned, what it complains about is shown."""
    environ = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONHOME"}}
    done = subprocess.run(argv, check=False, stdout=subprocess.PIPE, text=True, env=environ | variables)
    if done.returncode != 0:
        sys.stderr.write(done.stdout)
        sys.exit(f"environment: this failed with {done.returncode}: {' '.join(argv)}")
    return done.stdout


def key(*parts: str) -> str:
    """A short name for everything that something in the cache depends on."""
    return hashlib.sha256("\0".join((sysconfig.get_platform(), sys.version, *parts)).encode()).hexdigest()[:12]


def project() -> dict[str, object]:
    """pyproject.toml."""
    return tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))


def make_tools(cache: Path) -> Path:
    """A venv with pip and what builds our own wheel; its interpreter."""
    wanted = [*project()["build-system"]["requires"], "setuptools>=61", "wheel"]
    folder = cache / f"tools-{key(*wanted)}"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        say("making the tools")
        shutil.rmtree(folder, ignore_errors=True)
        run([sys.executable, "-m", "venv", str(folder)])
        run([*pip(python), "install", "--quiet", *wanted])
        (folder / "complete").touch()
    return python


def pip(python: Path) -> list[str]:
    """The pip of the tools."""
    return [str(python), "-m", "pip", "--disable-pip-version-check"]


def read_lock(place: Place, tools: Path) -> list[str]:
    """The exact version of every dependency, as ``name==version``."""
    if place.lock is not None and place.lock.exists():
        lines = place.lock.read_text(encoding="utf-8").splitlines()
        return [line for line in lines if line and not line.startswith("#")]
    say("resolving the dependencies")
    wanted = project()["project"]["dependencies"]
    argv = [*pip(tools), "install", "--quiet", "--dry-run", "--ignore-installed", "--report", "-", *wanted]
    found = [entry["metadata"] for entry in json.loads(run(argv))["install"]]
    lock = sorted(f"{normal(one['name'])}=={one['version']}" for one in found)
    if place.lock is not None:
        place.lock.parent.mkdir(parents=True, exist_ok=True)
        replace_text(place.lock, "\n".join(lock) + "\n")
    return lock


def normal(name: str) -> str:
    """A distribution's name as the registry writes it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def replace_text(path: Path, text: str) -> None:
    """Write a file so that nobody ever sees half of it."""
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


def install_dependencies(place: Place, tools: Path, lock: list[str]) -> Path:
    """A folder with everything that ``lock`` names, compiled for its final place; made once."""
    folder = place.cache / f"site-{key(place.prefix, place.installer, Path(__file__).read_text('utf-8'), *lock)}"
    if folder.exists():
        say(f"the dependencies are in {folder}")
        folder.touch()
        return folder
    say(f"installing {len(lock)} dependencies")
    new = place.cache / f"{folder.name}.{os.getpid()}.new"
    wheels = place.cache / f"{folder.name}.{os.getpid()}.wheels"
    flags = {"CFLAGS": " ".join(CODE_FLAGS), "LDFLAGS": " ".join(LINK_FLAGS)}
    source = [line for line in lock if line.partition("==")[0] in SOURCE_ONLY]
    build = ["wheel", "--quiet", "--no-deps", "--no-cache-dir", "--no-build-isolation", "--no-binary", ":all:"]
    try:
        run([*pip(tools), *build, "--wheel-dir", str(wheels), *source], **flags)
        install(tools, new, [*(line for line in lock if line not in source), *map(str, wheels.glob("*.whl"))])
        strip_own_builds(new, wheels)
        finish(place, new)
        new.rename(folder)
        prune(place.cache)
    finally:
        shutil.rmtree(wheels, ignore_errors=True)
        shutil.rmtree(new, ignore_errors=True)
    return folder


def prune(cache: Path) -> None:
    """Keep the newest few of what was installed: each is half a gigabyte."""
    kept = sorted(cache.glob("site-????????????"), key=lambda path: path.stat().st_mtime, reverse=True)
    for folder in kept[KEPT:]:
        shutil.rmtree(folder)


def install(tools: Path, target: Path, what: list[str]) -> None:
    """Exactly these, without scripts."""
    run([*pip(tools), "install", "--quiet", "--no-deps", "--no-compile", "--target", str(target), *what])
    shutil.rmtree(target / "bin", ignore_errors=True)


def strip_own_builds(site: Path, wheels: Path) -> None:
    """Drop the symbols of the modules that were compiled here; what others built stays as it is."""
    for wheel in wheels.glob("*.whl"):
        listed = run([sys.executable, "-m", "zipfile", "--list", str(wheel)])
        for name in re.findall(r"^(\S+\.so)\s", listed, re.MULTILINE):
            run(["strip", "--strip-unneeded", str(site / name)])


def finish(place: Place, site: Path) -> None:
    """Take away what the installer noted for itself, and compile with the names that files will have.

    The byte code is not compared with its source at run time: nobody but the package manager changes either.
    """
    for info in site.glob("*.dist-info"):
        for name in INSTALLER_RECORDS:
            (info / name).unlink(missing_ok=True)
        (info / "INSTALLER").write_text(f"{place.installer}\n", encoding="utf-8")
    for file in (*site.rglob("*.py"), *site.glob("*.dist-info/*")):
        if file.is_file():
            file.chmod(0o644)  # some wheels mark everything as a program
    argv = [sys.executable, "-m", "compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash"]
    # Some packages carry templates and tests that are not for this Python: what cannot be compiled stays source.
    argv += ["-s", str(site), "-p", f"{place.prefix}/{SITE}", str(site)]
    subprocess.run(argv, check=False, stdout=subprocess.DEVNULL)


def assemble(place: Place, dependencies: Path) -> None:
    """The venv: what ``python3 -m venv`` would make, without what nobody needs, for its final place."""
    say(f"assembling {place.prefix}")
    shutil.rmtree(place.root, ignore_errors=True)
    (place.root / "bin").mkdir(parents=True)
    home = Path(sysconfig.get_config_var("BINDIR"))
    (place.root / "bin" / "python3").symlink_to(home / "python3")
    (place.root / "bin" / "python").symlink_to("python3")
    version = ".".join(map(str, sys.version_info[:3]))
    (place.root / "pyvenv.cfg").write_text(
        f"home = {home}\ninclude-system-site-packages = false\nversion = {version}\n", encoding="utf-8"
    )
    launcher = place.root / "bin" / "nsorch"
    launcher.write_text(LAUNCHER.format(prefix=place.prefix), encoding="utf-8")
    launcher.chmod(0o755)
    (place.root / SITE).parent.mkdir(parents=True)
    run(["cp", "-a", "--reflink=auto", str(dependencies), str(place.root / SITE)])


def install_ourselves(place: Place, tools: Path) -> None:
    """Our own wheel, built from this checkout, into the venv."""
    say("building our own wheel")
    work = place.cache / f"own-{os.getpid()}"
    try:
        build = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-cache-dir"]
        run([*pip(tools), *build, "--wheel-dir", str(work), str(CHECKOUT)])
        install(tools, work / "site", [str(wheel) for wheel in work.glob("*.whl")])
        finish(place, work / "site")
        for part in (work / "site").iterdir():
            run(["cp", "-a", str(part), str(place.root / SITE)])
    finally:
        shutil.rmtree(work, ignore_errors=True)


def check(place: Place) -> None:
    """Fail if a file still names a folder of the build, or if the environment does not run."""
    paths = [argument for path in (place.dest, place.cache, CHECKOUT) for argument in ("-e", str(path))]
    argv = ["grep", "--recursive", "--files-with-matches", "--fixed-strings", *paths, str(place.root)]
    found = subprocess.run(argv, check=False, capture_output=True, text=True).stdout
    if found:
        sys.exit(f"environment: these files name a folder of the build:\n{found}")
    python = str(place.root / "bin" / "python3")
    said = run([python, "-I", "-B", "-c", "import neuroshell_orch as n; print(n.__version__)"])
    say(f"version {said.strip()} in {place.root}")


if __name__ == "__main__":
    main()
