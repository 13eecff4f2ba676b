"""The types of our own API (``/orch``), shared by the daemon that fills them and the client that reads them.

Owns field names and units: times are seconds, instants are Unix seconds, memory is bytes as the kernel counts it.
Must not know how anything is found out or shown.
"""

from __future__ import annotations

from typing import Annotated

import msgspec


class Problem(msgspec.Struct, frozen=True):
    """The body of every error on ``/orch``: ``problem`` is a key of ``errors.PROBLEMS``."""

    problem: str
    message: str
    hint: str = ""


class Memory(msgspec.Struct, frozen=True):
    """One worker's memory, read from the kernel. ``cgroup`` is None where the worker has no cgroup of its own."""

    pss: int
    private_dirty: int
    rss: int
    cgroup: int | None = None


class Freed(msgspec.Struct, frozen=True):
    """What the last unload or hibernation gave back, measured: ``before`` and ``after`` are PSS bytes."""

    before: int
    after: int
    seconds: float
    expected: int = 0
    """What should have come back."""
    lost: str = ""
    """Why less came back than that; empty where all did."""
    cgroup_before: int | None = None
    """What the worker's unit was charged with, page cache included; None where it has no cgroup of its own."""
    cgroup_after: int | None = None
    vram_before: int = 0
    """Bytes of accelerators that the driver counted for the process."""
    vram_after: int = 0


class ModelStatus(msgspec.Struct, frozen=True):
    """One registered model as it is now."""

    name: str
    path: str
    runtime: str
    mode: str
    warmth: str
    """COLD, PARKED, HIBERNATED or HOT."""
    phase: str
    """The warmth, or what is under way: parking, loading, hibernating, waking, stopping."""
    reason: str
    since: float
    wanted: str = "COLD"
    next_at: float | None = None
    """When the mode will change its mind if nobody asks, or None."""
    next_warmth: str | None = None
    running: int = 0
    waiting: int = 0
    pid: int | None = None
    unit: str | None = None
    """The worker's systemd unit, or None where it is a child process."""
    memory: Memory | None = None
    freed: Freed | None = None
    load_seconds: float | None = None
    needs: int | None = None
    """Bytes of RAM that it is counted with while it is HOT."""
    needs_vram: int = 0
    """Bytes of accelerators that it is counted with while it is HOT."""
    needs_measured: bool = False
    """Whether ``needs`` is the peak that was seen, or an estimate."""
    context_length: int | None = None


class Status(msgspec.Struct, frozen=True):
    """The daemon in one look."""

    version: str
    pid: int
    unit: str | None
    started: float
    mode: str
    default_model: str | None
    launcher: str
    """``systemd`` (workers are transient services) or ``child`` (workers are child processes)."""
    models: list[ModelStatus]
    warnings: list[str] = []
    """Findings of the configuration that is in force, and the errors of a reload that was refused."""


class Transition(msgspec.Struct, frozen=True):
    """One change of a model's phase, and why."""

    at: float
    before: str
    after: str
    reason: str


class Why(msgspec.Struct, frozen=True):
    """Why a model is as warm as it is: the newest transition is last, ``outlook`` says what comes next."""

    model: str
    warmth: str
    reason: str
    outlook: str
    transitions: list[Transition]


class ModeInfo(msgspec.Struct, frozen=True):
    """One selectable mode."""

    name: str
    description: str
    policy: str
    parameters: dict[str, str]
    source: str
    """The file it came from."""
    active: bool


class SetMode(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of PUT /orch/mode. Without ``model`` it is the mode of every model that names none itself."""

    mode: str
    """One of /orch/modes."""
    model: str | None = None
    """Only this one."""


class Happened(msgspec.Struct, frozen=True):
    """One event of GET /orch/events. ``kind``: transition, or exit or dropped, which are the last."""

    kind: str
    at: float
    model: str = ""
    before: str = ""
    after: str = ""
    reason: str = ""


class Free(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /orch/free. Without ``model``: every model. ``to``: parked, hibernated or cold."""

    model: str | None = None
    """Only this one."""
    to: Annotated[str, msgspec.Meta(extra_json_schema={"enum": ["parked", "hibernated", "cold"]})] = "cold"


class FreedModel(msgspec.Struct, frozen=True):
    """What came of one model in POST /orch/free; ``freed`` is None where nothing had to go."""

    model: str
    before: str
    after: str
    freed: Freed | None = None


class TakeLease(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /orch/leases; the lease lasts as long as the connection."""

    name: str = "a program"
    """Who it is for, for people."""
    memory: bool = False
    """RAM as well, not only accelerators."""


class LeaseGranted(msgspec.Struct, frozen=True):
    """The event of POST /orch/leases; ``held`` names the models that still write an answer."""

    held: list[str]


class LeaseInfo(msgspec.Struct, frozen=True):
    """One lease that lasts."""

    name: str
    since: float
    resources: list[str]
    granted: bool
    pid: int | None = None
    """The process that holds it; None where it came over TCP."""
    uid: int | None = None


class Reloaded(msgspec.Struct, frozen=True):
    """Answer to POST /orch/reload: ``warnings`` of the configuration now in force."""

    warnings: list[str]
