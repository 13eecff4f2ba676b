"""What a runtime is: the adapter that loads one format inside a worker. And which ones there are.

Owns the protocol and the registry of names. Runtimes are imported on demand and only inside a worker; this module
must stay free of them, and of sockets and frames beyond the message types.

``NSORCH_RUNTIMES`` (``name=module,name=module``) adds or replaces runtimes; each module has ``create()``.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Final, Protocol, cast, runtime_checkable

from neuroshell_orch.errors import OrchError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from neuroshell_orch.workers.protocol import (
        Done,
        Embed,
        Embedded,
        Generate,
        Infer,
        Load,
        Loaded,
        Tensor,
        TokenScore,
    )

BUILTIN: Final = {
    "genai": "neuroshell_orch.runtimes.genai",
    "onnx": "neuroshell_orch.runtimes.onnx",
    "encoder": "neuroshell_orch.runtimes.encoder",
}

SESSION_ENTRIES: Final = {"session.prepack.enable_parallel": "1", "session.intra_op.spin_duration_us": "500"}
"""Options of onnxruntime for a language model; versions that do not know one ignore it.

All threads lay out weights for the kernels. A thread without work looks for some for 0.5 ms and then sleeps: as fast
between two tokens as the default, which keeps a core busy that the rest of a load wants, or another program.
"""


class Emit(Protocol):
    """Takes one piece of an answer, and the scores of its tokens where those were asked for."""

    def __call__(self, text: str, tokens: int, scores: list[TokenScore] | None = None) -> None:
        """Pass it on; waits while nobody reads."""


class Runtime(Protocol):
    """Holds at most one model. Called from one thread, one method at a time; errors for people are OrchError."""

    def standby(self) -> str:
        """Import what takes long, load the dummy model and run it once. The runtime's version."""

    def load(self, load: Load) -> Loaded:
        """Load the model; ``Loaded.seconds`` is filled by the caller."""

    def hibernate(self) -> int:
        """Give clean weight pages back; the bytes that were resident and are not any more."""

    def wake(self) -> None:
        """Fault them in again."""

    def generate(self, request: Generate, emit: Emit, cancelled: Callable[[], bool]) -> Done:
        """Write an answer: ``emit(text, tokens)`` for each piece. Look at ``cancelled()`` between tokens."""

    def infer(self, request: Infer, cancelled: Callable[[], bool]) -> list[Tensor]:
        """Run a tensor model once."""


class Stream(Protocol):
    """One answer that is being written."""

    @property
    def done(self) -> Done | OrchError | None:
        """How it ended, or None while it goes on."""


@runtime_checkable
class Streams(Protocol):
    """What a runtime can do besides that writes several answers at once."""

    def begin(self, request: Generate, emit: Emit, cancelled: Callable[[], bool]) -> Stream:
        """Take a request on. Raises OrchError where it cannot be answered."""

    def advance(self, streams: Sequence[Stream]) -> None:
        """Take each of these answers a little further: one token, or one piece of its prompt. Never raises."""


@runtime_checkable
class Readies(Protocol):
    """What a runtime can do besides while it is parked."""

    def make_ready(self, path: str) -> None:
        """Hold what is small of the model at ``path``. Never raises: its load says what is wrong."""


@runtime_checkable
class Embeds(Protocol):
    """What a runtime of encoders can do besides."""

    def embed(self, request: Embed, cancelled: Callable[[], bool]) -> Embedded:
        """Turn texts into vectors."""


def create(name: str) -> Runtime:
    """A new runtime by its name. Raises OrchError where there is none or it cannot be imported here."""
    modules = dict(BUILTIN)
    for entry in os.environ.get("NSORCH_RUNTIMES", "").split(","):
        key, equals, module = entry.partition("=")
        if equals:
            modules[key.strip()] = module.strip()
    if name not in modules:
        raise OrchError("unsupported", f"There is no runtime {name!r}.", f"Use one of: {', '.join(sorted(modules))}.")
    try:
        module_object = importlib.import_module(modules[name])
    except ImportError as error:
        raise OrchError(
            "load-failed",
            f"The runtime {name!r} cannot be imported: {error}.",
            "Its package is missing or does not fit this Python; `nsorch doctor` says which one it is.",
        ) from error
    return cast("Runtime", module_object.create())


def usable_threads(wanted: int = 0) -> int:
    """``wanted`` threads, or one for each core that this process may use."""
    return wanted if wanted > 0 else max(1, len(os.sched_getaffinity(0)))
