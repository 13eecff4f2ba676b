"""What an unload gave back: when it is back, when it is late, and when it is lost."""

from __future__ import annotations

import asyncio

import pytest

from neuroshell_orch.api.schema import Memory
from neuroshell_orch.workers import verify

pytestmark = pytest.mark.anyio

MIB = 1 << 20


class Ended:
    """A worker with a process number, and nothing else."""

    pid, unit = 41, None

    def memory(self):
        return Memory(100 * MIB, 90 * MIB, 110 * MIB, None)


def driver_of(*answers):
    """A driver that gives these answers, the last one for ever."""
    left = list(answers)

    async def driver(pid):
        assert pid == 41
        return left.pop(0) if len(left) > 1 else left[0]

    return driver


def unit_of(tmp_path, size):
    """A unit's own count, and what was looked up before its end."""
    count = tmp_path / "memory.current"
    count.write_text(f"{size}\n")
    memory = Memory(100 * MIB, 90 * MIB, 110 * MIB, size)
    return count, verify.Before(41, memory, count, {}, 0.0)


@pytest.fixture
def soon(monkeypatch):
    monkeypatch.setattr(verify, "GONE_SECONDS", 0.1)


async def test_without_a_driver_and_a_unit_there_is_nothing_beyond_the_process():
    before = await verify.look(Ended(), verify.no_driver)
    assert not before.beyond
    found = verify.freed(before, None)
    assert (found.before, found.after, found.lost, found.vram_before) == (100 * MIB, 0, "", 0)


async def test_the_driver_is_asked_until_it_lets_go():
    driver = driver_of({"cuda:0": 7}, {"cuda:0": 7}, {"cuda:0": 7}, {})
    before = await verify.look(Ended(), driver)
    assert before.beyond
    found = await verify.see_back(before, driver)
    assert (found.vram_before, found.vram_after, found.lost) == (7, 0, "")


async def test_what_the_driver_keeps_is_lost(soon):
    driver = driver_of({"cuda:0": 900 * MIB}, {"cuda:0": 200 * MIB})
    found = await verify.see_back(await verify.look(Ended(), driver), driver)
    assert (found.vram_before, found.vram_after) == (900 * MIB, 200 * MIB)
    assert found.lost == "the driver still counts 200 MiB of cuda:0 for a process that is gone"


async def test_a_driver_that_hangs_keeps_nothing_alive_and_is_not_believed(soon, monkeypatch):
    monkeypatch.setattr(verify, "ASK_SECONDS", 0.01)
    hanging = asyncio.Event()

    async def driver(_pid):
        await hanging.wait()

    assert (await verify.look(Ended(), driver)).driver == {}
    before = verify.Before(41, Ended().memory(), None, {"cuda:0": 8 * MIB}, 0.0)
    found = await verify.see_back(before, driver)
    assert "still counts 8 MiB" in found.lost


async def test_a_group_that_is_removed_is_back(tmp_path):
    count, before = unit_of(tmp_path, 300 * MIB)
    seeing = asyncio.ensure_future(verify.see_back(before, verify.no_driver))
    await asyncio.sleep(0)
    assert not seeing.done()
    count.unlink()
    found = await seeing
    assert (found.cgroup_before, found.cgroup_after, found.lost) == (300 * MIB, 0, "")


async def test_a_group_that_lives_on_with_something_in_it_is_lost(tmp_path, soon):
    count, before = unit_of(tmp_path, 300 * MIB)
    count.write_text(f"{50 * MIB}\n")
    found = await verify.see_back(before, verify.no_driver)
    assert found.cgroup_after == 50 * MIB
    assert "still charged with 50 MiB" in found.lost


async def test_a_group_with_next_to_nothing_in_it_is_no_loss(tmp_path):
    count, before = unit_of(tmp_path, 300 * MIB)
    count.write_text(f"{verify.LITTLE}\n")
    assert (await verify.see_back(before, verify.no_driver)).lost == ""


@pytest.mark.parametrize(("promised", "before", "enough"), [(100, 200, 90), (200, 100, 90), (0, 5, 0)])
def test_nine_tenths_of_what_can_come_back_is_enough(promised, before, enough):
    assert verify.enough(promised, before) == enough
