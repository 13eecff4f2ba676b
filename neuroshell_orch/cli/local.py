"""What can be said without the daemon: names, modes, and that everything is cold.

Owns the answers of ``ps``, ``status``, ``why`` and ``mode`` while the daemon sleeps, read from the configuration;
none of them may wake it. Must not know how they are shown.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from neuroshell_orch import __version__
from neuroshell_orch.api.schema import ModeInfo, ModelStatus, Status, Why
from neuroshell_orch.client import Client, daemon_pid
from neuroshell_orch.config import write
from neuroshell_orch.config.load import load
from neuroshell_orch.config.schema import SECTIONS, show_value

if TYPE_CHECKING:
    from neuroshell_orch.config.load import Configuration

ASLEEP = "the service sleeps"


def running() -> Client | None:
    """A client of the daemon if it runs; None, and it sleeps on, if it does not."""
    if os.environ.get("NSORCH_SOCKET") or daemon_pid() is not None:
        return Client()
    return None


def configuration() -> Configuration:
    """The configuration, whatever is wrong in it."""
    return load(lenient=True)


def model_names() -> list[str]:
    """The registered models."""
    return list(configuration().models)


def mode_names() -> list[str]:
    """The selectable modes."""
    return list(configuration().modes)


def status() -> Status:
    """The status of a daemon that sleeps."""
    found = configuration()
    return Status(
        version=__version__,
        pid=0,
        unit=None,
        started=0.0,
        mode=found.settings.mode,
        default_model=found.settings.default_model or None,
        launcher="",
        models=[
            ModelStatus(
                name=model.name,
                path=model.path,
                runtime=model.runtime,
                mode=found.mode_of(model.name).name,
                warmth="COLD",
                phase="COLD",
                reason=ASLEEP,
                since=0.0,
            )
            for model in found.models.values()
        ],
        warnings=[str(item) for item in found.warnings],
    )


def why(name: str) -> Why:
    """Why a model is cold while the daemon sleeps."""
    write.require_model(configuration(), name)
    return Why(name, "COLD", ASLEEP, "The next ask starts the service and loads the model.", [])


def modes() -> list[ModeInfo]:
    """Every mode, with its parameters."""
    found = configuration()
    shown = [field for field in SECTIONS["Mode"].values() if field.field not in ("description", "policy")]
    return [
        ModeInfo(
            name=mode.name,
            description=mode.description,
            policy=mode.policy,
            parameters={field.key: show_value(field, getattr(mode, field.field)) for field in shown},
            source=mode.source,
            active=mode.name == found.settings.mode,
        )
        for mode in found.modes.values()
    ]
