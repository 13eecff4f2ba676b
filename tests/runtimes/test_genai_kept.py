"""What is kept of one prompt for the next: the answer must be what it would be without."""

from __future__ import annotations

import json
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroshell_orch.runtimes import genai_rows, genai_writer
from neuroshell_orch.runtimes.genai import GenaiRuntime
from neuroshell_orch.runtimes.genai_kept import LEAST, NEW, Keeper, Kept
from neuroshell_orch.runtimes.genai_writer import Pace
from neuroshell_orch.workers.protocol import ChatMessage, Generate, Load
from tests.support_tiny import CONTEXT, tiny_genai_folder

LONG = "the quick brown fox jumps over the lazy dog, " * 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_genai_folder(tmp_path_factory.mktemp("kept") / "tiny")


def loaded(folder, **options):
    runtime = GenaiRuntime()
    runtime.load(Load("tiny", "genai", str(folder), **options))
    return runtime


@pytest.fixture(scope="module", params=[1, 3], ids=["one", "three at once"])
def parallel(request):
    return request.param


@pytest.fixture
def runtime(folder, parallel):
    return loaded(folder, parallel=parallel)


@pytest.fixture(scope="module")
def forgetful(folder, parallel):
    """The peer: it keeps nothing."""
    return loaded(folder, parallel=parallel, keep_prefix=False)


def answer(runtime, text=LONG, cancel_after=None, **options):
    pieces, calls = [], 0

    def cancelled():
        nonlocal calls
        calls += 1
        return cancel_after is not None and calls > cancel_after

    options = {"max_tokens": 20, "temperature": 0.0} | options
    request = Generate(1, [ChatMessage("user", text)], **options)
    done = runtime.generate(request, lambda text, *_: pieces.append(text), cancelled)
    return "".join(pieces), done


def test_a_prompt_that_begins_alike_costs_its_new_tokens(runtime, forgetful):
    _, first = answer(runtime)
    assert first.cached_tokens == 0
    for text in (LONG, LONG + "and again", LONG[:60] + "otherwise", LONG):
        expected, plain = answer(forgetful, text)
        written, done = answer(runtime, text)
        assert (written, done.reason, done.completion_tokens) == (expected, plain.reason, plain.completion_tokens)
        assert (plain.cached_tokens, done.prompt_tokens) == (0, plain.prompt_tokens)
        assert LEAST <= done.cached_tokens <= done.prompt_tokens - NEW
    _, other = answer(runtime, "something else altogether, and long enough at that")
    assert other.cached_tokens < LEAST


def test_a_whole_conversation(runtime, forgetful):
    turns = [ChatMessage("system", "be brief"), ChatMessage("user", "hello there, how do you do?")]
    cached = []
    for _ in range(3):
        said = []
        for who in (runtime, forgetful):
            pieces = []
            done = who.generate(
                Generate(1, turns, max_tokens=12), lambda text, *_, to=pieces: to.append(text), lambda: False
            )
            said.append("".join(pieces))
            cached.append(done.cached_tokens)
        assert said[0] == said[1]
        turns += [ChatMessage("assistant", said[0]), ChatMessage("user", "and then?")]
    assert cached[1::2] == [0, 0, 0]
    assert 0 == cached[0] < cached[2] < cached[4]


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1.0, "seed": 4},
        {"temperature": 1.0, "seed": 4, "top_k": 5, "top_p": 0.9},
        {"repeat_penalty": 3.0},
        {"schema": json.dumps({"type": "array", "items": {"type": "integer"}, "minItems": 3, "maxItems": 5})},
        {"bias": {20: 5.0}, "frequency_penalty": 1.0},
        {"stop": ["e"]},
    ],
    ids=str,
)
def test_whatever_the_answer_is_held_to(runtime, forgetful, options):
    """The kept one was made for other options: only what it has read counts."""
    expected, plain = answer(forgetful, LONG + "now", **options)
    answer(runtime)
    for _ in range(2):
        written, done = answer(runtime, LONG + "now", **options)
        assert (written, done.reason) == (expected, plain.reason)
        assert done.cached_tokens >= LEAST
    written, done = answer(runtime, LONG + "or")
    assert written == answer(forgetful, LONG + "or")[0]
    assert done.cached_tokens >= LEAST


