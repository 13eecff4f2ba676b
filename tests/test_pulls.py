"""Pulls by processes of their own, as children and as transient services: followed, shared, given up, failing."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
from pathlib import Path

import pytest

from neuroshell_orch.config import paths
from neuroshell_orch.config.load import load
from neuroshell_orch.errors import OrchError
from neuroshell_orch.models import pulling, registry
from neuroshell_orch.models.pulling import Pulled, Refused, Step
from neuroshell_orch.planning import artefact_of, order_of
from neuroshell_orch.pulls import Pulls
from neuroshell_orch.workers import preparing
from neuroshell_orch.workers.errand import Errand, errand_properties, sent
from tests.support_shop import stock
from tests.workers.conftest import manager as user_manager  # noqa: F401 - a fixture
from tests.workers.conftest import manager_environment  # noqa: F401 - likewise

pytestmark = pytest.mark.anyio

GPU = Path("/dev/nvidiactl").exists()


@pytest.fixture
def shop(xdg, monkeypatch):
    for name, value in stock(xdg / "config" / "nsorch", xdg).items():
        monkeypatch.setenv(name, value)
    return xdg


class Reloads:
    def __init__(self):
        self.count = 0

    async def __call__(self):
        self.count += 1


async def followed(pulls, name="tiny"):
    return [said async for said in pulls.follow(name)]


async def lock_held(shop):
    """The lock that pulls of the model wait for, held by somebody else."""
    folder = shop / "cache" / "nsorch"
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / ".tiny.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


async def test_a_pull_is_followed_to_its_end_and_does_nothing_twice(shop):
    reloads = Reloads()
    pulls = Pulls("child", reloads)
    said = await followed(pulls)
    stages = list(dict.fromkeys(step.stage for step in said[:-1]))
    assert stages[0] == "download"
    assert stages[-1] == "hash"
    assert said[-1] == Pulled("tiny", fresh=True)
    assert reloads.count == 1
    assert registry.get("tiny").digest.startswith("sha256:")
    assert (await followed(pulls))[-1] == Pulled("tiny", fresh=False)


async def test_many_followers_share_one_process(shop):
    pulls = Pulls("child", Reloads())
    lock = await lock_held(shop)
    followers = [asyncio.ensure_future(followed(pulls)) for _ in range(5)]
    await asyncio.sleep(0)
    assert len(pulls._running) == 1
    os.close(lock)
    for said in await asyncio.gather(*followers):
        assert said[-1] == Pulled("tiny", fresh=True)
    assert not pulls._running


async def test_the_last_follower_who_leaves_ends_it_in_order(shop):
    pulls = Pulls("child", Reloads())
    lock = await lock_held(shop)  # it waits in the middle for as long as we like
    first, second = (asyncio.ensure_future(followed(pulls)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait({first})
    assert not pulls._running["tiny"].task.done()
    second.cancel()
    await asyncio.wait({second})
    assert not pulls._running
    os.close(lock)
    assert (await followed(pulls))[-1].fresh
    await pulls.close()


async def test_closing_ends_it_for_whoever_follows(shop):
    pulls = Pulls("child", Reloads())
    lock = await lock_held(shop)
    follower = asyncio.ensure_future(followed(pulls))
    await asyncio.sleep(0)
    await pulls.close()
    with pytest.raises(OrchError, match="service stops"):
        await follower
    os.close(lock)


@pytest.mark.parametrize(
    ("name", "problem", "words"), [("nope", "model-unknown", "tiny"), ("../x", "model-unknown", "x")]
)
async def test_what_is_not_there_is_refused(shop, name, problem, words):
    with pytest.raises(OrchError, match=words) as caught:
        await followed(Pulls("child", Reloads()), name)
    assert caught.value.problem == problem


async def test_a_file_that_is_not_the_promised_one(xdg, monkeypatch):
    for name, value in stock(xdg / "config" / "nsorch", xdg, broken=True).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(OrchError, match="SHA-256") as caught:
        await followed(Pulls("child", Reloads()))
    assert caught.value.problem == "download-failed"
    assert registry.models() == []


def wants_copies(shop):
    (shop / "config" / "nsorch" / "nsorch.conf").write_text("[Orchestrator]\nPrepare=yes\n")


def recorded():
    """What was measured of the model with its copy."""
    found = load()
    return preparing.recorded(paths.cache_dir(), order_of(found, "tiny"), artefact_of(found.models["tiny"]))


@pytest.mark.skipif(GPU, reason="the model may run on the accelerator, without figures of a copy")
async def test_what_is_pulled_gets_its_copy_and_is_there_before(shop):
    wants_copies(shop)
    reloads = Reloads()
    seen = []
    async for said in Pulls("child", reloads).follow("tiny"):
        seen.append(said)
        if isinstance(said, Step) and said.stage == pulling.PREPARE:
            assert reloads.count >= 1
            assert registry.get("tiny")
    assert seen[-2].stage == pulling.PREPARE
    assert seen[-1] == Pulled("tiny", fresh=True)
    assert reloads.count == 2
    assert recorded().hot > 0


async def test_without_a_copy_it_is_pulled_all_the_same(shop):
    wants_copies(shop)
    in_the_way = paths.cache_dir() / "prepared"
    in_the_way.parent.mkdir(parents=True)
    in_the_way.write_text("a file in the place of the folder")
    done = (await followed(Pulls("child", Reloads())))[-1]
    assert (done.model, done.fresh) == ("tiny", True)
    assert done.note.startswith("tiny works, but no prepared copy could be made: ")
    assert registry.get("tiny")


async def test_leaving_while_the_copy_is_made_keeps_the_model_and_ends_the_making(shop):
    wants_copies(shop)
    reloads = Reloads()
    pulls = Pulls("child", reloads)
    steps = pulls.follow("tiny")
    async for said in steps:
        if isinstance(said, Step) and said.stage == pulling.PREPARE:
            break
    tasks = set(pulls._tasks)
    await steps.aclose()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert reloads.count >= 1
    assert registry.get("tiny")
    assert not list((paths.cache_dir() / "prepared").glob(".tiny*")), "nothing half done is left"
    assert (await followed(pulls))[-1] == Pulled("tiny", fresh=False)


async def test_a_pull_that_dies_is_an_error(shop, monkeypatch):
    monkeypatch.setattr(pulling, "MODULE", "tests.no_such_module")
    with pytest.raises(OrchError, match="exit code 1"):
        await followed(Pulls("child", Reloads()))


async def test_as_a_service_of_the_user_manager(shop, user_manager):  # noqa: F811 - the fixture
    wants_copies(shop)
    said = await followed(Pulls("systemd", Reloads()))
    assert said[-1] == Pulled("tiny", fresh=True)
    assert GPU or recorded().hot > 0, "its sandbox lets it make and measure a copy"
    shutil.rmtree(registry.folder("tiny"))


async def test_a_service_that_is_given_up_leaves_nothing_behind(shop, user_manager):  # noqa: F811 - likewise
    lock = await lock_held(shop)
    errand = Errand("test", "A test", pulling.MODULE, ("tiny",), (str(shop),))
    async with sent(errand, "systemd", 1 << 16) as running:
        assert running.unit.startswith("nsorch-test-")
        end = running.ended()
    assert (await asyncio.wait_for(end, 10)).code == 143
    os.close(lock)


def test_what_its_sandbox_opens():
    errand = Errand("pull-x", "A pull", "module", ("x",), ("/folder",))
    found = {name: value for name, _kind, value in errand_properties(errand, {}, bind_to="a.service", runtime_dir="/r")}
    assert found["RestrictAddressFamilies"] == [True, ["AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK"]]
    assert found["ReadWritePaths"] == ["/folder"]
    assert found["ProtectSystem"] == "strict"
    assert found["BindsTo"] == ["a.service"]
    assert "PrivateNetwork" not in found


@pytest.mark.parametrize("said", [Step("download", 1, 2), Pulled("x", fresh=True), Refused("no-space", "a", "b")])
def test_lines_are_read_back(said):
    assert pulling.read(pulling._encode(said)) == said
