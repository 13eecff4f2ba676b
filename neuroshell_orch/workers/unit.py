"""The transient service of a worker: its name, its properties, and what its failures mean.

Owns every decision about sandbox, limits and lifetime, as pure data for StartTransientUnit. Must not know D-Bus
calls or processes; ``transient`` performs what is written here. What each property really does in a user unit was
found by trying; see docs/ARCHITECTURE.md.
"""

from __future__ import annotations

import re
import string
from typing import TYPE_CHECKING, Final

from neuroshell_orch.workers.environment import COMMAND

if TYPE_CHECKING:
    from collections.abc import Mapping

    from neuroshell_orch.workers.contract import WorkerSpec

SLICE: Final = "background-nsorch.slice"
"""All workers together: can be limited, frozen or stopped whole. The desktop's programs weigh three times as much."""

Property = tuple[str, str, object]
"""Name, D-Bus signature, value."""

_PLAIN: Final = frozenset(string.ascii_letters + string.digits + ":_.-")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
_SIGKILL: Final = 9

SANDBOX: Final[tuple[Property, ...]] = (
    # Without it systemd 252 ignores most of the rest in silence, and where user namespaces are disabled the unit
    # fails instead of running unprotected.
    ("PrivateUsers", "b", True),
    ("PrivateNetwork", "b", True),
    ("PrivateIPC", "b", True),
    ("ProtectSystem", "s", "strict"),
    ("ProtectHome", "s", "read-only"),
    # Not ProtectKernelTunables: they are root's anyway, and it fails where /proc is masked already (containers).
    ("ProtectControlGroups", "b", True),
    ("NoNewPrivileges", "b", True),
    ("RestrictAddressFamilies", "(bas)", [True, ["AF_UNIX"]]),
    ("RestrictNamespaces", "t", 0),
    ("RestrictRealtime", "b", True),
    ("RestrictSUIDSGID", "b", True),
    ("LockPersonality", "b", True),
    ("MemoryDenyWriteExecute", "b", True),
    ("SystemCallArchitectures", "as", ["native"]),
    # Not without @resources: ORT sets the affinity of its threads. What is forbidden fails instead of killing.
    ("SystemCallFilter", "(bas)", [True, ["@system-service"]]),
    ("SystemCallErrorNumber", "i", 1),
    ("UMask", "u", 0o077),
)

LIMITS: Final[tuple[Property, ...]] = (
    ("CPUWeight", "t", 100),
    ("TasksMax", "t", 512),
    # A model goes before any program of the user's.
    ("OOMScoreAdjust", "i", 500),
    # A crash dump would hold prompts.
    ("LimitCORE", "t", 0),
    ("LimitCORESoft", "t", 0),
)

LIFETIME: Final[tuple[Property, ...]] = (
    ("Type", "s", "exec"),
    # There is nothing to save: ending means ending now.
    ("KillSignal", "i", _SIGKILL),
    ("KillMode", "s", "control-group"),
    ("SuccessExitStatus", "(aiai)", [[], [_SIGKILL]]),
    ("TimeoutStopUSec", "t", 2_000_000),
    ("CollectMode", "s", "inactive-or-failed"),
    ("StandardOutput", "s", "journal"),
    ("StandardError", "s", "journal"),
    ("SyslogIdentifier", "s", "nsorch-worker"),
    ("WorkingDirectory", "s", "/"),
    ("Slice", "s", SLICE),
)

FAILED_STEPS: Final[dict[int, str]] = {
    203: "ExecStart (the Python interpreter could not be run)",
    205: "LimitCORE",
    206: "OOMScoreAdjust",
    208: "StandardInput",
    209: "StandardOutput",
    214: "Nice",
    217: "PrivateUsers (user namespaces may be disabled)",
    218: "a capability setting",
    219: "the control group",
    225: "PrivateNetwork",
    226: "ProtectSystem, ProtectHome or another mount setting",
    227: "NoNewPrivileges",
    228: "SystemCallFilter or another seccomp setting",
    230: "LockPersonality",
}
"""Exit codes by which systemd says which setting it could not apply (systemd.exec(5))."""


def unit_name(spec: WorkerSpec, suffix: str = "") -> str:
    """``nsorch-worker-NAME-NUMBER.service``; what a unit name cannot hold is escaped as systemd-escape does."""
    parts = [chr(byte) if chr(byte) in _PLAIN else f"\\x{byte:02x}" for byte in spec.name.encode("utf-8", "replace")]
    return f"nsorch-worker-{''.join(parts)[:160]}-{spec.number}{suffix}.service"


def unit_path(name: str) -> str:
    """The D-Bus object of a unit: everything but letters and digits as ``_nn``."""
    plain = string.ascii_letters + string.digits
    escaped = "".join(c if c in plain else "".join(f"_{byte:02x}" for byte in c.encode()) for c in name)
    return "/org/freedesktop/systemd1/unit/" + escaped


def unit_properties(
    spec: WorkerSpec,
    environment: Mapping[str, str],
    *,
    descriptor_index: int,
    bind_to: str | None,
    runtime_dir: str | None,
) -> list[Property]:
    """Everything about the unit. ``bind_to`` is the daemon's own service; with it the worker ends."""
    properties: list[Property] = [
        ("Description", "s", f"AI model {spec.name}"),
        ("ExecStart", "a(sasb)", [[COMMAND[0], list(COMMAND), False]]),
        ("StandardInputFileDescriptor", "h", descriptor_index),
        ("Environment", "as", acceptable_environment(environment)),
        *LIFETIME,
        *LIMITS,
        *SANDBOX,
    ]
    if bind_to is not None:
        # Not After as well: a worker that is started ahead would wait for the daemon, and the daemon for its worker.
        properties.append(("BindsTo", "as", [bind_to]))
    if spec.memory_max is not None:
        properties += [("MemoryMax", "t", spec.memory_max), ("MemorySwapMax", "t", 0)]
    if runtime_dir:
        # The user's buses live there: a worker that could reach them could start anything outside its sandbox.
        properties.append(("TemporaryFileSystem", "a(ss)", [[runtime_dir, "ro"]]))
    return properties


def acceptable_environment(environment: Mapping[str, str]) -> list[str]:
    """``NAME=value`` for what systemd accepts; one bad entry would make it refuse the whole unit."""
    return [f"{k}={v}" for k, v in environment.items() if _VARIABLE.match(k) and not _CONTROL.search(v)]
