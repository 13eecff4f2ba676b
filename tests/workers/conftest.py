from __future__ import annotations

import itertools
from contextlib import asynccontextmanager

import pytest

from neuroshell_orch.workers.launch import ChildLauncher, WorkerSpec
from neuroshell_orch.workers.process import Worker
from neuroshell_orch.workers.protocol import ChatMessage, Generate, Load
from tests.support_fake import fake_environment, fake_model


class World:
    """Starts workers and fake models in one temporary folder."""

    def __init__(self, folder, launcher):
        self.folder = folder
        self.launcher = launcher
        self.numbers = itertools.count(1)

    @asynccontextmanager
    async def worker(self, **options):
        environment = {**fake_environment(), **options.pop("environment", {})}
        spec = WorkerSpec("fake", next(self.numbers), environment=environment, **options)
        worker = await Worker.start(self.launcher, spec)
        try:
            yield worker
        finally:
            await worker.stop()

    @asynccontextmanager
    async def loaded(self, **knobs):
        async with self.worker() as worker:
            await worker.load(self.load(**knobs))
            yield worker

    def load(self, **knobs):
        return Load("fake", "fake", str(fake_model(self.folder / f"{next(self.numbers)}.json", **knobs)))


@pytest.fixture
def world(tmp_path):
    return World(tmp_path, ChildLauncher())


def ask(worker, text="one two three", **options):
    return worker.generate(Generate(worker.next_job(), [ChatMessage("user", text)], **options))


async def read(answer):
    """The text and the Done."""
    text, done = "", None
    async for part in answer:
        if hasattr(part, "text"):
            text += part.text
        else:
            done = part
    return text, done
