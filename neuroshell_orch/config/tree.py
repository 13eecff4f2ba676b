"""Which files count: the configuration folders searched, masks applied, everything else put in reading order.

Owns the rules of drop-ins: files of the same name mask each other and the later folder wins, all others merge in the
order of their names, and a mask (an empty file or a link to ``/dev/null``) hides what it stands for. Must not know
what the keys mean.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from neuroshell_orch.config.kinds import NAME_FORMS, is_name
from neuroshell_orch.config.parse import Finding, Parsed, parse_file
from neuroshell_orch.config.paths import config_dirs

MAIN = "nsorch.conf"
SUFFIX = ".conf"
DROPINS = ".conf.d"


class Part(NamedTuple):
    """One file of the tree: parsed if it counts, else ``hidden`` says what hides it."""

    path: str
    parsed: Parsed
    hidden: str = ""


class Unit(NamedTuple):
    """The parts of one thing: the settings, or one mode or model, in reading order; the base file is first."""

    name: str
    parts: list[Part]
    base: str
    """The path of the file that the thing stands in; empty where only drop-ins for it exist, or it is masked."""

    @property
    def counting(self) -> list[Part]:
        """The parts that are not hidden."""
        return [part for part in self.parts if not part.hidden]


class Tree(NamedTuple):
    """Everything that was found."""

    settings: Unit
    modes: dict[str, Unit]
    models: dict[str, Unit]
    findings: list[Finding]


def read_tree(dirs: list[Path]) -> Tree:
    """Search ``dirs``, the later one wins, and read every file that counts."""
    findings: list[Finding] = []
    roots = [str(path) for path in dirs]
    mains = [path for root in roots if os.path.lexists(path := f"{root}/{MAIN}")]
    settings = _unit("", mains, [f"{root}/{MAIN}.d" for root in roots], findings)
    return Tree(settings, _units(roots, "modes.d", findings), _units(roots, "models.d", findings), findings)


def sources(model: str, mode: str) -> list[str]:
    """Every file and folder that has a say in how ``model`` in ``mode`` is loaded, also where there is none yet."""
    found = []
    for root in map(str, config_dirs()):
        bases = (f"{root}/{MAIN}", f"{root}/modes.d/{mode}{SUFFIX}", f"{root}/models.d/{model}{SUFFIX}")
        found += [root, f"{root}/modes.d", f"{root}/models.d", *bases]
        for base in bases:
            folder = f"{base}.d"
            found += [folder, *(f"{folder}/{name}" for name in sorted(_scan(folder, [])))]
    return found


def _scan(folder: str, findings: list[Finding]) -> list[str]:
    """The visible names in ``folder``; nothing where it does not exist."""
    try:
        return [name for name in os.listdir(folder) if name[0] != "."]
    except FileNotFoundError:
        return []
    except OSError as error:
        findings.append(Finding("error", folder, 0, f"the folder cannot be read: {error.strerror}"))
        return []


def _unit(name: str, bases: list[str], folders: list[str], findings: list[Finding]) -> Unit:
    """Read one thing: the last of ``bases``, then the files of ``folders`` merged by name."""
    parts = _winner(bases)
    dropins: dict[str, list[str]] = {}
    for folder in folders:
        for file in _scan(folder, findings):
            if file.endswith(SUFFIX):
                dropins.setdefault(file, []).append(f"{folder}/{file}")
    for file in sorted(dropins):
        parts += _winner(dropins[file])
    base = bases[-1] if bases and not parts[len(bases) - 1].hidden else ""
    return Unit(name, parts, base)


def _winner(paths: list[str]) -> list[Part]:
    """The files of one name as parts, the last one read; all of them hidden where it is a mask."""
    if not paths:
        return []
    last = paths[-1]
    parsed = parse_file(last)
    parts = [Part(path, Parsed(), f"masked by {last}") for path in paths[:-1]]
    return [*parts, Part(last, parsed, "a mask: it hides files of this name" if parsed.masked else "")]


def _units(roots: list[str], kind: str, findings: list[Finding]) -> dict[str, Unit]:
    bases: dict[str, list[str]] = {}
    folders: dict[str, list[str]] = {}
    for root in roots:
        for file in _scan(f"{root}/{kind}", findings):
            path = f"{root}/{kind}/{file}"
            if file.endswith(SUFFIX):
                bases.setdefault(file.removesuffix(SUFFIX), []).append(path)
            elif file.endswith(DROPINS):
                folders.setdefault(file.removesuffix(DROPINS), []).append(path)
    units: dict[str, Unit] = {}
    for name in sorted(bases.keys() | folders.keys()):
        found = bases.get(name, [])
        if not is_name(name):
            where = (found or folders[name])[-1]
            findings.append(Finding("error", where, 0, f"its name is not valid: expected {NAME_FORMS}"))
            continue
        unit = _unit(name, found, folders.get(name, []), findings)
        units[name] = unit
        if not found:
            message = f"it changes nothing: there is no {kind}/{name}{SUFFIX}"
            findings.extend(Finding("warning", part.path, 0, message) for part in unit.counting)
    return units
