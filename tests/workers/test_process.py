"""Worker: what it promises about replies and about ends. Every worker here is a real process."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import aclosing

import pytest

from neuroshell_orch.errors import OrchError
from neuroshell_orch.workers.answer import HIGH
from neuroshell_orch.workers.protocol import Infer, Tensor
from tests.workers.conftest import ask, read, until

pytestmark = pytest.mark.anyio


def infer(worker):
    return worker.infer(Infer(worker.next_job(), [Tensor("x", "FP32", [2], b"12345678")]))


async def test_requests_may_follow_the_start_at_once(world):
    async with world.worker() as worker:
        loading = asyncio.create_task(worker.load(world.load()))
        await asyncio.sleep(0)
        text, done = await read(ask(worker, "a b c"))
        assert loading.done()
        assert (await loading).runtime_version == "fake 1"
        assert text == "a b c "
        assert (done.reason, done.completion_tokens) == ("stop", 3)


async def test_the_whole_ladder_in_one_process(world):
    async with world.worker() as worker:
        parked = await worker.standby("fake")
        loaded = await worker.load(world.load(eat_mb=4))
        assert (parked.runtime_version, loaded.can_hibernate) == ("fake 1", True)
        assert (await worker.hibernate()).given_back == 4 << 20
        with pytest.raises(OrchError, match="asleep"):
            await read(ask(worker))
        await worker.wake()
        assert (await read(ask(worker)))[1].reason == "stop"
        outputs = await infer(worker)
        assert outputs.tensors[0].data == b"12345678"


async def test_a_failed_operation_leaves_the_worker_alive(world):
    async with world.worker() as worker:
        with pytest.raises(OrchError, match="does not want") as failed:
            await worker.load(world.load(load="fail"))
        assert failed.value.problem == "model-invalid"
        await worker.load(world.load())
        with pytest.raises(OrchError, match="holds a model already"):
            await worker.load(world.load())
        assert (await read(ask(worker)))[1].reason == "stop"


@pytest.mark.parametrize(
    ("attempt", "problem"),
    [
        (lambda worker, _: worker.standby("nonsense"), "unsupported"),
        (lambda worker, _: worker.hibernate(), "internal"),
        (lambda worker, _: read(ask(worker)), "internal"),
        (lambda worker, _: infer(worker), "internal"),
        (lambda worker, world: worker.load(world.load(load="memory")), "load-failed"),
    ],
    ids=["no such runtime", "hibernate nothing", "ask nothing", "infer nothing", "MemoryError"],
)
async def test_what_cannot_be_done_is_refused(world, attempt, problem):
    async with world.worker() as worker:
        with pytest.raises(OrchError) as refused:
            await attempt(worker, world)
        assert refused.value.problem == problem
        await worker.standby("fake")


@pytest.mark.parametrize(
    ("how", "words"),
    [("kill", "SIGKILL"), ("segv", "SIGSEGV"), ("abort", "SIGABRT"), ("exit", "exit code 3")],
)
async def test_death_while_loading(world, how, words):
    async with world.worker() as worker:
        with pytest.raises(OrchError, match=words) as died:
            await worker.load(world.load(load=how))
        assert died.value.problem == "worker-died"
        assert died.value.hint
        assert words in (await worker.exited).sentence
        assert worker.pid is None
        assert worker.memory() is None


async def test_death_in_an_answer_after_what_was_said(world):
    async with world.loaded(tokens=10, die_after=3) as worker:
        answer = ask(worker, "a b c d")
        parts = [await anext(answer) for _ in range(3)]
        assert [part.text for part in parts] == ["a ", "b ", "c "]
        with pytest.raises(OrchError, match="SIGKILL"):
            await anext(answer)
        with pytest.raises(StopAsyncIteration):
            await anext(answer)


async def test_death_is_told_to_every_waiter_once(world):
    async with world.loaded(tokens=-1, delay=0.01) as worker:
        waiters = [asyncio.create_task(c) for c in (read(ask(worker)), infer(worker), read(ask(worker)))]
        waiters += [asyncio.create_task(worker.hibernate()), asyncio.create_task(worker.standby("fake"))]
        await asyncio.sleep(0)
        os.kill(worker.pid, signal.SIGKILL)
        results = await asyncio.wait_for(asyncio.gather(*waiters, return_exceptions=True), 10)
        assert [(type(r), r.problem) for r in results] == [(OrchError, "worker-died")] * 5
        for late in (worker.hibernate(), infer(worker), read(ask(worker))):
            with pytest.raises(OrchError, match="SIGKILL"):
                await late


async def test_an_unexpected_error_ends_the_worker_without_its_message(world, capfd):
    async with world.worker() as worker:
        with pytest.raises(OrchError, match="exit code 1"):
            await worker.load(world.load(load="crash"))
    said = capfd.readouterr().err
    assert "KeyError in a worker" in said
    assert "a secret prompt" not in said.replace('raise KeyError("a secret prompt")', "")


async def test_stop_ends_a_hanging_and_a_stopped_worker(world):
    for freeze in (False, True):
        async with world.worker() as worker:
            await worker.greeted
            loading = asyncio.create_task(worker.load(world.load(load="hang")))
            await asyncio.sleep(0)
            pid = worker.pid
            if freeze:
                os.kill(pid, signal.SIGSTOP)
            before = time.monotonic()
            end = await worker.stop()
            assert time.monotonic() - before < 5
            assert end.signal == signal.SIGKILL
            with pytest.raises(OrchError, match="was stopped"):
                await loading
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
            assert await worker.stop() == end


async def test_with_grace_a_worker_leaves_by_itself(world):
    async with world.loaded() as worker:
        assert (await worker.stop(grace=10)).code == 0


async def test_cancel_ends_an_answer_and_the_next_one_works(world):
    async with world.loaded(tokens=-1, delay=0.001) as worker:
        answer = ask(worker)
        await anext(answer)
        worker.cancel(answer.job)
        assert (await read(answer))[1].reason == "cancelled"
        worker.cancel(answer.job)
        worker.cancel(99)
        assert (await read(ask(worker, max_tokens=2)))[1].reason == "length"


async def test_a_job_can_be_cancelled_before_it_runs(world):
    async with world.loaded(tokens=-1, delay=0.001) as worker:
        first, second = ask(worker), ask(worker)
        worker.cancel(second.job)
        await anext(first)
        worker.cancel(first.job)
        assert (await read(first))[1].reason == "cancelled"
        text, done = await read(second)
        assert (text, done.reason, done.completion_tokens) == ("", "cancelled", 0)


async def test_giving_up_on_an_inference_cancels_it(world):
    async with world.loaded(tokens=-1) as worker:
        waiting = asyncio.create_task(infer(worker))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert (await read(ask(worker, max_tokens=1)))[1].reason == "length"


async def test_giving_up_on_an_operation_does_not_confuse_the_next(world):
    async with world.worker() as worker:
        waiting = asyncio.create_task(worker.standby("fake"))
        await asyncio.sleep(0)
        waiting.cancel()
        assert (await worker.load(world.load())).context_length == 1000


async def test_an_unread_answer_holds_the_worker_up_and_can_be_dropped(world):
    async with world.loaded(tokens=-1) as worker:
        async with aclosing(ask(worker, "word " * 50)) as answer:
            await anext(answer)
            await until(lambda: answer.full)
            unread = len(answer._unread)
            # What the socket holds may still come; without the hold-up this would grow by thousands.
            for _ in range(20):
                await asyncio.sleep(0.001)
            assert len(answer._unread) <= unread + HIGH * 20
        text, done = await asyncio.wait_for(read(ask(worker, max_tokens=3)), 10)
        assert (text.split(), done.reason) == (["word"] * 3, "length") or done.completion_tokens == 3


async def test_a_slow_reader_gets_everything(world):
    async with world.loaded(tokens=5000) as worker:
        count = 0
        async for part in ask(worker, "a"):
            if hasattr(part, "text"):
                count += 1
                if count % 1000 == 0:
                    await asyncio.sleep(0.01)
            else:
                assert part.completion_tokens == 5000
        assert count == 5000


async def test_a_worker_that_ignores_cancel_does_not_fill_memory(world):
    async with world.loaded(tokens=-1, ignore_cancel=True) as worker:
        answer = ask(worker)
        await anext(answer)
        await answer.aclose()
        await asyncio.sleep(0.05)
        assert len(answer._unread) == 0


async def test_large_tensors_arrive_whole(world):
    async with world.loaded() as worker:
        data = os.urandom(30 << 20)
        outputs = await worker.infer(Infer(worker.next_job(), [Tensor("x", "UINT8", [len(data)], data)]))
        assert outputs.tensors[0].data == data


async def test_memory_is_read_from_the_kernel(world):
    async with world.worker() as worker:
        await worker.greeted
        before = worker.memory()
        await worker.load(world.load(eat_mb=64))
        grown = worker.memory().private_dirty - before.private_dirty
        assert 60 << 20 < grown < 90 << 20
        assert before.pss <= before.rss
        assert before.cgroup is None


async def test_a_worker_leaves_when_its_socket_closes(world):
    async with world.worker() as worker:
        await worker.greeted
        worker._channel.close()
        assert (await asyncio.wait_for(worker.exited, 10)).code == 0


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff\xff", b"\x03\x00\x00\x00abc"])
async def test_garbage_ends_the_worker(world, garbage):
    async with world.worker() as worker:
        await worker.greeted
        worker._channel.send(garbage)
        assert (await asyncio.wait_for(worker.exited, 10)).code == 65
