"""A real model: the same answers with a prompt's beginning known or not, alone or in company."""

from __future__ import annotations

import asyncio

import pytest

from neuroshell_orch.runtimes.genai import GenaiRuntime
from neuroshell_orch.workers.launch import ChildLauncher, WorkerSpec
from neuroshell_orch.workers.process import Worker
from neuroshell_orch.workers.protocol import ChatMessage, Done, Generate, Load
from tests.support_models import smollm2_folder

PREFIX = "Once upon a time a fox lived at the edge of a large forest. " * 36
QUESTIONS = ("Who lives there?", "What is beside the forest? Say it in one sentence.")


@pytest.fixture(scope="module", params=[1, 4], ids=["one at a time", "four at once"])
def runtimes(request):
    """One that keeps prefixes, one that does not."""
    made = []
    for keep in (True, False):
        runtime = GenaiRuntime()
        runtime.load(Load("smollm2", "genai", str(smollm2_folder()), parallel=request.param, keep_prefix=keep))
        made.append(runtime)
    return made


def answers(runtime, *conversations, limit=12):
    """What it says to each of them, all asked at once, and how each ended."""
    pieces = [[] for _ in conversations]
    writers = [
        runtime.begin(
            Generate(number, turns, max_tokens=limit, temperature=0),
            lambda text, *_, to=pieces[number]: to.append(text),
            lambda: False,
        )
        for number, turns in enumerate(conversations)
    ]
    while live := [writer for writer in writers if writer.done is None]:
        runtime.advance(live)
    return ["".join(said) for said in pieces], [writer.done for writer in writers]


def test_a_prefix_of_500_tokens(runtimes):
    keeps, forgets = runtimes
    first, second = ([ChatMessage("user", f"{PREFIX}\n{question}")] for question in QUESTIONS)
    answers(keeps, first)
    said, (done,) = answers(keeps, second)
    expected, (plain,) = answers(forgets, second)
    assert said == expected
    assert (plain.cached_tokens, plain.prompt_tokens) == (0, done.prompt_tokens)
    assert done.cached_tokens > 500


def test_the_next_turn_of_a_conversation(runtimes):
    keeps, forgets = runtimes
    turns, known = [ChatMessage("user", "Name three animals of the forest, with a word on each.")], []
    for following in ("And three birds?", ""):
        (said,), (done,) = answers(keeps, turns)
        (expected,), _ = answers(forgets, turns)
        assert said == expected
        known.append((done.cached_tokens, done.prompt_tokens))
        turns += [ChatMessage("assistant", said), ChatMessage("user", following)]
    assert known[1][0] >= known[0][1] - 2


def test_in_company(runtimes):
    keeps, forgets = runtimes
    conversations = [
        [ChatMessage("user", text)]
        for text in ("What is the capital of France?", "Explain how bread is made.", "Write a story.", PREFIX[:240])
    ]
    alone = [answers(forgets, turns)[0][0] for turns in conversations]
    assert answers(keeps, *conversations)[0] == alone


@pytest.mark.anyio
async def test_a_long_prompt_can_be_cancelled_before_it_is_read():
    worker = await Worker.start(ChildLauncher(), WorkerSpec("smollm2", 1))
    try:
        await worker.load(Load("smollm2", "genai", str(smollm2_folder())))
        turns = [ChatMessage("user", PREFIX * 5)]
        answer = worker.generate(Generate(worker.next_job(), turns, max_tokens=2))
        await asyncio.sleep(0.2)  # long enough to begin, not to read 2500 tokens; nothing is asserted about it
        await answer.aclose()
        (done,) = [item async for item in answer if isinstance(item, Done)]
        assert (done.reason, done.completion_tokens, done.decode_seconds) == ("cancelled", 0, 0.0)
    finally:
        await worker.stop()
