"""The configuration as the rest of the program sees it: typed, checked, and with the place each value came from.

Owns the cross checks between files and the two ways to load: strict (any error refuses the whole, as at a reload)
and lenient (what is broken is left out and reported, as at the start of the daemon). Must not know how files are
found or written, nor act on any value.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import msgspec

from neuroshell_orch.config.parse import Assignment, Finding
from neuroshell_orch.config.paths import config_dirs
from neuroshell_orch.config.schema import SECTIONS, ModelSettings, ModeSettings, Resolved, Settings, closest, resolve
from neuroshell_orch.config.tree import Tree, Unit, read_tree
from neuroshell_orch.errors import OrchError

if TYPE_CHECKING:
    from pathlib import Path

FALLBACK_MODE: Final = "timeout"
_BUILT_IN: Final = "(built in)"
_SHOWN_ERRORS: Final = 5


class ConfigError(OrchError):
    """The configuration has errors; ``findings`` holds all of them, and the warnings."""

    def __init__(self, findings: list[Finding]) -> None:
        errors = [item for item in findings if item.severity == "error"]
        lines = [f"{item.where}: {item.message}" for item in errors[:_SHOWN_ERRORS]]
        if len(errors) > _SHOWN_ERRORS:
            lines.append(f"and {len(errors) - _SHOWN_ERRORS} more")
        hint = "Correct the files, then see what 'nsorch config check' says."
        super().__init__("config-invalid", "\n".join(["the configuration is not valid:", *lines]), hint)
        self.findings = findings


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is configured. ``origins`` maps (section, thing's name, field) to the assignment behind it."""

    settings: Settings
    modes: dict[str, ModeSettings]
    models: dict[str, ModelSettings]
    warnings: list[Finding]
    origins: dict[tuple[str, str, str], Assignment]

    def mode_of(self, model: str) -> ModeSettings:
        """The mode that ``model`` is in."""
        own = self.models[model].mode if model in self.models else ""
        return self.modes[own or self.settings.mode]


