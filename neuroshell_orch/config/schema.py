"""The keys: what may stand in which section, its type, its default and its one line of help.

Owns the three tables (the structs below are the tables: one line is one key, and its CamelCase name is the field's)
and the step from assignments to one typed struct. Must not know where files lie, how they mask each other, or
whether a name that a value mentions exists.
"""

# No ``from __future__ import annotations`` here: the annotations are read back as the table of keys.
from collections.abc import Iterable
from typing import Annotated, Any, Final, NamedTuple

import msgspec

from neuroshell_orch.config.kinds import (
    BOOL,
    DIGEST,
    MEMORY,
    NAME,
    ORIGINS,
    PATH,
    POSITIVE_SPAN,
    SIZE,
    SPAN,
    TEXT,
    Key,
    choice,
    whole,
)
from neuroshell_orch.config.parse import Assignment, Finding
from neuroshell_orch.config.values import UNLIMITED, Percent

POLICIES: Final = ("dynamic", "persistent", "timeout", "dummy-swap", "hibernate", "adaptive")
RUNTIMES: Final = ("genai", "onnx", "encoder")
_POLICY: Final = choice(*POLICIES)
_RUNTIME: Final = choice(*RUNTIMES)
_ON_LEASE: Final = choice("queue", "refuse", "cpu")
_KEEP_ALIVE: Final = choice("client", "server", "min", "max")
_DEVICE: Final = choice("auto", "cpu", "cuda")
_LAUNCHER: Final = choice("auto", "systemd", "child")
_LOG_LEVEL: Final = choice("debug", "info", "warning", "error")
_PREPARE: Final = choice("auto", "yes", "no")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """``[Orchestrator]``, in nsorch.conf and nsorch.conf.d."""

    mode: Annotated[str, Key(NAME, "The mode of every model that names none itself.")] = "timeout"
    default_model: Annotated[str, Key(NAME, "The model that answers where none is named.")] = ""
    idle_exit_sec: Annotated[
        float, Key(SPAN, "The daemon ends after this long with no model warm and nobody connected.")
    ] = 30.0
    load_timeout_sec: Annotated[float, Key(POSITIVE_SPAN, "A model that takes longer to load is given up.")] = 120.0
    stop_timeout_sec: Annotated[float, Key(POSITIVE_SPAN, "A worker that takes longer to end is killed.")] = 10.0
    keep_alive_policy: Annotated[
        str, Key(_KEEP_ALIVE, "Who decides how long a model stays warm when a client names a time (keep_alive).")
    ] = "client"
    max_queue: Annotated[int, Key(whole(1, 65536), "How many asks may wait for one model.")] = 64
    log_level: Annotated[str, Key(_LOG_LEVEL, "The least important message that reaches the journal.")] = "info"
    memory_budget: Annotated[
        int | Percent, Key(MEMORY, "What all workers together may take of the machine's memory.")
    ] = Percent(5000)
    vram_budget: Annotated[
        int | Percent, Key(MEMORY, "What all workers together may take of each accelerator.", name="VRAMBudget")
    ] = Percent(10000)
    vram_reserve: Annotated[
        int | Percent, Key(MEMORY, "What stays free of each accelerator, for the desktop.", name="VRAMReserve")
    ] = 512 << 20
    max_swap_delay: Annotated[
        float, Key(SPAN, "Asks for a model that is there go before those that need its memory, for this long.")
    ] = 10.0
    on_lease: Annotated[
        str, Key(_ON_LEASE, "What an ask does whose model needs memory that `nsorch lease` keeps free.")
    ] = "queue"
    worker_memory_max: Annotated[int | Percent, Key(MEMORY, "The most memory that one worker may use.")] = UNLIMITED
    shared_memory: Annotated[bool, Key(BOOL, "Programs of this user may pass tensors in shared memory.")] = False
    prepare: Annotated[
        str, Key(_PREPARE, "Copies that load faster: auto makes them of small language models and to hibernate.")
    ] = "auto"
    allow_origins: Annotated[
        tuple[str, ...], Key(ORIGINS, "Web pages that may call the loopback port; they need a token as well.")
    ] = ()
    max_connections: Annotated[int, Key(whole(1, 65536), "How many connections may be open at once.")] = 512
    max_streams: Annotated[
        int, Key(whole(1, 65536), "How many streams one client (a token, or a process on the unix socket) may read.")
    ] = 64
    max_body: Annotated[int, Key(SIZE, "The longest body of a request that is text.")] = 16 << 20
    max_tensor_body: Annotated[int, Key(SIZE, "The longest body of a request with tensors.")] = 256 << 20
    max_json_depth: Annotated[
        int, Key(whole(4, 512), "How deep arrays and objects of a request may lie in each other.", name="MaxJSONDepth")
    ] = 64
    max_headers: Annotated[int, Key(whole(4, 65536), "How many headers a request may have.")] = 100
    max_header_size: Annotated[int, Key(SIZE, "How long its first line and its headers may be together.")] = 64 << 10
    request_timeout_sec: Annotated[
        float, Key(POSITIVE_SPAN, "A client has this long for the head of a request, and for each 64K of its body.")
    ] = 30.0
    reader_timeout_sec: Annotated[
        float, Key(POSITIVE_SPAN, "A client that takes nothing of its answer for this long is dropped.")
    ] = 120.0
    progress_sec: Annotated[
        float, Key(POSITIVE_SPAN, "A stream for OpenAI's clients that has to wait longer says so, in comments.")
    ] = 3.0
    keep_answers_sec: Annotated[
        float,
        Key(SPAN, "How long the answer to a request with an Idempotency-Key can be had again; 0: not at all."),
    ] = 600.0
    worker_launcher: Annotated[str, Key(_LAUNCHER, "Workers are systemd services or child processes.")] = "auto"


class ModeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[Mode]``, in modes.d/NAME.conf and modes.d/NAME.conf.d."""

    name: str
    source: str
    description: Annotated[str, Key(TEXT, "How the mode feels, for people.")] = ""
    policy: Annotated[str, Key(_POLICY, "What the mode does with a model between asks.", required=True)] = ""
    idle_sec: Annotated[float, Key(SPAN, "How long after the last answer a model stays hot.")] = 300.0
    forget_sec: Annotated[float, Key(SPAN, "A hibernated model is unloaded after this long without an ask.")] = 3600.0
    standby: Annotated[bool, Key(BOOL, "Keep a parked worker where the model would be cold.")] = False


class ModelSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[Model]``, in models.d/NAME.conf and models.d/NAME.conf.d. None and an empty mode: as in [Orchestrator]."""

    name: str
    source: str
    path: Annotated[str, Key(PATH, "The model's file, or its folder.", required=True)] = ""
    runtime: Annotated[str, Key(_RUNTIME, "The runtime that loads it.", required=True)] = ""
    digest: Annotated[str, Key(DIGEST, "What the file's content hashes to.")] = ""
    mode: Annotated[str, Key(NAME, "The mode of this model alone.")] = ""
    threads: Annotated[
        int, Key(whole(0, 4096), "How many threads compute; 0: what was measured to be best, or every core.")
    ] = 0
    device: Annotated[str, Key(_DEVICE, "What it runs on; auto takes an accelerator where one is usable.")] = "auto"
    parallel: Annotated[int, Key(whole(1, 64), "How many answers it may write at once.")] = 1
    keep_prefix: Annotated[
        bool, Key(BOOL, "Keep what was computed for a prompt, in the worker's memory, for the next that begins alike.")
    ] = True
    context_length: Annotated[
        int, Key(whole(0, 1 << 24), "The longest context in tokens; 0 means the model's own.")
    ] = 0
    prepare: Annotated[str, Key(_PREPARE, "As in [Orchestrator], for this model alone.")] = ""
    load_timeout_sec: Annotated[float | None, Key(POSITIVE_SPAN, "As in [Orchestrator], for this model alone.")] = None
    memory_max: Annotated[int | Percent | None, Key(MEMORY, "WorkerMemoryMax= for this model alone.")] = None
    description: Annotated[str, Key(TEXT, "What the model is, for people.")] = ""
    origin: Annotated[str, Key(TEXT, "Where the model came from.", name="Source")] = ""


