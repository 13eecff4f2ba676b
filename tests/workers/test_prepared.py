"""Prepared copies: one that is cut off, stale or from elsewhere is never loaded, and made anew; unused ones go."""

from __future__ import annotations

import asyncio
import json
import os
import shutil

import pytest

from neuroshell_orch.core.figures import Figures
from neuroshell_orch.errors import OrchError
from neuroshell_orch.workers import copies, prepared, preparing
from neuroshell_orch.workers.protocol import Load
from tests.workers.support_prepared import cut_off, data_file, make_copy, order, private

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_copy(tmp_path_factory.mktemp("made"))


@pytest.fixture
def world(made, tmp_path):
    return private(made, tmp_path)


def test_a_copy_says_what_it_is(made):
    source, cache, path, manifest = made
    assert copies.find(cache, source) == (path, manifest)
    assert set(manifest.files) == {"m.onnx", "m.onnx.data"}
    assert manifest.size == sum(file.stat().st_size for file in path.parent.iterdir() if file.name != copies.MANIFEST)
    assert "onnxruntime" in manifest.machine
    if manifest.tuning is not None:  # on a busy machine nothing is measured
        assert manifest.tuning.threads in manifest.tuning.rates
        assert manifest.tuning.cores == len(os.sched_getaffinity(0))


async def test_the_threads_can_be_found_out_later(world, monkeypatch):
    source, cache, _ = world
    told = copies.Tuning(1, len(os.sched_getaffinity(0)), {1: 2.0})

    async def run(path, _folder, **flags):
        assert flags == {"tune": True, "only": True}
        assert path.parent.parent == cache / "prepared"
        return told

    monkeypatch.setattr(prepared, "_run", run)
    path, manifest = copies.find(cache, source)
    copies.seal(path.parent, source, manifest.key, 1.0, None)
    assert (await prepared.tuned(cache, source))[1].tuning == told
    assert copies.find(cache, source)[1].tuning == told


def test_noting_something_does_not_hide_that_a_file_was_changed(world):
    source, cache, folder = world
    _, manifest = copies.find(cache, source)
    with data_file(folder).open("ab") as file:
        file.write(b"x")
    prepared.noted(cache, source, manifest, "a", Figures(hot=1))
    assert copies.find(cache, source) is None


def grown(folder):
    with data_file(folder).open("ab") as file:
        file.write(b"x")


def same_size_other_bytes(folder):
    path = data_file(folder)
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)


def file_missing(folder):
    data_file(folder).unlink()


def replaced_by_a_link(folder):
    path = data_file(folder)
    path.rename(folder.parent / "elsewhere")
    path.symlink_to(folder.parent / "elsewhere")


def of_another_processor(folder):
    path = folder / copies.MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | {"key": "0" * 64}))


def made_by_another_version_of_us(folder):
    path = folder / copies.MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": copies.FORMAT + 1}))


def manifest_cut_off(folder):
    os.truncate(folder / copies.MANIFEST, 50)


def manifest_missing(folder):
    (folder / copies.MANIFEST).unlink()


HARM = [
    cut_off,
    grown,
    same_size_other_bytes,
    file_missing,
    replaced_by_a_link,
    of_another_processor,
    made_by_another_version_of_us,
    manifest_cut_off,
    manifest_missing,
]


@pytest.mark.parametrize("harm", HARM, ids=lambda harm: harm.__name__)
def test_what_is_not_as_it_was_made_is_not_loaded(world, harm):
    source, cache, folder = world
    assert copies.find(cache, source) is not None
    harm(folder)
    assert copies.find(cache, source) is None
    assert copies.examine(folder)[1] or harm is of_another_processor


def test_a_changed_model_another_runtime_and_another_processor_are_other_copies(made, tmp_path, monkeypatch):
    source, cache, path, _ = made
    other = tmp_path / "m.onnx"
    shutil.copyfile(source, other)
    seen = {path, copies.prepared_path(cache, other)}
    other.write_bytes(source.read_bytes() + b"\0")
    seen.add(copies.prepared_path(cache, other))
    monkeypatch.setattr(copies, "machine_key", lambda: "another")
    assert copies.find(cache, source) is None
    seen.add(copies.prepared_path(cache, source))
    assert len(seen) == 4


def test_the_machine_is_its_processor_and_its_runtimes(tmp_path):
    info = tmp_path / "cpuinfo"
    info.write_text("processor : 0\nmodel name : X\nMHz : 1\nflags : a b\n\nprocessor : 1\nflags : c\n")
    key = copies.machine_key(info).splitlines()
    assert key[-2:] == ["model name : X", "flags : a b"]
    assert any(line.startswith("onnxruntime") for line in key[:-2])
    assert any("genai" in line for line in key[:-2])


