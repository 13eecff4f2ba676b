"""The encoder's runtime: tokens, batches, shorter vectors, refusals, cancelling, and hibernation in a real worker."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from neuroshell_orch import encoders
from neuroshell_orch.errors import OrchError
from neuroshell_orch.runtimes.encoder import BATCH_ROWS, BATCH_TOKENS, EncoderRuntime, batches, pool, shortened
from neuroshell_orch.runtimes.encoder_text import Texts
from neuroshell_orch.workers.launch import ChildLauncher, WorkerSpec
from neuroshell_orch.workers.prepared import prepare
from neuroshell_orch.workers.process import Worker
from neuroshell_orch.workers.protocol import ChatMessage, Embed, Generate, Infer, Load
from tests import support_encoder as tiny

ROOM = tiny.MAX_TOKENS - 2
CLS, SEP = tiny.VOCABULARY.index("[CLS]"), tiny.VOCABULARY.index("[SEP]")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("encoder")
    return tiny.converted(tiny.tiny_encoder(root / "source"), root / "tiny")


@pytest.fixture(scope="module")
def runtime(folder):
    return load(folder)


def load(folder, **options):
    runtime = EncoderRuntime()
    runtime.load(Load("m", "encoder", str(folder), **options))
    return runtime


def embed(runtime, *inputs, cancelled=lambda: False, **fields):
    return runtime.embed(Embed(1, list(inputs), **fields), cancelled)


def vectors(runtime, *inputs, **fields):
    found = embed(runtime, *inputs, **fields)
    return np.frombuffer(found.vectors, "<f4").reshape(len(inputs), found.dimensions)


def described(folder, target, **changes):
    """The same model with another description."""
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    encoders.write(target, msgspec.structs.replace(encoders.read(folder), **changes))
    return target


# ---- what is read ----


def test_usage_and_truncation(runtime):
    found = embed(runtime, "the cat", "new " * ROOM, "new " * (ROOM + 1))
    assert (found.tokens, found.truncated, found.dimensions) == (4 + 24 + 24, 1, tiny.HIDDEN)
    longer, as_long = vectors(runtime, "new " * (ROOM + 1), "new " * ROOM)
    assert np.allclose(longer, as_long, atol=1e-6), "the beginning is kept"
    with pytest.raises(OrchError, match=r"input\[1\] is longer than the model reads") as caught:
        embed(runtime, "the cat", "new " * (ROOM + 1), truncate=False)
    assert caught.value.problem == "prompt-too-long"


def test_tokens_are_read_like_the_text_that_they_are(runtime, folder):
    text = "the cats sits outside."
    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    by_text, by_tokens = vectors(runtime, text, ids)
    assert np.allclose(by_text, by_tokens, atol=1e-6)
    assert embed(runtime, ids).tokens == len(ids) + 2
    assert embed(runtime, ids * 9).truncated == 1
    for token in (-1, len(tiny.VOCABULARY), 1 << 40):
        with pytest.raises(OrchError, match=r"input\[1\] has a token that this model does not know"):
            embed(runtime, "x", [7, token])


@given(st.lists(st.sampled_from(["the ", "cat", "\n", "  ", "é", "x" * 40, "", ".", "movies "]), max_size=400))
def test_a_text_is_cut_where_the_whole_of_it_would_be(parts):
    text = "".join(parts)
    texts, whole = texts_of(), tiny.tiny_tokenizer()
    whole.no_padding()
    whole.enable_truncation(tiny.MAX_TOKENS)
    tokens = texts.tokens(text, 0)
    assert tokens.ids == whole.encode(text).ids
    whole.no_truncation()
    assert tokens.truncated == (len(whole.encode(text).ids) > tiny.MAX_TOKENS)


_texts: list[Texts] = []


def texts_of():
    if not _texts:
        import tempfile  # noqa: PLC0415 - hypothesis and fixtures do not go together
        from pathlib import Path  # noqa: PLC0415

        with tempfile.TemporaryDirectory() as scratch:
            tiny.tiny_tokenizer().save(f"{scratch}/tokenizer.json")
            encoder = encoders.Encoder(tiny.MAX_TOKENS, tiny.HIDDEN, "mean", True)
            _texts.append(Texts(Path(scratch), encoder, tiny.MAX_TOKENS))
    return _texts[0]


def test_of_a_book_no_more_is_tokenized_than_can_matter(monkeypatch):
    texts, sizes = texts_of(), []
    plain = texts._plain
    monkeypatch.setattr(texts, "_plain", lambda text: (sizes.append(len(text)), plain(text))[1])
    assert texts.tokens("the cat sits outside. " * 100_000, 0).truncated
    assert sum(sizes) < 10_000
    sizes.clear()
    assert not texts.tokens(" " * 1_000_000 + "cat", 0).truncated, "and what white space hides is found"
    assert texts.tokens(" " * 1_000_000 + "cat", 0).ids == texts.tokens("cat", 0).ids


def test_prompt_and_case(folder, tmp_path):
    with_prompt = load(described(folder, tmp_path / "prompt", prompt="the new "))
    assert np.allclose(vectors(with_prompt, "movie"), vectors(load(folder), "the new movie"), atol=1e-6)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["normalizer"] = None
    for name, lowercase, same in (("lower", True, True), ("as-is", False, False)):
        target = described(folder, tmp_path / name, lowercase=lowercase)
        (target / "tokenizer.json").write_text(json.dumps(tokenizer))
        upper, lower = vectors(load(target), "THE CAT", "the cat")
        assert np.allclose(upper, lower, atol=1e-6) == same


def test_a_shorter_context_by_configuration(folder):
    runtime = EncoderRuntime()
    assert runtime.load(Load("m", "encoder", str(folder), context_length=8)).context_length == 8
    assert embed(runtime, "new " * 20).tokens == 8
    assert EncoderRuntime().load(Load("m", "encoder", str(folder), context_length=999)).context_length == 24
    with pytest.raises(OrchError, match="2 tokens leave no room"):
        EncoderRuntime().load(Load("m", "encoder", str(folder), context_length=2))


# ---- what is computed ----


def test_a_vector_does_not_depend_on_its_company(runtime):
    texts = [f"{'the ' * (number % 7)}cat {'x' * (number % 5)}" for number in range(150)]
    together = vectors(runtime, *texts)
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    for number in (0, 77, 149):
        assert np.abs(vectors(runtime, texts[number]) - together[number]).max() < 1e-6


@given(st.lists(st.integers(1, 512), max_size=300))
def test_batches(lengths):
    found = list(batches(lengths))
    assert sorted(row for rows in found for row in rows) == list(range(len(lengths)))
    for rows in found:
        assert len(rows) == 1 or len(rows) * max(lengths[row] for row in rows) <= BATCH_TOKENS
        assert len(rows) <= BATCH_ROWS


def test_pooling_by_hand():
    hidden = np.array([[[1, 2], [3, 4], [9, 9]]], np.float32)
    mask = np.array([[1, 1, 0]])
    assert pool(hidden, mask, "mean").tolist() == [[2, 3]]
    assert pool(hidden, mask, "cls").tolist() == [[1, 2]]
    assert shortened(np.array([[3, 4, 12]], np.float32), 2, normalise=True).tolist() == [pytest.approx([0.6, 0.8])]
    assert shortened(np.array([[3, 4, 12]], np.float32), 2, normalise=False).tolist() == [[3, 4]]
    assert shortened(np.zeros((1, 3), np.float32), 3, normalise=True).tolist() == [[0, 0, 0]]


def test_shorter_vectors_only_where_they_mean_something(runtime, folder, tmp_path):
    assert embed(runtime, "cat", dimensions=tiny.HIDDEN).dimensions == tiny.HIDDEN
    for size in (1, 8, 33):
        with pytest.raises(OrchError, match=f"no vectors of {size} dimensions") as caught:
            embed(runtime, "cat", dimensions=size)
        assert caught.value.problem == "unsupported"
        assert "It has 32; fewer would mean nothing." in caught.value.hint
    nested = load(described(folder, tmp_path / "nested", shorter=[8]))
    whole, (short,) = vectors(runtime, "cat")[0], vectors(nested, "cat", dimensions=8)
    assert np.allclose(short, whole[:8] / np.linalg.norm(whole[:8]), atol=1e-6)
    with pytest.raises(OrchError, match="no vectors of 7 dimensions") as caught:
        embed(nested, "cat", dimensions=7)
    assert caught.value.hint == "It has 32, or 8."


def test_cancelling(runtime):
    with pytest.raises(OrchError) as caught:
        embed(runtime, "the cat", cancelled=lambda: True)
    assert caught.value.problem == "cancelled"
    looks = []
    with pytest.raises(OrchError) as caught:
        embed(runtime, *["the cat"] * 500, cancelled=lambda: looks.append(1) or len(looks) > 502)
    assert caught.value.problem == "cancelled"


# ---- what is refused ----


def test_only_texts(runtime):
    with pytest.raises(OrchError, match="cannot chat"):
        runtime.generate(Generate(1, [ChatMessage("user", "x")]), lambda _text, _tokens: None, lambda: False)
    with pytest.raises(OrchError, match="takes texts"):
        runtime.infer(Infer(1, []), lambda: False)


def test_folders_that_are_no_encoder(folder, tmp_path):
    for path, text in [(tmp_path / "none", "There is no"), (tmp_path, "is no encoder")]:
        with pytest.raises(OrchError, match=text):
            load(path)
    with pytest.raises(OrchError, match="has no ONNX model"):
        load(tiny.tiny_encoder(tmp_path / "weights-only"))
    with pytest.raises(OrchError, match="not of the size 31"):
        vectors(load(described(folder, tmp_path / "size", dimensions=31)), "x")
    broken = described(folder, tmp_path / "broken")
    (broken / "tokenizer.json").write_text("{}")
    with pytest.raises(OrchError, match="not a tokenizer that can be read"):
        load(broken)
    (broken / "tokenizer.json").unlink()
    (broken / "tokenizer.json").symlink_to(folder / "tokenizer.json")
    with pytest.raises(OrchError, match="cannot be opened as a plain file"):
        load(broken)


def test_a_graph_that_is_no_encoders(folder, tmp_path):
    other = described(folder, tmp_path / "other")
    model = onnx.load(other / "model.onnx", load_external_data=False)
    model.graph.output[0].name = "logits"
    model.graph.node[-1].output[0] = "logits"
    onnx.save(model, other / "model.onnx")
    with pytest.raises(OrchError, match="is not the graph of an encoder") as caught:
        load(other)
    assert "last_hidden_state" in caught.value.hint


# ---- in a worker ----


async def started(path, runtime="encoder"):
    worker = await Worker.start(ChildLauncher(), WorkerSpec("tiny", 1))
    return worker, await worker.load(Load("tiny", runtime, str(path)))


@pytest.mark.anyio
async def test_a_worker_stands_by_loads_and_embeds(folder):
    worker = await Worker.start(ChildLauncher(), WorkerSpec("tiny", 1))
    try:
        parked = await worker.standby("encoder")
        assert "tokenizers" in parked.runtime_version
        loaded = await worker.load(Load("tiny", "encoder", str(folder)))
        assert loaded.context_length == tiny.MAX_TOKENS
        answer = await worker.embed(Embed(worker.next_job(), ["the cat", [5, 6]]))
        assert (answer.tokens, len(answer.vectors)) == (8, 2 * 4 * tiny.HIDDEN)
        with pytest.raises(OrchError, match="takes texts"):
            await worker.infer(Infer(worker.next_job(), []))
        with pytest.raises(OrchError, match=r"input\[0\] has a token"):
            await worker.embed(Embed(worker.next_job(), [[1 << 30]]))
        again = await worker.embed(Embed(worker.next_job(), ["the cat", [5, 6]]))
        assert again.vectors == answer.vectors
    finally:
        await worker.stop()


@pytest.mark.anyio
async def test_other_runtimes_refuse_to_embed(folder):
    worker, _ = await started(folder / "model.onnx", "onnx")
    try:
        with pytest.raises(OrchError, match="makes no vectors of texts"):
            await worker.embed(Embed(worker.next_job(), ["x"]))
    finally:
        await worker.stop()


@pytest.mark.model
@pytest.mark.anyio
async def test_the_prepared_copy_hibernates_and_says_the_same(tmp_path):
    path = await prepare(tmp_path, tiny.minilm_folder())
    assert path.is_dir()
    worker, loaded = await started(path)
    try:
        assert loaded.can_hibernate
        texts: list[str | list[int]] = ["The weather is lovely today.", "He drove to the stadium."]
        before = await worker.embed(Embed(worker.next_job(), texts))
        hot = worker.memory()
        assert (await worker.hibernate()).given_back >= 40 << 20
        assert hot.rss - worker.memory().rss >= 40 << 20
        await worker.wake()
        after = await worker.embed(Embed(worker.next_job(), texts))
        assert after.vectors == before.vectors
    finally:
        await worker.stop()
