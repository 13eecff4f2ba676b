from __future__ import annotations

import asyncio
import itertools
from contextlib import ExitStack, asynccontextmanager

import pytest

from neuroshell_orch.workers.launch import ChildLauncher, WorkerSpec
from neuroshell_orch.workers.process import Worker
from neuroshell_orch.workers.protocol import ChatMessage, Generate, Load
from tests.support_fake import fake_environment, fake_model
from tests.support_manager import UnavailableError, user_manager


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


@pytest.fixture(scope="session")
def manager_environment(tmp_path_factory):
    """A private user manager for this session, or a skip that says why there is none."""
    with ExitStack() as stack:
        try:
            environment = stack.enter_context(user_manager(tmp_path_factory.mktemp("manager")))
        except UnavailableError as why:
            pytest.skip(f"no systemd user manager: {why}")
        yield environment


@pytest.fixture
def manager(manager_environment, monkeypatch):
    for name, value in manager_environment.items():
        monkeypatch.setenv(name, value)
    return manager_environment


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


async def until(fact):
    """Wait for a fact about another process."""
    async with asyncio.timeout(30):
        while not fact():  # noqa: ASYNC110
            await asyncio.sleep(0.002)
