"""What a model is thought to take before anybody measured it: every file that holds weights, wherever it lies."""

from __future__ import annotations

import json

import pytest

from neuroshell_orch.core.budget import RAM
from neuroshell_orch.core.warmth import Warmth
from neuroshell_orch.costs import PREPACKING, RUNTIME_BYTES, Costs, estimate
from neuroshell_orch.errors import OrchError

MIB = 1 << 20


def sized(path, size):
    """A file of ``size`` bytes that takes no disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)
    return path


def weights(path):
    """The bytes of weights that the estimate stands on."""
    return round((estimate(str(path), 0)[RAM] - RUNTIME_BYTES) / PREPACKING)


def test_a_graph_and_its_data_and_none_of_its_neighbours(tmp_path):
    graph = sized(tmp_path / "m.onnx", MIB)
    sized(tmp_path / "m.onnx_data", 7 * MIB)
    sized(tmp_path / "m.onnx.data", 2 * MIB)
    sized(tmp_path / "m.onnx.bak", 100 * MIB)
    sized(tmp_path / "other.onnx", 100 * MIB)
    assert weights(graph) == pytest.approx(10 * MIB, abs=2)


def test_a_name_is_no_pattern(tmp_path):
    graph = sized(tmp_path / "m[1].onnx", MIB)
    sized(tmp_path / "m1.onnx.data", 100 * MIB)
    assert weights(graph) == pytest.approx(MIB, abs=2)


def test_a_folder_with_its_subfolders(tmp_path):
    sized(tmp_path / "model.onnx", MIB)
    sized(tmp_path / "deep" / "er" / "weights.onnx.data", 9 * MIB)
    sized(tmp_path / "tokenizer.json", 50 * MIB)
    assert weights(tmp_path) == pytest.approx(10 * MIB, abs=2)


def encoder(folder):
    modules = [{"type": "x.Transformer", "path": ""}, {"type": "x.Pooling", "path": "1_Pooling"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 384, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (folder / "config.json").write_text(json.dumps({"hidden_size": 384, "max_position_embeddings": 512}))


def test_an_encoder_takes_the_one_graph_that_is_loaded(tmp_path):
    encoder(tmp_path)
    sized(tmp_path / "onnx" / "model.onnx", 90 * MIB)
    sized(tmp_path / "onnx" / "model_qint8.onnx", 23 * MIB)
    assert weights(tmp_path) == pytest.approx(90 * MIB, abs=2)


def test_an_encoder_that_cannot_be_read_is_counted_whole(tmp_path):
    (tmp_path / "modules.json").write_text("{")
    sized(tmp_path / "onnx" / "model.onnx", 90 * MIB)
    assert weights(tmp_path) == pytest.approx(90 * MIB, abs=2)


def test_what_is_not_there_takes_what_a_runtime_takes(tmp_path):
    assert estimate(str(tmp_path / "nowhere"), 0) == {RAM: RUNTIME_BYTES}
    assert estimate(str(tmp_path / "nowhere.onnx"), 0) == {RAM: RUNTIME_BYTES}


def test_where_measurements_cannot_be_kept_that_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    costs = Costs(tmp_path / "file" / "state")
    costs.saw_memory("a", Warmth.HOT, 5 * MIB)
    with pytest.raises(OrchError):
        costs.save()
