"""What is configured, for people and scripts: the files as they are, and the values in force with their origin.

Owns the two listings behind ``nsorch config cat`` and ``nsorch config show``. Must not print, colour or judge.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import msgspec

from neuroshell_orch.config.load import Configuration, load
from neuroshell_orch.config.paths import config_dirs
from neuroshell_orch.config.schema import SECTIONS, show_value
from neuroshell_orch.config.tree import Part, read_tree

DEFAULT = "default"


class Entry(NamedTuple):
    """One value in force. ``name`` is empty for the settings; ``source`` is ``file:line`` or ``default``."""

    section: str
    name: str
    key: str
    value: str
    source: str


def cat(dirs: list[Path] | None = None) -> list[tuple[Path, str]]:
    """Every file in reading order with its text; of one that does not count, a comment that says why."""
    tree = read_tree(config_dirs() if dirs is None else dirs)
    units = [tree.settings, *tree.modes.values(), *tree.models.values()]
    return [(Path(part.path), _text(part)) for unit in units for part in unit.parts]


def _text(part: Part) -> str:
    if part.hidden:
        return f"# {part.hidden}\n"
    if not part.parsed.text and part.parsed.findings:
        return "".join(f"# {finding.message}\n" for finding in part.parsed.findings)
    return part.parsed.text


def show(dirs: list[Path] | None = None) -> list[Entry]:
    """Every value in force, of the settings, then each mode, then each model; broken ones are left out."""
    config = load(dirs, lenient=True)
    entries = _entries(config, "Orchestrator", "", config.settings)
    for mode in config.modes.values():
        entries += _entries(config, "Mode", mode.name, mode)
    for model in config.models.values():
        entries += _entries(config, "Model", model.name, model)
    return entries


def _entries(config: Configuration, section: str, name: str, struct: msgspec.Struct) -> list[Entry]:
    entries = []
    for key, field in SECTIONS[section].items():
        value = getattr(struct, field.field)
        item = config.origins.get((section, name, field.field))
        # A value that was replaced because it names nothing is no longer the one that the file gives.
        written = item is not None and field.spec.kind.parse(item.value) == value
        entries.append(Entry(section, name, key, show_value(field, value), item.where if item and written else DEFAULT))
    return entries
