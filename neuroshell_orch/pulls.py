"""Pulls: models of the catalogue on their way in, each followed by as many clients as like to.

Owns that a model is pulled by one process, however many ask for it, that the process ends with the last who follows
it (what came is kept and the next pull goes on from there), and that the configuration is read again when the model is
there, and once more when it is prepared. A follower that reads slowly sees fewer steps. Must not know HTTP, nor what a
step is called in any convention.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

import msgspec

from neuroshell_orch.config import paths
from neuroshell_orch.errors import PROBLEMS, OrchError
from neuroshell_orch.models import pulling
from neuroshell_orch.models.pulling import Pulled, Refused, Step
from neuroshell_orch.sd import journal
from neuroshell_orch.workers.errand import Errand, sent

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable


class _Pull:
    """One process and who follows it."""

    def __init__(self) -> None:
        self.task: asyncio.Task[Pulled]
        self.step: Step | None = None
        self.followers = 0
        self._news = asyncio.Event()

    def tell(self, step: Step | None) -> None:
        """A new step, or the end."""
        self.step = step or self.step
        self._news.set()
        self._news = asyncio.Event()

    async def wait(self) -> None:
        """Until there is something new."""
        await self._news.wait()


class Pulls:
    """All pulls of this daemon. ``kind`` is that of its launcher; ``reload`` reads the configuration again."""

    def __init__(self, kind: str, reload: Callable[[], Awaitable[object]]) -> None:
        self._kind = kind
        self._reload = reload
        self._running: dict[str, _Pull] = {}
        self._tasks: set[asyncio.Task[Pulled]] = set()

    async def follow(self, name: str) -> AsyncGenerator[Step | Pulled, None]:
        """Steps of the pull of ``name`` as they come, and one Pulled. Close it to give up. Raises OrchError."""
        pull = self._running.get(name) or self._begin(name)
        pull.followers += 1
        seen: Step | None = None
        try:
            while True:
                if pull.step is not seen and pull.step is not None:
                    seen = pull.step
                    yield seen
                elif pull.task.cancelled():
                    raise OrchError("service-stopping", f"The service stops before {name} is pulled.", "Pull it again.")
                elif pull.task.done():
                    yield pull.task.result()
                    return
                else:
                    await pull.wait()
        finally:
            pull.followers -= 1
            if not pull.followers and not pull.task.done():
                if self._running.get(name) is pull:
                    del self._running[name]  # whoever comes now starts anew, and waits for the lock of the old one
                pull.task.cancel()

    async def close(self) -> None:
        """Give all of them up, and wait until their processes are gone."""
        for task in self._tasks:
            if not task.cancelling():  # once only: a second time would disturb its cleaning up
                task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _begin(self, name: str) -> _Pull:
        pull = self._running[name] = _Pull()
        pull.task = asyncio.create_task(self._pull(name, pull))
        self._tasks.add(pull.task)

        def over(task: asyncio.Task[Pulled]) -> None:
            self._tasks.discard(task)
            if not task.cancelled():
                task.exception()  # seen, even where its last follower left just now
            pull.tell(None)

        pull.task.add_done_callback(over)
        return pull

    async def _pull(self, name: str, pull: _Pull) -> Pulled:
        try:
            done = await self._run(name, pull)
            if done.fresh:
                journal.log(journal.NOTICE, f"Model {done.model} was pulled.", model=done.model)
            if done.note:
                journal.log(journal.WARNING, done.note, model=done.model)
            await self._reload()
        finally:
            if self._running.get(name) is pull:
                del self._running[name]
        return done

    async def _run(self, name: str, pull: _Pull) -> Pulled:
        errand = Errand(f"pull-{_plain(name)}", f"Pull of the AI model {name}", pulling.MODULE, (name,), _folders())
        async with sent(errand, self._kind, pulling.MAX_LINE) as running, aclosing(running.lines()) as lines:
            async for line in lines:
                match _read(line):
                    case Step() as step:
                        if step.stage == pulling.PREPARE and step.done == 0:
                            await self._reload()  # it is there, even if nobody waits for its copy
                        pull.tell(step)
                    case Refused(problem, message, hint):
                        raise OrchError(problem if problem in PROBLEMS else "download-failed", message, hint)
                    case Pulled() as done:
                        return done
            end = await running.ended()
        raise OrchError("download-failed", f"The pull of {name} {end.sentence}.", end.hint or "Pull it again.")


def _read(line: bytes) -> Step | Pulled | Refused:
    try:
        return pulling.read(line)
    except msgspec.DecodeError:
        raise OrchError("internal", "A pull said something that is not understood.", "Report this.") from None


def _plain(name: str) -> str:
    """``name`` as a part of a unit's name."""
    return "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name)[:64]


def _folders() -> tuple[str, ...]:
    """Where a pull writes. They must exist: what does not cannot be opened in the sandbox."""
    folders = (paths.models_dir(), paths.cache_dir(), paths.config_dirs()[-1])
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OrchError(
                "not-allowed", f"{folder} cannot be made: {error.strerror}.", "Make it yourself."
            ) from error
    return tuple(str(folder) for folder in folders)
