"""When prepared copies are made and used: a load finds its copy, or goes on without one while it is made.

Owns one making per model at a time, and the question which models gain by a copy even where they never hibernate:
those get it when they are added, and anew when it became useless. The first copy of a small model that wants to
hibernate is waited for, which takes a second or two; a big one serves from its own files meanwhile, and so does one
whose copy became useless (another runtime, another processor, a changed model, a damaged file). A copy that cannot be
made costs nothing but its benefit. Must not know how a copy is made (``prepared`` does), nor which models should
hibernate.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from neuroshell_orch.errors import OrchError
from neuroshell_orch.sd import journal
from neuroshell_orch.workers import copies

if TYPE_CHECKING:
    from collections.abc import Callable

    from neuroshell_orch.core.figures import Figures
    from neuroshell_orch.planning import Order
    from neuroshell_orch.workers.protocol import Load

PATIENCE: Final = 20.0
"""Seconds that a load waits at the most for its model's first copy."""
SMALL: Final = 512 << 20
"""Bytes of a model for whose copy it waits at all. A hundred MiB were measured at a second and a half."""
LEAST: Final = 16 << 20
"""Bytes below which a model is loaded at once anyway."""

_GPU: Final = Path("/dev/nvidiactl")


def gains(load: Load) -> bool:
    """Whether a copy is worth its disk even where the model never hibernates.

    Measured with a language model of 100 MiB: loaded in half of the time, two fifths of the private memory,
    a tenth more tokens a second.
    """
    if load.runtime != "genai" or elsewhere(load):
        return False
    try:
        return LEAST <= copies.size_of(Path(load.path)) <= SMALL
    except OSError:
        return False  # the load itself says what is wrong


def wants(order: Order) -> bool:
    """Whether a model is to have a copy when it is added."""
    return order.prepare == "make" or (order.prepare == "use" and gains(order.load))


def recorded(cache: Path, order: Order, artefact: str) -> Figures | None:
    """What was measured with the copy that a load would take now, when that was made; None where there is no such."""
    source = Path(order.load.path)
    if order.prepare == "never" or elsewhere(order.load) or not copies.has_other(cache, source):
        return None
    try:
        found = copies.find(cache, source)
    except OSError:
        return None  # the load itself says what is wrong with the file
    return None if found is None else found[1].costs.get(artefact)


def recorder(cache: Path, order: Callable[[str], Order]) -> Callable[[str, str], Figures | None]:
    """``recorded`` for the models that ``order`` knows, by name and artefact."""
    return lambda name, artefact: recorded(cache, order(name), artefact)


def elsewhere(load: Load) -> bool:
    """Whether the model may run on an accelerator: a copy is made for the processor's kernels."""
    return load.options.get("device", "auto") != "cpu" and _GPU.exists()


class Preparer:
    """Copies in ``cache``. Belongs to the event loop's thread."""

    def __init__(self, cache: Path, patience: float = PATIENCE) -> None:
        self._cache = cache
        self._patience = patience
        self._running: dict[str, asyncio.Task[None]] = {}
        self._failed: set[str] = set()
        """Keys of what could not be prepared: not tried again by this daemon."""

    async def load_of(self, order: Order) -> Load:
        """The order's load: of the prepared copy where there is one, or will be soon and is wanted."""
        load = order.load
        if order.prepare == "never" or elsewhere(load):
            return load
        source = Path(load.path)
        wanted = order.prepare == "make"
        if not wanted:
            if not copies.has_other(self._cache, source):
                return load
            wanted = gains(load)
        try:
            found = await asyncio.to_thread(copies.find, self._cache, source)
            if found is None and wanted:
                found = await self._made(load, source)
        except OSError:
            return load  # the load itself says what is wrong with the file
        if found is None:
            return load
        path, manifest = found
        return msgspec.structs.replace(load, path=str(path), threads=load.threads or threads_of(manifest.tuning))

    async def path_now(self, order: Order) -> str:
        """The path that a load would take now. Nothing is made, nor waited for."""
        if order.prepare == "never" or elsewhere(order.load):
            return order.load.path
        try:
            found = await asyncio.to_thread(copies.find, self._cache, Path(order.load.path))
        except OSError:
            found = None
        return order.load.path if found is None else str(found[0])

    async def _made(self, load: Load, source: Path) -> tuple[Path, copies.Manifest] | None:
        key = copies.key_of(source)
        if key in self._failed:
            return None
        first = not copies.has_other(self._cache, source)
        patience = self._patience if first and copies.size_of(source) <= SMALL else 0.0
        task = self._running.get(load.path)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._make(load, source, key, patience == 0))
            self._running[load.path] = task
        if not patience:
            return None
        await asyncio.wait({task}, timeout=patience)
        return await asyncio.to_thread(copies.find, self._cache, source)

    async def close(self) -> None:
        """Give up what is being made."""
        for task in list(self._running.values()):
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _make(self, load: Load, source: Path, key: str, background: bool) -> None:
        from neuroshell_orch.workers import prepared  # noqa: PLC0415 - what starts processes is seldom needed here

        began = time.monotonic()
        try:
            await prepared.make(self._cache, source, background=background)
        except OrchError as error:
            self._failed.add(key)
            text = f"{load.model}: no copy that can hibernate could be made: {error}"
            journal.log(journal.WARNING, text, model=load.model)
        else:
            seconds = time.monotonic() - began
            journal.log(journal.INFO, f"{load.model}: prepared to hibernate in {seconds:.1f} s", model=load.model)
        finally:
            self._running.pop(load.path, None)


def threads_of(tuning: copies.Tuning | None) -> int:
    """The measured number of threads where it was measured with the cores that there are; 0: every core."""
    if tuning is None or tuning.cores != len(os.sched_getaffinity(0)):
        return 0
    return tuning.threads