@pytest.mark.parametrize("harm", [cut_off, of_another_processor, manifest_missing], ids=lambda harm: harm.__name__)
async def test_a_bad_copy_is_made_anew_in_its_place(world, harm):
    source, cache, folder = world
    harm(folder)
    path, manifest = await prepared.make(cache, source)
    assert path.parent == folder
    assert copies.find(cache, source) == (path, manifest)
    assert not [entry for entry in folder.parent.iterdir() if entry.name.startswith(".m")], "nothing half done is left"


async def test_a_good_copy_is_not_made_again(world, monkeypatch):
    source, cache, folder = world

    async def never(*_, **__):
        raise AssertionError("made again")

    monkeypatch.setattr(prepared, "_run", never)
    assert (await prepared.make(cache, source))[0].parent == folder


async def test_no_room_is_told_before_the_disk_is_full(world, monkeypatch, tmp_path):
    source = world[0]
    monkeypatch.setattr(prepared.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 0))
    with pytest.raises(OrchError, match="has 0 MiB free") as told:
        await prepared.make(tmp_path / "other", source)
    assert "Prepare=no" in told.value.hint


# ---- gc ----


def test_what_no_model_uses_is_found_and_said_why(world, tmp_path):
    source, cache, folder = world
    assert copies.unused(cache, [source]) == []
    cut = cache / "prepared" / ".m-123.abc"
    (cut / "new").mkdir(parents=True)
    (cut / "new" / "m.onnx").write_bytes(b"x" * 5000)
    ours = {item.folder: item for item in copies.unused(cache, [source])}
    assert list(ours) == [cut]
    assert ours[cut].size >= 5000
    with copies.making(cache):
        assert copies.unused(cache, [source]) == [], "somebody may be making it"
    reasons = {item.folder.name: item.reason for item in copies.unused(cache, [])}
    assert str(source) in reasons[folder.name]
    for item in copies.unused(cache, [tmp_path / "gone"]):
        copies.remove(item.folder)
    assert [path.name for path in (cache / "prepared").iterdir()] == [copies.LOCK]


def test_a_damaged_copy_of_a_registered_model_is_of_no_use(world):
    source, cache, folder = world
    cut_off(folder)
    (found,) = copies.unused(cache, [source])
    assert found.folder == folder
    assert "4096 bytes instead of" in found.reason


def test_where_nothing_was_ever_prepared_there_is_nothing(tmp_path):
    assert copies.unused(tmp_path, []) == []
    assert not copies.has_other(tmp_path, tmp_path / "m.onnx")


# ---- when ----


class Making:
    """In the place of the process: makes when it is told to, and counts."""

    def __init__(self, monkeypatch, then=None):
        self.calls = []
        self.go = asyncio.Event()
        self.then = then
        monkeypatch.setattr(prepared, "make", self)

    async def __call__(self, _cache, source, *, background=False):
        self.calls.append((source.name, background))
        await self.go.wait()
        if self.then is None:
            raise OrchError("load-failed", "it cannot be prepared")
        self.then()


async def test_a_valid_copy_is_loaded_with_its_threads_unless_they_are_set_or_the_copy_is_unwanted(made, monkeypatch):
    source, cache, path, _ = made
    monkeypatch.setattr(preparing, "threads_of", lambda _: 3)
    preparer = preparing.Preparer(cache)
    assert await preparer.load_of(order(source)) == order(path, threads=3).load
    assert (await preparer.load_of(order(source, "use"))).path == str(path), "made once, used in any mode"
    assert (await preparer.load_of(order(source, threads=7))).threads == 7
    assert await preparer.load_of(order(source, "never")) == order(source).load


@pytest.mark.parametrize("harm", [cut_off, of_another_processor], ids=lambda harm: harm.__name__)
async def test_a_bad_copy_is_replaced_in_the_background_while_the_model_serves(world, made, monkeypatch, harm):
    source, cache, folder = world
    harm(folder)
    mend = lambda: (shutil.rmtree(folder), shutil.copytree(made[2].parent, folder))  # noqa: E731
    making = Making(monkeypatch, mend)
    preparer = preparing.Preparer(cache, patience=60)
    assert (await preparer.load_of(order(source))).path == str(source), "at once"
    assert (await preparer.load_of(order(source))).path == str(source), "and nobody waits for what is being made"
    making.go.set()
    await asyncio.gather(*preparer._running.values())
    assert (await preparer.load_of(order(source))).path == str(folder / source.name)
    assert making.calls == [(source.name, True)]


