"""When prepared copies are made: before the first load that wants to hibernate, without holding it up for long.

Owns one making per model at a time and the patience of a load for it. A copy that takes longer, or cannot be made,
costs nothing but its benefit: the model is loaded from its own files, and the next load finds the copy. Must not
know how a copy is made (``prepared`` does), nor which models should hibernate.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from neuroshell_orch.errors import OrchError
from neuroshell_orch.sd import journal
from neuroshell_orch.workers import prepared

if TYPE_CHECKING:
    from neuroshell_orch.planning import Order
    from neuroshell_orch.workers.protocol import Load

PATIENCE: Final = 20.0
"""Seconds that a load waits for a copy of its model. A gigabyte takes a few on an idle machine."""


class Preparer:
    """Copies in ``cache``. Belongs to the event loop's thread."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._running: dict[str, asyncio.Task[None]] = {}
        self._failed: set[Path] = set()

    async def load_of(self, order: Order) -> Load:
        """The order's load, of the prepared copy if that is wanted and can be had soon."""
        load = order.load
        if not order.prepare:
            return load
        source = Path(load.path)
        try:
            copy = await asyncio.to_thread(prepared.prepared_path, self._cache, source)
        except OSError:
            return load  # the load itself says what is wrong with the file
        if not copy.exists() and copy not in self._failed:
            task = self._running.get(load.path)
            if task is None:
                task = self._running[load.path] = asyncio.get_running_loop().create_task(self._make(load, source, copy))
            await asyncio.wait({task}, timeout=PATIENCE)
        return msgspec.structs.replace(load, path=str(copy)) if copy.exists() else load

    async def close(self) -> None:
        """Give up what is being made."""
        for task in list(self._running.values()):
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _make(self, load: Load, source: Path, copy: Path) -> None:
        began = time.monotonic()
        try:
            await prepared.prepare(self._cache, source)
        except (OrchError, OSError) as error:
            self._failed.add(copy)
            text = f"{load.model}: no copy that can hibernate could be made: {error}"
            journal.log(journal.WARNING, text, model=load.model)
        else:
            seconds = time.monotonic() - began
            journal.log(journal.INFO, f"{load.model}: prepared to hibernate in {seconds:.1f} s", model=load.model)
        finally:
            del self._running[load.path]