def test_what_a_cancelled_one_has_read_is_kept(runtime, forgetful, monkeypatch):
    for bound in ("FIRST", "LEAST", "MOST"):
        monkeypatch.setattr(Pace, bound, 6)
    stop = set()
    for steps in (3, 9):
        request = Generate(1, [ChatMessage("user", LONG)], max_tokens=20, temperature=0)
        writer = runtime.begin(request, lambda *_: None, lambda steps=steps: steps in stop)
        for _ in range(steps):
            runtime.advance([writer])
        stop.add(steps)
        runtime.advance([writer])
        assert writer.done.reason == "cancelled"
        written, done = answer(runtime)
        assert written == answer(forgetful)[0]
        assert done.cached_tokens == (18 if steps == 3 else done.prompt_tokens - NEW)


def test_an_answer_that_outgrows_its_room(runtime, forgetful, monkeypatch):
    monkeypatch.setattr(genai_writer, "ROOM", 8)
    expected, plain = answer(forgetful, max_tokens=60)
    for options in ({}, {"temperature": 0.0}, {"schema": json.dumps({"type": "string", "minLength": 30})}):
        expected, plain = answer(forgetful, max_tokens=60, **options)
        written, done = answer(runtime, max_tokens=60, **options)
        assert (written, done.completion_tokens) == (expected, plain.completion_tokens)
    assert done.cached_tokens >= LEAST


def test_what_is_kept_is_given_up(runtime):
    answer(runtime)
    runtime.hibernate()
    runtime.wake()
    assert answer(runtime)[1].cached_tokens == 0
    assert answer(runtime)[1].cached_tokens > 0


def test_nothing_is_kept_where_that_is_not_wanted(forgetful):
    answer(forgetful)
    assert answer(forgetful)[1].cached_tokens == 0


@pytest.mark.parametrize("together", [True, False], ids=["in one pass", "in turns"])
def test_answers_side_by_side(folder, together, monkeypatch):
    if not together:
        monkeypatch.setattr(genai_rows, "_ATTENTION", b"another form of graph")
    runtime = loaded(folder, parallel=3)
    assert (runtime._rows is not None) == together
    texts = [LONG, "hello", LONG + "again", "the lazy dog " * 5]
    for _ in range(2):
        pieces = [[] for _ in texts]
        writers = [
            runtime.begin(
                Generate(n, [ChatMessage("user", text)], max_tokens=10 + 5 * n),
                lambda text, *_, to=pieces[n]: to.append(text),
                lambda: False,
            )
            for n, text in enumerate(texts)
        ]
        order = []
        while live := [writer for writer in writers if writer.done is None]:
            runtime.advance(live)
            order += [writers.index(writer) for writer in live if writer.done is not None]
        assert sorted(order) == [0, 1, 2, 3]
        if not together:
            assert order == [0, 1, 2, 3], "the shortest ends first"
        alone = loaded(folder, parallel=3, keep_prefix=False)
        for n, text in enumerate(texts):
            assert "".join(pieces[n]) == answer(alone, text, max_tokens=10 + 5 * n)[0]
    assert any(writer.done.cached_tokens for writer in writers)


def test_at_most_as_many_as_there_may_be_answers():
    keeper = Keeper(2, keep=True)
    prompts = [[n] * (LEAST + NEW) for n in range(4)]
    for prompt in prompts[:3]:
        assert keeper.take(prompt, 100) == (None, 0)
    for prompt in prompts[:3]:
        keeper.give(Kept(object(), prompt, 100, {}))
    assert len(keeper._kept) == 2, "three were at work: the first to end is one too many"
    assert keeper.take(prompts[3], 100) == (None, 0)
    assert len(keeper._kept) == 1
    assert keeper.take([9] * 99, 100) == (None, 0)
    assert not keeper._kept
    keeper.give(None)
    keeper.give(Kept(object(), prompts[3][:LEAST], 100, {}))
    assert not keeper._kept, "too short to be of use"
    assert keeper._out == 0


def test_one_that_is_too_small_makes_room_for_a_larger_one():
    keeper = Keeper(1, keep=True)
    prompt = list(range(100))
    keeper.take(prompt, 150)
    keeper.give(Kept("it", prompt, 160, {}))
    assert keeper.take([*prompt, 1, 2, 3], 161) == (None, 103)
    assert not keeper._kept


@given(st.lists(st.integers(0, 2), max_size=40), st.lists(st.integers(0, 2), max_size=40))
def test_what_is_shared_is_alike_and_leaves_two_to_compute(known, prompt):
    shared = Kept(None, known, 0, {}).shared(prompt)
    assert known[:shared] == prompt[:shared]
    assert 0 <= shared <= max(0, len(prompt) - NEW)
    longest = next(
        (n for n, (a, b) in enumerate(zip(known, prompt, strict=False)) if a != b), min(len(known), len(prompt))
    )
    assert shared == max(0, min(longest, len(prompt) - NEW))


