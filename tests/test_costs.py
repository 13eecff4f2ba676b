"""What a model is thought to take: by the files that hold weights, by measuring in advance, by what was seen."""

from __future__ import annotations

import json

import pytest

from neuroshell_orch.accounts import Accounts
from neuroshell_orch.config.schema import ModelSettings
from neuroshell_orch.core.budget import RAM
from neuroshell_orch.core.figures import Figures
from neuroshell_orch.core.warmth import Warmth
from neuroshell_orch.costs import PREPACKING, RUNTIME_BYTES, Costs, estimate
from neuroshell_orch.errors import OrchError
from neuroshell_orch.planning import artefact_of

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


BENCHED = Figures(hot=100 * MIB, hibernated=30 * MIB, parked=20 * MIB, wake_cold=2.0, wake_hibernated=0.1)


def test_what_was_measured_in_advance_counts_until_the_model_was_seen(tmp_path):
    costs = Costs(tmp_path)
    costs.begin_with("a", BENCHED)
    cost = costs.cost("a", "nowhere", 0)
    assert (cost.hot, cost.hibernated, cost.parked) == ({RAM: 100 * MIB}, {RAM: 30 * MIB}, {RAM: 20 * MIB})
    assert (cost.wake_cold, cost.wake_parked, cost.wake_hibernated) == (2.0, 0.7, 0.1), "0.7: nobody has measured that"
    assert cost.measured
    assert not costs.cost("b", "nowhere", 0).measured, "of another artefact nothing is known"
    assert costs.saw_memory("a", Warmth.HOT, 90 * MIB)
    assert costs.saw_memory("a", Warmth.PARKED, 10 * MIB)
    costs.saw_wake("a", Warmth.COLD, 1.0)
    cost = costs.cost("a", "nowhere", 0)
    assert cost.hot == {RAM: 100 * MIB}, "the peak of both"
    assert cost.parked == {RAM: 10 * MIB}, "less than before, but seen"
    assert cost.wake_cold == pytest.approx(1.7)
    assert cost.hibernated == {RAM: 30 * MIB}, "not seen yet"


def test_what_was_measured_in_advance_is_not_kept(tmp_path):
    costs = Costs(tmp_path)
    costs.begin_with("a", BENCHED)
    costs.saw_memory("a", Warmth.PARKED, 25 * MIB)
    costs.save()
    assert Costs(tmp_path).figures("a") == Figures(parked=25 * MIB)
    costs.begin_with("a", None)
    cost = costs.cost("a", "nowhere", 0)
    assert (cost.hot, cost.measured, cost.parked) == ({RAM: RUNTIME_BYTES}, False, {RAM: 25 * MIB})


# ---- the accounts: when a record is looked for ----


class Records:
    """What lies beside the copies, and how often it was looked at."""

    def __init__(self, figures):
        self.figures = figures
        self.looked = []

    def __call__(self, name, artefact):
        self.looked.append((name, artefact))
        return self.figures


def test_a_record_is_looked_for_before_the_first_load_and_after_an_answer_of_a_model_that_was_seen(tmp_path):
    model = ModelSettings(name="m", path=str(tmp_path / "m"), runtime="onnx", source="m.conf")
    records, posted = Records(BENCHED), []
    accounts = Accounts(tmp_path, {"m": model}.get, posted.append, records)
    accounts.want("m")
    assert posted.pop().cost.hot == {RAM: 100 * MIB}
    assert records.looked == [("m", artefact_of(model))]
    accounts.measured("m", Warmth.HOT, 80 * MIB, (Warmth.COLD, 1.0))
    accounts.measured("m", Warmth.HOT, 95 * MIB)
    assert (posted[-1].cost.hot, posted[-1].cost.wake_cold) == ({RAM: 100 * MIB}, pytest.approx(1.7))
    assert len(records.looked) == 1
    accounts.costs.save()

    later = Accounts(tmp_path, {"m": model}.get, posted.append, records)
    later.want("m")
    assert posted[-1].cost.hot == {RAM: 95 * MIB}
    assert len(records.looked) == 1, "an answer waits, and it is known what it takes"
    later.measured("m", Warmth.HOT, 10 * MIB, (Warmth.COLD, 1.7))
    assert len(records.looked) == 1, "it waits still"
    posted.clear()
    later.measured("m", Warmth.HOT, 10 * MIB)
    later.measured("m", Warmth.HOT, 10 * MIB)
    assert len(records.looked) == 2
    assert len(posted) == 1
    assert posted[-1].cost.hibernated == {RAM: 30 * MIB}


def test_a_record_that_is_gone_at_the_next_look_counts_no_more(tmp_path):
    model = ModelSettings(name="m", path=str(tmp_path / "m"), runtime="onnx", source="m.conf")
    records = Records(BENCHED)
    accounts = Accounts(tmp_path, {"m": model}.get, [].append, records)
    assert accounts.cost(model, artefact_of(model)).measured
    records.figures = None
    assert not accounts.cost(model, artefact_of(model)).measured
