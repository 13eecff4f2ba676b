"""The accounts: what every model costs, kept up to date while workers live.

Owns the figures and the accelerators that there are, and turns each measurement into a new cost for the engine. Must
not know who decides anything by it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from neuroshell_orch.core import messages as msg
from neuroshell_orch.core.warmth import Warmth
from neuroshell_orch.costs import Costs
from neuroshell_orch.desktop import gpu
from neuroshell_orch.errors import OrchError
from neuroshell_orch.planning import artefact_of
from neuroshell_orch.sd import journal

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from neuroshell_orch.config.schema import ModelSettings
    from neuroshell_orch.core.budget import Cost
    from neuroshell_orch.core.figures import Figures
    from neuroshell_orch.desktop.gpu import Gpu


class Accounts:
    """Costs by model. ``settings`` finds a registered model, ``post`` reaches the engine.

    ``recorded`` looks for what was measured of a model (its name, its artefact) when it was added, in a few files.
    """

    def __init__(
        self,
        folder: Path,
        settings: Callable[[str], ModelSettings | None],
        post: Callable[[msg.Event], object],
        recorded: Callable[[str, str], Figures | None],
    ) -> None:
        self.costs = Costs(folder)
        self.gpus: list[Gpu] = []
        self.wanted: set[str] = set()
        """Models whose cost was looked up, since somebody asked for them."""
        self._settings = settings
        self._post = post
        self._recorded = recorded
        self._looked: set[str] = set()
        """Artefacts whose record was looked for."""
        self._tasks: set[asyncio.Task[None]] = set()

    def cost(self, model: ModelSettings, artefact: str) -> Cost:
        """What ``model`` costs as far as is known.

        The record of one that was seen HOT is looked for after its next answer: somebody may be waiting now.
        """
        if self._seen_hot(artefact):
            self._looked.discard(artefact)
        else:
            self._look(model, artefact)
        return self._cost(model, artefact)

    def _cost(self, model: ModelSettings, artefact: str) -> Cost:
        usable = self.gpus and model.device != "cpu"
        gpu = self.gpus[0].name if usable else None
        return self.costs.cost(artefact, model.path, model.context_length, gpu, model.parallel)

    def want(self, name: str) -> None:
        """Somebody is about to ask for ``name``: the engine hears before that what it costs."""
        model = None if name in self.wanted else self._settings(name)
        if model is not None:
            self.wanted.add(name)
            self._post(msg.Costed(name, self.cost(model, artefact_of(model))))

    def measured(
        self, name: str, warmth: Warmth, size: int, wake: tuple[Warmth, float] | None = None, pid: int | None = None
    ) -> None:
        """``name``'s worker took ``size`` bytes on a rung, and a wake from another rung took so many seconds."""
        model = self._settings(name)
        if model is None:
            return
        artefact = artefact_of(model)
        # Not after a load, when an answer waits; the first wake from any rung but COLD has a rest on it before.
        news = wake is None and artefact not in self._looked and self._look(model, artefact)
        if self.gpus and warmth is Warmth.HOT and pid is not None:
            self._spawn(self._measure_vram(name, pid))
        if wake is not None:
            self.costs.saw_wake(artefact, *wake)
        if (size and self.costs.saw_memory(artefact, warmth, size)) or wake is not None or news:
            self._post(msg.Costed(name, self._cost(model, artefact)))

    async def held_by(self, pid: int) -> dict[str, int]:
        """Bytes that a process holds, by accelerator, by the driver's word."""
        return await asyncio.to_thread(gpu.used_by, pid) if self.gpus else {}

    def look_for_gpus(self, found: Callable[[], None]) -> None:
        """Look beside the start, since asking the driver takes longer than a start may; ``found`` hears of success."""

        async def look() -> None:
            self.gpus = await asyncio.to_thread(gpu.find)
            if self.gpus:
                found()

        self._spawn(look())

    async def close(self) -> None:
        """Keep what was measured."""
        if self._tasks:
            await asyncio.wait(self._tasks)
        try:
            self.costs.save()
        except OrchError as error:
            journal.log(journal.WARNING, f"What was measured could not be kept: {error}")

    async def _measure_vram(self, name: str, pid: int) -> None:
        taken = await self.held_by(pid)
        model = self._settings(name)
        if model is not None and self.costs.saw_vram(artefact_of(model), taken):
            self._post(msg.Costed(name, self._cost(model, artefact_of(model))))

    def _seen_hot(self, artefact: str) -> bool:
        seen = self.costs.figures(artefact)
        return seen is not None and seen.hot > 0

    def _look(self, model: ModelSettings, artefact: str) -> bool:
        """Look for the model's record; whether there is one."""
        found = self._recorded(model.name, artefact)
        self._looked.add(artefact)
        self.costs.begin_with(artefact, found)
        return found is not None

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