class _Loader:
    """One run over the tree. Every problem lands in ``findings``; what can be used lands in the dictionaries."""

    def __init__(self, tree: Tree) -> None:
        self.findings = [*tree.findings]
        self.origins: dict[tuple[str, str, str], Assignment] = {}
        self.broken: set[tuple[str, str]] = set()
        """(section, name) of what was left out because of an error, which has been told."""
        self.settings = Settings(**self._resolve("Orchestrator", tree.settings).values)
        self.modes: dict[str, ModeSettings] = {}
        for unit in tree.modes.values():
            values = self._complete("Mode", unit)
            if values is not None:
                self.modes[unit.name] = ModeSettings(name=unit.name, source=unit.base, **values)
        self.models: dict[str, ModelSettings] = {}
        for unit in tree.models.values():
            values = self._complete("Model", unit)
            if values is not None:
                self.models[unit.name] = ModelSettings(name=unit.name, source=unit.base, **values)
        self._cross_check()

    def _resolve(self, section: str, unit: Unit) -> Resolved:
        counting = unit.counting
        for part in counting:
            self.findings += part.parsed.findings
        resolved = resolve(section, [item for part in counting for item in part.parsed.assignments])
        self.findings += resolved.findings
        for field, item in resolved.origins.items():
            self.origins[section, unit.name, field] = item
        return resolved

    def _complete(self, section: str, unit: Unit) -> dict[str, Any] | None:
        """The values of a mode or a model; None where it is masked or lacks what it cannot do without."""
        if not unit.base:
            return None
        resolved = self._resolve(section, unit)
        required = [field for field in SECTIONS[section].values() if field.spec.required]
        missing = [field for field in required if field.field not in resolved.values]
        unread = any(part.parsed.findings and not part.parsed.text for part in unit.counting)
        for field in missing:
            if not unread and field.field not in resolved.bad:
                text = f"{field.key}= is missing in [{section}]: expected {field.spec.kind.allowed}{_whole_file(unit)}"
                self.findings.append(Finding("error", unit.base, 0, text))
        if missing:
            self.broken.add((section, unit.name))
            return None
        return resolved.values

    def _is_told(self, section: str, name: str, known: dict[str, Any]) -> bool:
        """Whether nothing has to be said about ``name``: it exists, or its own error says enough."""
        return name in known or (section, name) in self.broken

    def _complain(self, severity: str, where: tuple[str, str, str], message: str) -> None:
        item = self.origins.get(where)
        path, line = (item.path, item.line) if item else (_BUILT_IN, 0)
        self.findings.append(Finding("error" if severity == "error" else "warning", path, line, message))

    def _cross_check(self) -> None:
        if not self._is_told("Mode", self.settings.mode, self.modes):
            text = f"Mode={self.settings.mode} names no mode{_known(self.settings.mode, self.modes)}"
            self._complain("error", ("Orchestrator", "", "mode"), text)
        default = self.settings.default_model
        if default and not self._is_told("Model", default, self.models):
            text = f"DefaultModel={default} names no registered model{_known(default, self.models)}"
            self._complain("warning", ("Orchestrator", "", "default_model"), text)
        for mode in self.modes.values():
            if mode.policy == "hibernate" and mode.forget_sec <= mode.idle_sec:
                text = "it never hibernates, because ForgetSec= is not longer than IdleSec="
                self._complain("warning", ("Mode", mode.name, "policy"), text)
        for model in self.models.values():
            if model.mode and not self._is_told("Mode", model.mode, self.modes):
                text = f"Mode={model.mode} names no mode{_known(model.mode, self.modes)}"
                self._complain("error", ("Model", model.name, "mode"), text)
            if not os.path.exists(model.path):  # noqa: PTH110 - str on purpose, on the way to the first token
                self._complain("warning", ("Model", model.name, "path"), f"Path={model.path} does not exist")

    def mend(self) -> None:
        """Replace every name of a mode that does not exist, so that whoever reads the result needs no check."""
        if self.settings.mode not in self.modes:
            if FALLBACK_MODE not in self.modes:
                self.modes[FALLBACK_MODE] = ModeSettings(name=FALLBACK_MODE, source=_BUILT_IN, policy="timeout")
            self.settings = msgspec.structs.replace(self.settings, mode=FALLBACK_MODE)
        for name, model in self.models.items():
            if model.mode and model.mode not in self.modes:
                self.models[name] = msgspec.structs.replace(model, mode="")


def _known(name: str, names: dict[str, Any]) -> str:
    guess = closest(name, names)
    listed = f"there are {', '.join(names)}" if names else "there is none"
    return f": did you mean {guess}? ({listed})" if guess else f": {listed}"


def _whole_file(unit: Unit) -> str:
    """The advice for who meant to change one value and replaced a whole file."""
    hidden = [part.path for part in unit.parts if part.hidden and part.path.endswith(f"/{unit.name}.conf")]
    if not hidden:
        return ""
    return f" (this file replaces all of {hidden[-1]}; to change single values use {unit.name}.conf.d/NAME.conf)"


def load(dirs: list[Path] | None = None, *, lenient: bool = False) -> Configuration:
    """Read the configuration. Raises ConfigError where it has an error.

    With ``lenient`` nothing is raised: a broken value counts as not written, a mode or model that lacks something
    is left out, a mode that does not exist becomes ``timeout``, and the errors stand among ``warnings``.
    """
    loader = _Loader(read_tree(config_dirs() if dirs is None else dirs))
    if lenient:
        loader.mend()
    elif any(item.severity == "error" for item in loader.findings):
        raise ConfigError(loader.findings)
    return Configuration(
        settings=loader.settings,
        modes=loader.modes,
        models=loader.models,
        warnings=loader.findings,
        origins=loader.origins,
    )


def check(dirs: list[Path] | None = None) -> list[Finding]:
    """Every error and warning of the configuration."""
    return load(dirs, lenient=True).warnings