@settings(max_examples=200)
@given(st.integers(2, 5000), st.lists(st.floats(1e-4, 10), min_size=1, max_size=9), st.booleans())
def test_pieces_are_never_one_token_and_learn_how_long_they_take(tokens, seconds, alone):
    pace, left, taken = Pace(), tokens, []
    while left:
        piece = pace.piece(left, alone=alone)
        assert 1 < piece <= max(Pace.MOST, Pace.FIRST)
        taken.append(piece)
        pace.took(piece, seconds[len(taken) % len(seconds)])
        left -= piece
    assert sum(taken) == tokens
    steady = Pace()
    for _ in range(20):
        steady.took(100, 0.1)
    assert steady.piece(5000, alone=True) == int(1000 * Pace.ALONE)
    assert steady.piece(5000, alone=False) == int(1000 * Pace.TOGETHER)
    assert steady.piece(1, alone=True) == 1


def test_the_context_is_never_exceeded(runtime):
    for _ in range(2):
        _, done = answer(runtime, max_tokens=0)
        assert done.prompt_tokens + done.completion_tokens <= CONTEXT


def test_answers_come_and_go_in_the_middle_of_others(folder):
    """Rows are taken over, moved and filled again; each answer is what it is alone."""
    runtime, alone = loaded(folder, parallel=3), loaded(folder, parallel=3, keep_prefix=False)
    random = Random(5)
    texts = [f"{LONG[: random.randrange(5, 80)]} {n % 4}" for n in range(14)]
    options = [{"max_tokens": random.randrange(2, 40), "temperature": n % 3 / 2, "seed": n} for n in range(14)]
    waiting, live, pieces = list(range(14)), {}, {n: [] for n in range(14)}
    stopped = set()
    while waiting or live:
        while waiting and len(live) < 3 and random.random() < 0.6:
            n = waiting.pop(0)
            live[n] = runtime.begin(
                Generate(n, [ChatMessage("user", texts[n])], **options[n]),
                lambda text, *_, to=pieces[n]: to.append(text),
                lambda n=n: n in stopped,
            )
        if random.random() < 0.02 and live:
            stopped.add(random.choice(list(live)))
        if live:
            runtime.advance([writer for n, writer in live.items() if n % 5 or random.random() < 0.7])
        for n, writer in list(live.items()):
            if writer.done is not None:
                del live[n]
                expected, done = answer(alone, texts[n], **options[n])
                if writer.done.reason == "cancelled":
                    assert expected.startswith("".join(pieces[n]))
                else:
                    assert ("".join(pieces[n]), writer.done.completion_tokens) == (expected, done.completion_tokens)
    assert stopped


def test_a_row_grows_with_its_text(folder, monkeypatch):
    expected, done = answer(loaded(folder, parallel=2), max_tokens=0)
    monkeypatch.setattr(genai_rows, "_SMALLEST", 8)
    runtime = loaded(folder, parallel=2)
    assert answer(runtime, max_tokens=0)[0] == expected
    assert runtime._rows._length == CONTEXT
    assert done.prompt_tokens + done.completion_tokens <= CONTEXT


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["search"].pop("past_present_share_buffer"),
        lambda c: c["search"].update(past_present_share_buffer=False),
        lambda c: c["model"]["decoder"].update(sliding_window={"window_size": 4}),
        lambda c: c["model"]["decoder"]["inputs"].pop("past_key_names"),
        lambda c: c["model"].pop("decoder"),
        lambda c: c.clear(),
    ],
)
def test_graphs_of_another_form_are_driven_by_genai(folder, change):
    config = json.loads((folder / "genai_config.json").read_text())
    assert genai_rows.form_of(config) is not None
    change(config)
    assert genai_rows.form_of(config) is None


def test_a_pass_that_fails_ends_its_answers_and_no_other(folder, monkeypatch):
    runtime = loaded(folder, parallel=2)
    writers = [
        runtime.begin(Generate(n, [ChatMessage("user", LONG)], max_tokens=5), lambda *_: None, lambda: False)
        for n in range(2)
    ]
    monkeypatch.setattr(runtime._rows, "_form", runtime._rows._form._replace(mask="nonsense"))
    while any(writer.done is None for writer in writers):
        runtime.advance([writer for writer in writers if writer.done is None])
    assert [writer.done.problem for writer in writers] == ["answer-failed"] * 2
    monkeypatch.undo()
    assert answer(runtime)[1].reason in {"stop", "length"}