class Field(NamedTuple):
    """One key as the loader sees it."""

    key: str
    field: str
    default: Any
    spec: Key


class KeyInfo(NamedTuple):
    """One key as documentation shows it."""

    section: str
    files: str
    key: str
    allowed: str
    default: str
    help: str


def _table(struct: type[msgspec.Struct]) -> dict[str, Field]:
    table: dict[str, Field] = {}
    for info in msgspec.structs.fields(struct):
        spec = getattr(info.type, "__metadata__", (None,))[0]
        if isinstance(spec, Key):
            key = spec.name or "".join(part.capitalize() for part in info.name.split("_"))
            table[key] = Field(key, info.name, info.default, spec)
    return table


SECTIONS: Final = {
    "Orchestrator": _table(Settings),
    "Mode": _table(ModeSettings),
    "Model": _table(ModelSettings),
}
FILES: Final = {"Orchestrator": "nsorch.conf", "Mode": "modes.d/NAME.conf", "Model": "models.d/NAME.conf"}


def show_value(field: Field, value: object) -> str:
    """``value`` as it would be written into a file; empty where there is none."""
    return "" if value is None or value == "" else field.spec.kind.show(value)


def describe_keys() -> list[KeyInfo]:
    """Every key there is, in the order of the tables, for the man page and ``nsorch config``."""
    return [
        KeyInfo(
            section,
            FILES[section],
            field.key,
            field.spec.kind.allowed,
            "(required)" if field.spec.required else show_value(field, field.default),
            field.spec.help,
        )
        for section, table in SECTIONS.items()
        for field in table.values()
    ]


class Resolved(NamedTuple):
    """Values by field, the assignment that each came from, and what was wrong."""

    values: dict[str, Any]
    origins: dict[str, Assignment]
    findings: list[Finding]
    bad: set[str]
    """The fields that were given a value that cannot be."""


def resolve(section: str, assignments: Iterable[Assignment]) -> Resolved:
    """The last good value of every key of ``section``. Unknown sections and keys warn, bad values are errors."""
    table = SECTIONS[section]
    result = Resolved({}, {}, [], set())
    warned: set[tuple[str, str]] = set()
    for item in assignments:
        if item.section != section:
            if not item.section.startswith("X-") and (item.path, item.section) not in warned:
                warned.add((item.path, item.section))
                text = f"[{item.section[:60]}] is not known here and is ignored: expected [{section}]"
                result.findings.append(Finding("warning", item.path, item.line, text))
            continue
        field = table.get(item.key)
        if field is None:
            result.findings.append(Finding("warning", item.path, item.line, _unknown(section, item.key)))
        elif not item.value:
            result.values.pop(field.field, None)
            result.origins.pop(field.field, None)
        else:
            try:
                result.values[field.field] = field.spec.kind.parse(item.value)
                result.origins[field.field] = item
            except ValueError as error:
                comment = "; a comment needs a line of its own" if " #" in item.value or " ;" in item.value else ""
                text = f"{item.key}={error}{comment}"
                result.bad.add(field.field)
                result.findings.append(Finding("error", item.path, item.line, text))
    return result


def _unknown(section: str, key: str) -> str:
    text = f"{key[:60]}= is not a key of [{section}] and is ignored"
    guess = closest(key, SECTIONS[section])
    if guess:
        return f"{text}: did you mean {guess}=?"
    elsewhere = [name for name, table in SECTIONS.items() if key in table]
    if elsewhere:
        return f"{text}: it belongs in [{elsewhere[0]}], in {FILES[elsewhere[0]]}"
    return f"{text}: there are {', '.join(SECTIONS[section])}"


def closest(word: str, words: Iterable[str]) -> str:
    """The one of ``words`` that ``word`` was probably meant to be, or nothing."""
    known = {item.lower(): item for item in words}
    if word.lower() in known:
        return known[word.lower()]
    import difflib  # noqa: PLC0415 - only on the way to a complaint; it is slow to import

    found = difflib.get_close_matches(word[:100].lower(), known, 1, 0.7)
    return known[found[0]] if found else ""