async def test_the_first_copy_is_waited_for_a_little(made, tmp_path, monkeypatch):
    source, cache, path, _ = made
    fresh = tmp_path / "cache"
    making = Making(monkeypatch, lambda: shutil.copytree(cache, fresh, dirs_exist_ok=True))
    impatient, patient = preparing.Preparer(fresh, patience=0.01), preparing.Preparer(fresh, patience=60)
    assert (await impatient.load_of(order(source))).path == str(source)
    loading = asyncio.create_task(patient.load_of(order(source)))
    while len(making.calls) < 2:  # noqa: ASYNC110 - what is waited for is a call of the code under test
        await asyncio.sleep(0.01)
    making.go.set()
    assert (await loading).path == str(fresh / "prepared" / path.parent.name / source.name)
    await impatient.close()
    assert {background for _, background in making.calls} == {False}


async def test_a_big_model_is_not_held_up(made, tmp_path, monkeypatch):
    source = made[0]
    monkeypatch.setattr(preparing, "SMALL", source.stat().st_size - 1)
    making = Making(monkeypatch)
    preparer = preparing.Preparer(tmp_path / "cache", patience=60)
    assert (await preparer.load_of(order(source))).path == str(source)
    assert await preparer.load_of(order(source)) == order(source).load
    await asyncio.sleep(0)
    assert making.calls == [(source.name, True)]
    await preparer.close()


async def test_what_cannot_be_prepared_is_tried_once(made, tmp_path, monkeypatch):
    source = made[0]
    making = Making(monkeypatch)
    making.go.set()
    preparer = preparing.Preparer(tmp_path / "cache", patience=60)
    for _ in range(3):
        assert (await preparer.load_of(order(source))).path == str(source)
    assert len(making.calls) == 1


async def test_a_mode_that_does_not_hibernate_makes_nothing(made, tmp_path, monkeypatch):
    making = Making(monkeypatch)
    preparer = preparing.Preparer(tmp_path / "cache")
    assert (await preparer.load_of(order(made[0], "use"))).path == str(made[0])
    gone = order(tmp_path / "gone.onnx")
    assert await preparer.load_of(gone) == gone.load
    assert making.calls == []


async def test_a_parked_worker_is_made_ready_for_what_a_load_would_take_now(world, tmp_path, monkeypatch):
    source, cache, folder = world
    making = Making(monkeypatch)
    preparer = preparing.Preparer(cache)
    for prepare in ("make", "use"):
        assert await preparer.path_now(order(source, prepare)) == str(folder / source.name)
    assert await preparer.path_now(order(source, "never")) == str(source)
    cut_off(folder)
    assert await preparer.path_now(order(source)) == str(source)
    assert await preparer.path_now(order(tmp_path / "gone.onnx")) == str(tmp_path / "gone.onnx")
    assert making.calls == []


@pytest.mark.parametrize(
    ("runtime", "size", "gain"),
    [
        ("genai", preparing.LEAST, True),
        ("genai", preparing.LEAST - 1, False),
        ("genai", preparing.SMALL, True),
        ("genai", preparing.SMALL + 1, False),
        ("onnx", preparing.LEAST, False),
    ],
)
def test_small_language_models_gain_by_a_copy_in_every_mode(tmp_path, monkeypatch, runtime, size, gain):
    (tmp_path / "model.onnx.data").touch()
    os.truncate(tmp_path / "model.onnx.data", size)
    load = Load("m", runtime, str(tmp_path))
    monkeypatch.setattr(preparing, "_GPU", tmp_path / "none")
    assert preparing.gains(load) == gain
    monkeypatch.setattr(preparing, "_GPU", tmp_path)
    assert not preparing.gains(load), "where there is an accelerator, it may run there"
    assert not preparing.gains(Load("m", runtime, str(tmp_path / "gone"), options={"device": "cpu"}))


@pytest.mark.parametrize("gain", [True, False])
async def test_what_gains_has_its_useless_copy_made_anew_in_every_mode(world, monkeypatch, gain):
    source, cache, folder = world
    cut_off(folder)
    making = Making(monkeypatch)
    making.go.set()
    monkeypatch.setattr(preparing, "gains", lambda _: gain)
    preparer = preparing.Preparer(cache, patience=60)
    assert (await preparer.load_of(order(source, "use"))).path == str(source), "at once"
    await asyncio.gather(*preparer._running.values())
    assert making.calls == [(source.name, True)] * gain


def test_threads_count_only_with_the_cores_they_were_measured_with():
    cores = len(os.sched_getaffinity(0))
    assert preparing.threads_of(copies.Tuning(1, cores, {})) == 1
    assert preparing.threads_of(copies.Tuning(1, cores + 1, {})) == 0
    assert preparing.threads_of(None) == 0
