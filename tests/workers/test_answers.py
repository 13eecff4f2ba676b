"""Several answers of one worker at once: rounds, cancellation, and answers that nobody reads."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, asynccontextmanager

import pytest

from neuroshell_orch.errors import OrchError
from neuroshell_orch.workers.answer import HIGH, LOW, Answer
from neuroshell_orch.workers.protocol import Done, Load, Piece
from tests.support_fake import fake_environment, fake_model
from tests.workers.conftest import ask, read, until

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def several(world, **knobs):
    """A worker whose runtime writes several answers at once."""
    names = f"{fake_environment()['NSORCH_RUNTIMES']},streams=tests.workers.fake_streams"
    async with world.worker(environment={"NSORCH_RUNTIMES": names}) as worker:
        await worker.load(Load("fake", "streams", str(fake_model(world.folder / "streams.json", **knobs)), parallel=4))
        yield worker


async def test_a_short_answer_does_not_wait_for_a_long_one(world):
    async with several(world) as worker, aclosing(ask(worker, "long", max_tokens=0)) as long:
        await anext(long)
        text, done = await asyncio.wait_for(read(ask(worker, "a b", max_tokens=4)), 30)
        assert (text, done.reason) == ("a b a b ", "length")
        assert not long.complete
        async for part in long:  # it goes on
            if isinstance(part, Piece):
                break


async def test_four_answers_are_written_in_turns_and_keep_apart(world):
    async with several(world) as worker:
        answers = [ask(worker, f"one{n} two{n}", max_tokens=30) for n in range(4)]
        for n, (text, done) in enumerate(await asyncio.gather(*map(read, answers))):
            assert text == f"one{n} two{n} " * 15
            assert done.completion_tokens == 30


async def test_cancelling_or_breaking_one_leaves_the_others_alone(world):
    async with several(world, delay=0.001) as worker:
        other = asyncio.create_task(read(ask(worker, "x y z", max_tokens=60)))
        async with aclosing(ask(worker, "long", max_tokens=0)) as long:
            await anext(long)
        with pytest.raises(OrchError, match="It broke"):
            await read(ask(worker, "break it"))
        with pytest.raises(OrchError, match="does not want"):
            await read(ask(worker, "refuse"))
        text, done = await other
        assert (text, done.completion_tokens) == ("x y z " * 20, 60)


async def test_nobody_reads_one_and_the_others_go_on(world):
    async with several(world) as worker, aclosing(ask(worker, "unread", max_tokens=0)) as unread:
        await anext(unread)
        await until(lambda: unread.full)
        text, _ = await asyncio.wait_for(read(ask(worker, "read", max_tokens=3 * HIGH)), 30)
        assert text == "read " * 3 * HIGH
        count = 0
        async for _ in unread:  # let go again, it goes on
            count += 1
            if count > 4 * HIGH and not unread.full:
                break


async def test_a_held_answer_can_be_cancelled(world):
    async with several(world) as worker:
        async with aclosing(ask(worker, "unread", max_tokens=0)) as unread:
            await anext(unread)
            await until(lambda: unread.full)
        await until(lambda: unread.complete)
        assert (await read(ask(worker, "a", max_tokens=1)))[0] == "a "


async def test_what_is_no_answer_waits_until_nothing_is_written(world):
    async with several(world) as worker:
        long = ask(worker, "long", max_tokens=0)
        await anext(long)
        asleep = asyncio.create_task(worker.hibernate())
        behind = asyncio.create_task(read(ask(worker, "behind", max_tokens=2)))
        await anext(long)
        assert not asleep.done()
        assert not behind.done()
        await long.aclose()
        await asyncio.wait_for(asleep, 30)
        assert (await behind)[0] == "behind behind "


async def test_answers_cancelled_before_they_began(world):
    async with several(world) as worker:
        answer = ask(worker, "x", max_tokens=0)
        await answer.aclose()
        _, done = await asyncio.wait_for(read(answer), 30)
        assert done.reason == "cancelled"


async def test_an_answer_is_held_at_one_mark_and_let_go_at_another():
    heard = []
    answer = Answer(5, heard.append, lambda job, held: heard.append((job, held)))
    for _ in range(HIGH + 3):
        answer.push(Piece(5, "x"))
    assert heard == [(5, True)]
    while heard == [(5, True)]:
        await anext(answer)
    assert heard == [(5, True), (5, False)]
    assert len(answer._unread) == LOW
    await answer.aclose()
    assert heard[2:] == [5]
    answer.push(Done(5, "cancelled"))
    assert answer.complete
