"""Making a model ready before anybody asks: its copy, the number of threads, and what it costs with both.

Owns the order of these steps, the same for the command line and for a pull that the daemon sends out. A copy is good
without figures, too. Must not know which model is meant, nor how anything is shown.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from neuroshell_orch.errors import OrchError
from neuroshell_orch.workers import benching, prepared, preparing

if TYPE_CHECKING:
    from neuroshell_orch.planning import Order
    from neuroshell_orch.workers.copies import Manifest


async def ready(cache: Path, order: Order, artefact: str, *, tune: bool = True, again: bool = False) -> Manifest:
    """Make the copy unless there is a good one, and measure with it what was not yet. Raises OrchError."""
    source, load = Path(order.load.path), order.load
    path, manifest = await prepared.make(cache, source, tune=tune, again=again)
    if artefact in manifest.costs or preparing.elsewhere(load):
        return manifest
    threads = load.threads or preparing.threads_of(manifest.tuning)
    try:
        costs = await benching.costs(msgspec.structs.replace(load, path=str(path), threads=threads))
    except OrchError:
        return manifest  # its first load says why; the copy may be as good as the model is
    return prepared.noted(cache, source, manifest, artefact, costs)


def no_copy(name: str, error: OrchError) -> str:
    """The sentence for whoever has just added ``name``, where it cannot be prepared."""
    return f"{name} works, but no prepared copy could be made: {error.message}"
