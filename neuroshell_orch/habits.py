"""What is known of when models are asked, from one run of the daemon to the next.

Owns when the history file is read (beside the start, which does not wait for it) and when it is written: a while after
an ask, and at the end. The engine keeps and uses the histories themselves. Must not know what is decided by them.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from neuroshell_orch.core.messages import Recalled
from neuroshell_orch.errors import OrchError
from neuroshell_orch.history_store import FILE, HistoryStore
from neuroshell_orch.sd import journal

if TYPE_CHECKING:
    from pathlib import Path

    from neuroshell_orch.engine import Engine

SAVE_SECONDS: Final = 60.0
"""So long after an ask what is known is written: what a crash may cost. Nothing is written while nobody asks."""


class Habits:
    """The histories of ``engine``, kept in ``folder``."""

    def __init__(self, folder: Path, engine: Engine, wait: float = SAVE_SECONDS) -> None:
        self._store = HistoryStore(folder)
        self._engine = engine
        self._wait = wait
        self._over = asyncio.Event()
        self._recalling: asyncio.Task[None] | None = None
        self._saving: asyncio.Task[None] | None = None

    def recall(self) -> None:
        """Tell the engine what is known from before, soon; on the first start there is nothing to do."""
        if self._store.there():
            self._recalling = asyncio.get_running_loop().create_task(self._recall())

    def asked(self) -> None:
        """There will be something new to write."""
        if self._saving is None or self._saving.done():
            self._saving = asyncio.get_running_loop().create_task(self._save_later())

    async def close(self) -> None:
        """Write what is new, for the last time."""
        if self._recalling is not None:
            await self._recalling
        if self._saving is not None:
            self._over.set()
            await self._saving
        await self._save()

    async def _recall(self) -> None:
        known = await asyncio.to_thread(self._store.load, self._engine.now())
        if self._store.damage:
            journal.log(
                journal.WARNING,
                f"When models were asked is forgotten, at least in part: {FILE}: {self._store.damage}.",
            )
        if known:
            number = self._engine.post(Recalled(known))
            await self._engine.until(lambda: self._engine.taken >= number)

    async def _save_later(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._wait):
                await self._over.wait()
        if self._recalling is not None:
            await self._recalling
        await self._save()

    async def _save(self) -> None:
        models = self._engine.state.models.values()
        histories = {model.name: model.facts.history for model in models if model.facts.history is not None}
        news = self._store.news(histories, self._engine.now())
        if news is None:
            return
        try:
            await asyncio.to_thread(self._store.write, news)
        except OrchError as error:
            journal.log(journal.WARNING, f"When models were asked could not be kept: {error}")
