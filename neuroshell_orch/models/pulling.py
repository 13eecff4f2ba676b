"""A pull as a process of its own: what it says, line by line, and the program itself.

The daemon has no network, and conversion needs memory that should go back when it is over: so a pull is a process,
``python -P -m neuroshell_orch.models.pulling NAME``, with one end of a socketpair as its standard input. It writes
one JSON object a line there, the last of which is Pulled or Refused; when the other end is closed it cleans up and
leaves. Owns those lines and that promise. Must not know who reads them; importing it must stay cheap.
"""

from __future__ import annotations

import signal
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from neuroshell_orch.errors import OrchError

if TYPE_CHECKING:
    from types import FrameType

MODULE: Final = "neuroshell_orch.models.pulling"
MAX_LINE: Final = 1 << 16
_PAUSE: Final = 0.05
"""Seconds between two lines of one stage: often enough for a bar that moves."""


PREPARE: Final = "prepare"
"""The last stage, at which the model is registered already: its copy is made, where it is to have one."""


class Step(msgspec.Struct, frozen=True, tag="step"):
    """Progress; the stages are download, unpack, convert, hash, each counting what it handles, and ``PREPARE``."""

    stage: str
    done: int
    total: int


class Pulled(msgspec.Struct, frozen=True, tag="pulled"):
    """The model is registered. ``fresh`` is false where all of it was there already.

    ``note`` is for people: why there is no prepared copy, where one was to be made.
    """

    model: str
    fresh: bool
    note: str = ""


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """It failed; ``problem`` is a key of ``errors.PROBLEMS``."""

    problem: str
    message: str
    hint: str


Said: TypeAlias = Step | Pulled | Refused

_decoder: msgspec.json.Decoder[Said] = msgspec.json.Decoder(Said)
_encode = msgspec.json.Encoder().encode


def read(line: bytes) -> Said:
    """One line. Raises msgspec.DecodeError."""
    return _decoder.decode(line)


class Teller:
    """Writes lines to ``wire``, not more often than somebody could look."""

    def __init__(self, wire: socket.socket) -> None:
        self._wire = wire
        self._stage = ""
        self._next = 0.0

    def progress(self, stage: str, done: int, total: int) -> None:
        """What the pull reports; the first and the last step of a stage are always told."""
        now = time.monotonic()
        if stage != self._stage or done >= total or now >= self._next:
            self._stage, self._next = stage, now + _PAUSE
            self.say(Step(stage, done, total))

    def say(self, said: Said) -> None:
        """One line."""
        self._wire.sendall(_encode(said) + b"\n")


def _leave(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)  # the orderly way, through every ``finally``


def _watch(wire: socket.socket, main: int) -> None:
    """Make the main thread leave when the other end is closed."""
    while True:
        try:
            if wire.recv(64):
                continue
        except OSError:
            pass
        signal.pthread_kill(main, signal.SIGTERM)
        return


def _prepare(name: str, teller: Teller) -> str:
    """Make what the command line makes, too, when a model has come in. What fails is told, and is no failure."""
    import asyncio  # noqa: PLC0415 - the daemon imports this module for its lines, and needs none of these

    from neuroshell_orch.config.load import load  # noqa: PLC0415
    from neuroshell_orch.config.paths import cache_dir  # noqa: PLC0415
    from neuroshell_orch.planning import artefact_of, order_of  # noqa: PLC0415
    from neuroshell_orch.workers import preparing, readying  # noqa: PLC0415

    found = load(lenient=True)
    if name not in found.models or not preparing.wants(order := order_of(found, name)):
        return ""
    teller.progress(PREPARE, 0, 1)
    try:
        asyncio.run(readying.ready(cache_dir(), order, artefact_of(found.models[name])))
    except OrchError as error:
        return readying.no_copy(name, error)
    teller.progress(PREPARE, 1, 1)
    return ""


def main(arguments: list[str]) -> int:
    """Pull the model that ``arguments`` name."""
    (name,) = arguments
    signal.signal(signal.SIGTERM, _leave)
    wire = socket.socket(fileno=0)
    threading.Thread(target=_watch, args=(wire, threading.get_ident()), daemon=True).start()
    teller = Teller(wire)
    try:
        from neuroshell_orch.models import bringing  # noqa: PLC0415 - the daemon imports this module for its lines

        model, fresh = bringing.pull(name, teller.progress)
        note = _prepare(model.name, teller) if fresh else ""
        teller.say(Pulled(model.name, fresh, note))
    except OrchError as error:
        teller.say(Refused(error.problem, error.message, error.hint))
        return error.kind.exit_code
    except BrokenPipeError:
        return 128 + signal.SIGPIPE  # nobody listens any more; what came is kept
    finally:
        wire.detach()  # the descriptor ends with the process
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
