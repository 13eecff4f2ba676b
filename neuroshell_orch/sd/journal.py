"""The journal: one function that says what happened, and the fixed ids of what can happen.

Owns the message ids (each has an entry in ``systemd/nsorch.catalog``), the priorities and the two ways a line can
leave this process: structured fields to journald where our standard error is the journal, one plain line on
standard error elsewhere. Must not know what a model or an engine is; never given a prompt, an answer or a tensor.
"""

from __future__ import annotations

import inspect
import os
import sys
from contextvars import ContextVar
from enum import IntEnum
from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

IDENTIFIER: Final = "nsorch"


class Priority(IntEnum):
    """syslog's priorities: smaller is worse."""

    ERR = 3
    WARNING = 4
    NOTICE = 5
    INFO = 6
    DEBUG = 7


ERR: Final = Priority.ERR
WARNING: Final = Priority.WARNING
NOTICE: Final = Priority.NOTICE
INFO: Final = Priority.INFO
DEBUG: Final = Priority.DEBUG

# Fixed for ever: people's journal filters and the catalogue name them.
STARTED: Final = "ac4fd01484ea40c9b9cb8fe452899baa"
STOPPING: Final = "f2738c35bb894243a410166fcbe0f989"
WARMTH_CHANGED: Final = "6be6dfa57d504ea59c61e1452f99b51d"
LOAD_FAILED: Final = "0244e762457d4ab2b3288cb169e2d91a"
WORKER_DIED: Final = "80fe9ce1016d4490a36da6689f00e022"
MEMORY_FREED: Final = "b8298a910514488e9fcf85fabb204e90"
MEMORY_LOST: Final = "c8d05fa0da9d494b88e0a3d65d142e54"
CONFIG_RELOADED: Final = "856c022205d44e67a4e347df7b01a573"
CONFIG_REFUSED: Final = "74a7ee2d648a416ea8dd47db0ddcd72f"
MODE_SET: Final = "264de7de15c545079fcc4f73b7f173fb"

MESSAGE_IDS: Final[dict[str, str]] = {
    "started": STARTED,
    "stopping": STOPPING,
    "warmth-changed": WARMTH_CHANGED,
    "load-failed": LOAD_FAILED,
    "worker-died": WORKER_DIED,
    "memory-freed": MEMORY_FREED,
    "memory-lost": MEMORY_LOST,
    "config-reloaded": CONFIG_RELOADED,
    "config-refused": CONFIG_REFUSED,
    "mode-set": MODE_SET,
}
"""What each id stands for. A new one needs an entry in ``systemd/nsorch.catalog``; a test compares them."""

REQUEST: Final[ContextVar[str | None]] = ContextVar("request", default=None)
"""The id of the request on whose behalf something is said; every line of its context has it."""


class _Output:
    """Where lines go. One per process; ``configure`` fills it."""

    level: int = Priority.INFO
    send: Callable[..., object] | None = None


def stderr_is_journal() -> bool:
    """Whether our standard error is the stream that systemd connected to the journal."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(2)
        return (status.st_dev, status.st_ino) == (int(device), int(inode))
    except (ValueError, OSError):
        return False


def configure(level: int = Priority.INFO) -> None:
    """Drop what is less important than ``level``, and find out whether there is a journal. Call it once, first."""
    _Output.level = level
    _Output.send = None
    if stderr_is_journal():
        _Output.send = import_module("systemd.journal").sendv  # 20 ms that a plain terminal need not pay


def hears(priority: int) -> bool:
    """Whether anything is said at ``priority``, for whoever would take long to say it."""
    return priority <= _Output.level


def log(priority: int, message: str, *, message_id: str | None = None, **fields: object) -> None:
    """Say ``message`` at ``priority``.

    ``fields`` become ``NSORCH_*`` fields: ``model="smollm2"`` is ``NSORCH_MODEL=smollm2``; a name that is already in
    capitals is taken as it is. None is left out. Never raises because of a journal that is away.
    """
    if priority > _Output.level:
        return
    request = REQUEST.get()
    if request is not None:
        fields.setdefault("request", request)
    if _Output.send is not None:
        entry = [f"MESSAGE={message}", f"PRIORITY={int(priority)}", f"SYSLOG_IDENTIFIER={IDENTIFIER}"]
        if message_id is not None:
            entry.append(f"MESSAGE_ID={message_id}")
        entry += _caller(inspect.currentframe())
        entry += [f"{_field(name)}={value}" for name, value in fields.items() if value is not None]
        try:
            _Output.send(*entry)
        except OSError:
            _plain(message, request)
        return
    _plain(message, request)


def _field(name: str) -> str:
    return name if name.isupper() else f"NSORCH_{name.upper()}"


def _caller(frame: object) -> list[str]:
    """CODE_FILE, CODE_LINE and CODE_FUNC of whoever called log()."""
    caller = getattr(frame, "f_back", None)
    if caller is None:
        return []
    code = caller.f_code
    return [f"CODE_FILE={code.co_filename}", f"CODE_LINE={caller.f_lineno}", f"CODE_FUNC={code.co_qualname}"]


def _plain(message: str, request: str | None) -> None:
    line = " ".join(message.splitlines()) + (f" [{request}]" if request else "")
    try:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        # Nobody can be told: the terminal or the journal behind standard error is gone.
        return
