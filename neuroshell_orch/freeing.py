"""Memory on request: models taken down the ladder, and leases.

Owns the waiting for what was asked, and the report of what came back. Decides nothing: the engine does.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from neuroshell_orch.api.schema import Freed, FreedModel, LeaseGranted, LeaseInfo
from neuroshell_orch.core import messages as msg
from neuroshell_orch.core.budget import RAM
from neuroshell_orch.core.lifecycle import MOVING
from neuroshell_orch.core.warmth import Warmth
from neuroshell_orch.errors import OrchError
from neuroshell_orch.sd import journal

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from neuroshell_orch.api.schema import TakeLease
    from neuroshell_orch.desktop.gpu import Gpu
    from neuroshell_orch.engine import Engine
    from neuroshell_orch.workers.pool import Pool


class Freeing:
    """Frees and leases memory. ``freed`` is what was measured last of each model."""

    def __init__(
        self,
        engine: Engine,
        pool: Pool,
        freed: dict[str, Freed],
        resolve: Callable[[str | None], str],
        gpus: Callable[[], Sequence[Gpu]],
    ) -> None:
        self._engine = engine
        self._pool = pool
        self._freed = freed
        self._resolve = resolve
        self._gpus = gpus

    async def free(self, model: str | None, to: str) -> list[FreedModel]:
        """Take a model, or all of them, down to ``to``, and say what came back. Raises OrchError."""
        rungs = {warmth.name.lower(): warmth for warmth in Warmth if warmth is not Warmth.HOT}
        if to not in rungs:
            raise OrchError("bad-request", f"There is no rung {to[:40]!r} to go to.", f"There are: {', '.join(rungs)}.")
        if model == "":  # what a script sends whose variable is not set; it does not mean all of them
            raise OrchError("bad-request", "The model's name is empty.", "Leave it out to mean all models.")
        names = list(self._engine.state.models) if model is None else [self._resolve(model)]
        return list(await asyncio.gather(*(self._free(name, rungs[to]) for name in names)))

    async def _free(self, name: str, to: Warmth) -> FreedModel:
        record = self._engine.state.models.get(name)
        if record is None:
            return FreedModel(name, "COLD", "COLD")
        before, known = record.warmth.name, self._freed.get(name)
        number = self._engine.post(msg.Unload(name, to, f"freed on request, to {to.name}"))

        def over() -> bool:
            record = self._engine.state.models.get(name)
            down = record is None or (record.phase not in MOVING and record.warmth <= to)
            return self._engine.taken >= number and (down or (record is not None and record.facts.cap > to))

        await self._engine.until(over)
        await self._pool.verified(name)
        record, freed = self._engine.state.models.get(name), self._freed.get(name)
        after = "COLD" if record is None else record.warmth.name
        return FreedModel(name, before, after, freed if freed is not known else None)

    async def lease(self, wanted: TakeLease, holder: tuple[int, int] | None = None) -> AsyncGenerator[object, None]:
        """Hold a lease until closed; yields once, when it is granted. ``holder``: whose it is, process and user."""
        label = "".join(c for c in wanted.name if c.isprintable())[:80] or "a program"
        held = self._engine.lease(label, wanted.memory, holder)
        journal.log(journal.NOTICE, f"{label} asks for a lease of the {'memory' if wanted.memory else 'accelerators'}.")
        try:
            async for models in held:
                late = f" {', '.join(models)} still write an answer." if models else ""
                journal.log(journal.NOTICE, f"{label} has its lease.{late}")
                yield LeaseGranted(models)
        finally:
            await held.aclose()
            journal.log(journal.NOTICE, f"The lease of {label} has ended.")

    def leases(self) -> list[LeaseInfo]:
        """The leases that last."""
        cards = [gpu.name for gpu in self._gpus()]
        return [
            LeaseInfo(
                x.label,
                self._engine.wall(x.since),
                [*cards, *([RAM] if x.memory else [])],
                x.granted,
                *(x.holder or (None, None)),
            )
            for x in self._engine.state.leases.values()
        ]
