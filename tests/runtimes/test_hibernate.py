"""Hibernation in a real worker: prepared weights are mapped, given back, and come back the same."""

from __future__ import annotations

import json
import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from neuroshell_orch.errors import OrchError
from neuroshell_orch.runtimes import genai_rest
from neuroshell_orch.runtimes import prepare as prepare_runtime
from neuroshell_orch.runtimes.genai import GenaiRuntime
from neuroshell_orch.runtimes.mappings import Weights, mappings_of
from neuroshell_orch.workers.copies import LOCK, MANIFEST
from neuroshell_orch.workers.launch import ChildLauncher, WorkerSpec
from neuroshell_orch.workers.prepared import prepare, prepared_path
from neuroshell_orch.workers.process import Worker
from neuroshell_orch.workers.protocol import ChatMessage, Generate, Infer, Load, Tensor
from tests.bench.pressure import cached, take_pages
from tests.support_models import smollm2_folder
from tests.support_tiny import tiny_genai_folder

SIDE = 2048
MIB = 1 << 20


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """Three matrices of 16 MiB in a data file."""
    path = tmp_path_factory.mktemp("big") / "big.onnx"
    random = np.random.default_rng(0)
    names = ["a", "b", "c"]
    weights = [
        numpy_helper.from_array(random.standard_normal((SIDE, SIDE), np.float32) / np.float32(45), name)
        for name in names
    ]
    nodes = [
        helper.make_node("MatMul", [before, name], [after])
        for before, name, after in zip(["x", "1", "2"], names, ["1", "2", "y"], strict=True)
    ]
    graph = helper.make_graph(
        nodes,
        "big",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", SIDE])],
        initializer=weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save_model(model, str(path), save_as_external_data=True, location="big.onnx.data")
    return path


async def started(runtime, path):
    worker = await Worker.start(ChildLauncher(), WorkerSpec("big", 1))
    return worker, await worker.load(Load("big", runtime, str(path)))


async def run(worker):
    x = np.linspace(-1, 1, SIDE, dtype=np.float32)
    outputs = await worker.infer(Infer(worker.next_job(), [Tensor("x", "FP32", [1, SIDE], x.tobytes())]))
    return outputs.tensors[0].data


@pytest.mark.anyio
async def test_a_prepared_tensor_model_hibernates_and_computes_the_same(big, tmp_path):
    path = await prepare(tmp_path, big)
    assert path == prepared_path(tmp_path, big)
    worker, loaded = await started("onnx", path)
    try:
        assert loaded.can_hibernate
        before = await run(worker)
        hot = worker.memory()
        asleep = await worker.hibernate()
        cold = worker.memory()
        assert asleep.given_back >= 45 * MIB
        assert hot.rss - cold.rss >= 45 * MIB
        await worker.wake()
        assert worker.memory().rss >= hot.rss - MIB
        assert await run(worker) == before
        await worker.hibernate()
        assert await run(worker) == before, "the pages also come back by themselves"
    finally:
        await worker.stop()


@pytest.mark.anyio
async def test_ten_times_the_kernel_takes_the_pages_and_it_computes_the_same(big, tmp_path):
    path = await prepare(tmp_path, big)
    data, probe = path.with_name(path.name + ".data"), tmp_path / "probe"
    probe.write_bytes(bytes(MIB))
    take_pages(probe)
    in_memory = cached(probe) > 0.5  # a folder that is all memory: there is nowhere else for the pages to be
    worker, _ = await started("onnx", path)
    try:
        before = await run(worker)
        for _ in range(10):
            await worker.hibernate()
            take_pages(data)
            assert in_memory or cached(data) < 0.5, "nobody holds them any more"
            await worker.wake()
            assert await run(worker) == before
    finally:
        await worker.stop()


@pytest.mark.anyio
async def test_a_file_cut_off_while_it_is_mapped_ends_the_worker_with_a_sentence(big, tmp_path):
    path = await prepare(tmp_path, big)
    worker, _ = await started("onnx", path)
    try:
        await worker.hibernate()
        os.truncate(str(path) + ".data", 4096)
        with pytest.raises(OrchError, match="SIGBUS") as died:
            await run(worker)
        assert died.value.problem == "worker-died"
        assert "changed or cut off" in died.value.hint
    finally:
        await worker.stop()


@pytest.mark.anyio
async def test_an_unprepared_model_says_that_it_cannot(big):
    worker, loaded = await started("onnx", big)
    try:
        assert not loaded.can_hibernate
    finally:
        await worker.stop()


@pytest.mark.anyio
async def test_a_prepared_language_model_writes_the_same(tmp_path):
    folder = tiny_genai_folder(tmp_path / "tiny")
    copy = await prepare(tmp_path / "cache", folder)
    assert await prepare(tmp_path / "cache", folder) == copy
    assert sorted(p.name for p in copy.iterdir()) == sorted([MANIFEST, *(p.name for p in folder.iterdir())])
    texts = []
    for path in (folder, copy):
        worker, _ = await started("genai", path)
        try:
            for _ in range(2):
                request = Generate(worker.next_job(), [ChatMessage("user", "hello")], max_tokens=40)
                texts.append("".join([p.text async for p in worker.generate(request) if hasattr(p, "text")]))
                if path == copy:
                    await worker.hibernate()
        finally:
            await worker.stop()
    assert len(set(texts)) == 1


async def told(worker, prompt, limit=16):
    request = Generate(worker.next_job(), [ChatMessage("user", prompt)], max_tokens=limit, temperature=0)
    return "".join([piece.text async for piece in worker.generate(request) if hasattr(piece, "text")])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"model": {"merges": [["a", "b"], ["ab", "ö"]]}}, '{"model":{"merges":["a b","ab ö"]}}'),
        ({"model": {"merges": ["a b"]}}, '{"model":{"merges":["a b"]}}'),
        ({"model": {"merges": [["a b", "c"], ["d", "e"]]}}, '{"model":{"merges":[["a b","c"],["d","e"]]}}'),
        ({"model": {"vocab": []}}, None),
        ({"model": {"merges": [["\ud800", "b"]]}}, None),
        ([], None),
    ],
)
def test_a_copys_tokenizer_is_written_briefly_where_that_says_the_same(before, after):
    content = json.dumps(before, indent=2).encode()
    assert prepare_runtime._brief(content) == (content if after is None else after.encode())


