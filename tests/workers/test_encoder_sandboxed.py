"""The encoder's runtime in the sandbox of a transient service: its libraries need nothing that is forbidden there."""

from __future__ import annotations

import pytest

from neuroshell_orch.workers.launch import connect_systemd
from neuroshell_orch.workers.protocol import Embed, Load
from tests import support_encoder as tiny
from tests.workers.conftest import World

pytestmark = pytest.mark.anyio


async def test_it_stands_by_loads_and_embeds(manager, tmp_path):
    folder = tiny.converted(tiny.tiny_encoder(tmp_path / "source"), tmp_path / "tiny")
    launcher = await connect_systemd()
    async with World(tmp_path, launcher).worker(environment={"NSORCH_RUNTIMES": ""}) as worker:
        assert "tokenizers" in (await worker.standby("encoder")).runtime_version
        await worker.load(Load("fake", "encoder", str(folder)))
        answer = await worker.embed(Embed(worker.next_job(), ["the cat " * 9] * 300))
        assert len(answer.vectors) == 300 * 4 * tiny.HIDDEN
        assert worker.unit is not None
    await launcher.close()
