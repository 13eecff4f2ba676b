"""``nsorch model prepare``, ``gc``, ``bench``, and what ``add``, ``show`` and ``rm`` do with prepared copies."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.support_tiny import tiny_genai_folder


@pytest.fixture
def tiny(nsorch):
    """A registered model, whose copy is made only where it is asked for."""
    assert nsorch("model", "add", "tiny", str(tiny_genai_folder(nsorch.root / "tiny"))).code == 0
    with (nsorch.config / "models.d" / "tiny.conf").open("a") as file:
        file.write("Device=cpu\n")  # on an accelerator a copy is of no use, and is not measured
    nsorch.copies = nsorch.root / "cache" / "nsorch" / "prepared"
    return nsorch


def folders(world):
    return [path for path in world.copies.glob("*") if path.is_dir()]


def test_a_copy_is_made_shown_and_collected(tiny):
    assert folders(tiny) == []
    assert "no (its mode does not hibernate)" in tiny("model", "show", "tiny").out
    assert tiny("model", "show", "tiny", "--json").json["prepared"] is None
    result = tiny("model", "prepare", "tiny")
    assert (result.code, result.err) == (0, ""), result
    assert result.out.startswith("tiny is prepared: ")
    assert "Measured: it takes " in result.out
    (folder,) = folders(tiny)
    shown = tiny("model", "show", "tiny", "--json").json["prepared"]
    assert shown["path"] == str(folder)
    assert shown["size"] == sum(file.stat().st_size for file in folder.iterdir() if "nsorch-" not in file.name)
    assert shown["costs"]["hot"] > 0
    told = tiny("model", "show", "tiny").out
    assert str(folder) in told
    assert "when hot (measured when it was prepared)" in told
    assert tiny("model", "gc").out == "0 B freed.\n", "a registered model uses it"
    with (folder / "model.onnx.data").open("ab") as file:
        file.write(b"x")
    told = tiny("model", "show", "tiny").out
    assert "not used, its file model.onnx.data has" in told
    assert "when hot (estimated; measured at its first load)" in told
    looked = tiny("model", "gc", "--dry-run")
    assert "would be freed" in looked.out
    assert folders(tiny) == [folder]
    assert tiny("model", "gc", "--json").json["removed"][0]["path"] == str(folder)
    assert folders(tiny) == []


def test_whom_a_copy_is_made_for(tiny):
    result = tiny("model", "prepare")
    assert (result.code, folders(tiny)) == (0, [])
    assert "Prepare=auto" in result.out
    with (tiny.config / "models.d" / "tiny.conf").open("a") as file:
        file.write("Prepare=no\n")
    refused = tiny("model", "prepare", "tiny")
    assert refused.code != 0
    assert "Prepare=no holds for tiny" in refused.err
    assert "no (Prepare=no)" in tiny("model", "show", "tiny").out
    assert tiny("model", "prepare", "other").code != 0


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="the model may run on the accelerator, without a copy")
def test_a_small_language_model_comes_with_its_copy_in_every_mode(tiny):
    folder = tiny_genai_folder(tiny.root / "second")
    (folder / "more.bin").touch()
    os.truncate(folder / "more.bin", 16 << 20)
    result = tiny("model", "add", "second", str(folder))
    assert (result.code, result.err) == (0, ""), result
    shown = tiny("model", "show", "second", "--json").json["prepared"]
    assert shown["threads"] in {None, *range(1, len(os.sched_getaffinity(0)) + 1)}, "None on a busy machine"
    assert shown["costs"]["hot"] > 0
    assert tiny("model", "gc").out == "0 B freed.\n", "it is used"
    (copy,) = folders(tiny)
    shutil.rmtree(copy)
    assert "not yet; made by: nsorch model prepare" in tiny("model", "show", "second").out
    assert tiny("model", "prepare").out.startswith("second is prepared: ")
    assert folders(tiny) == [copy]


def test_with_prepare_yes_a_model_comes_with_its_copy_and_takes_it_along(tiny):
    drop_ins = tiny.config / "nsorch.conf.d"
    drop_ins.mkdir(exist_ok=True)
    (drop_ins / "60-prepare.conf").write_text("[Orchestrator]\nPrepare=yes\n")
    result = tiny("model", "add", "second", str(tiny_genai_folder(tiny.root / "second")))
    assert (result.code, result.err) == (0, ""), result
    assert len(folders(tiny)) == 1
    assert "freed" in tiny("model", "rm", "second").out
    assert folders(tiny) == []


def test_a_model_that_cannot_be_prepared_is_added_all_the_same(tiny):
    drop_ins = tiny.config / "nsorch.conf.d"
    drop_ins.mkdir(exist_ok=True)
    (drop_ins / "60-prepare.conf").write_text("[Orchestrator]\nPrepare=yes\n")
    tiny.copies.parent.mkdir(parents=True, exist_ok=True)
    tiny.copies.write_text("a file in the place of the folder")
    result = tiny("model", "add", "second", str(tiny_genai_folder(tiny.root / "second")))
    assert result.code == 0, result
    assert "no prepared copy could be made" in result.err


def test_a_bench_measures_every_rung(tiny):
    assert tiny("model", "prepare", "tiny").code == 0
    result = tiny("model", "bench", "tiny", "--rounds", "1", "--json")
    assert (result.code, result.err) == (0, ""), result
    figures = result.json
    assert {"COLD", "PARKED", "HOT"} <= set(figures["rungs"])
    assert figures["prepared"]
    assert figures["rate"] > 0
    assert figures["rungs"]["HOT"]["pss"] > 0
    assert figures["rungs"]["COLD"]["first"] >= figures["rungs"]["COLD"]["ready"] > 0
    assert tiny("model", "bench", "nobody").code != 0