@pytest.mark.model
@pytest.mark.anyio
@pytest.mark.parametrize("ready", [False, True], ids=["", "tokenizer-ready"])
async def test_a_language_model_at_rest_takes_little_and_says_the_same_in_every_way(tmp_path, ready):
    """Cold, warm, woken, prepared and not, with one thread and all: the same kernels, so no tolerance."""
    copy = await prepare(tmp_path, smollm2_folder())
    prompts = ["What is the capital of France?", "Count to ten. " * 20]
    worker = await Worker.start(ChildLauncher(), WorkerSpec("plain", 1))
    try:
        await worker.load(Load("plain", "genai", str(smollm2_folder())))
        plain = [await told(worker, prompt) for prompt in prompts]
    finally:
        await worker.stop()
    idle = await Worker.start(ChildLauncher(), WorkerSpec("idle", 1))
    try:
        await idle.standby("genai")
        parked = idle.memory()
    finally:
        await idle.stop()
    worker = await Worker.start(ChildLauncher(), WorkerSpec("prepared", 1))
    try:
        await worker.standby("genai", str(copy) if ready else "")
        assert (await worker.load(Load("prepared", "genai", str(copy), threads=1))).can_hibernate
        for _ in range(2):
            assert [await told(worker, prompt) for prompt in prompts] == plain
            await worker.hibernate()
            asleep = worker.memory()
            assert asleep.private_dirty - parked.private_dirty <= 8 * MIB
            await worker.wake()
        assert [await told(worker, prompt) for prompt in prompts] == plain
    finally:
        await worker.stop()


@pytest.mark.anyio
async def test_the_tokenizer_goes_and_comes_back_where_it_is_big(tmp_path, monkeypatch):
    runtime = GenaiRuntime()
    copy = await prepare(tmp_path / "cache", tiny_genai_folder(tmp_path / "tiny"))
    runtime.load(Load("tiny", "genai", str(copy)))

    def answer():
        pieces = []
        request = Generate(1, [ChatMessage("user", "hello")], max_tokens=20, temperature=0)
        runtime.generate(request, lambda text, *_: pieces.append(text), lambda: False)
        return "".join(pieces)

    first = answer()
    for kept in (-(1 << 40), 1 << 40):
        monkeypatch.setattr(genai_rest, "KEPT", kept)
        runtime.hibernate()
        assert (runtime._tokenizer is None) == (kept < 0)
        runtime.wake()
        assert answer() == first


@pytest.mark.anyio
async def test_what_cannot_be_prepared_leaves_nothing_behind(tmp_path):
    source = tmp_path / "m.onnx"
    source.write_bytes(b"garbage" * 30)
    with pytest.raises(OrchError, match="not an ONNX model"):
        await prepare(tmp_path / "cache", source)
    assert [path.name for path in (tmp_path / "cache" / "prepared").iterdir()] == [LOCK]


SMAPS = """\
7f0000000000-7f0000002000 r--p 00000000 08:01 42                         /models/a b/w.data
Size:                  8 kB
Rss:                   8 kB
Private_Dirty:         8 kB
Anonymous:             4 kB
VmFlags: rd mr mw me
7f0000002000-7f0000003000 rw-p 00000000 00:00 0
Rss:                   4 kB
7f0000004000-7f0000005000 r--p 00002000 08:01 42                         /models/a b/w.data
Rss:                   0 kB
Anonymous:             0 kB
7f0000006000-7f0000007000 r--p 00000000 08:01 43                         /models/a b/w.data.other
Rss:                   4 kB
"""


def test_mappings_are_found_by_name():
    found = mappings_of(SMAPS.splitlines(keepends=True), {"/models/a b/w.data"})
    assert [(m.size, m.rss, m.anonymous) for m in found] == [(8192, 8192, 4096), (4096, 0, 0)]


def test_without_data_files_there_is_nothing_to_give():
    weights = Weights([])
    assert not weights.can_hibernate()
    with pytest.raises(OrchError, match="cannot be given back"):
        weights.give_back()
