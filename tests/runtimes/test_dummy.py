"""The dummy model's file is exactly what `onnx` builds. `python -m tests.runtimes.test_dummy` writes it anew."""

from __future__ import annotations

import json

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from neuroshell_orch.runtimes import dummy

CONFIG = {
    "model": {
        "type": "llama",
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
        "vocab_size": dummy.VOCABULARY,
        "context_length": 8,
        "decoder": {
            "session_options": {"intra_op_num_threads": 1, "provider_options": []},
            "filename": "model.onnx",
            "head_size": 1,
            "hidden_size": 1,
            "num_attention_heads": 1,
            "num_key_value_heads": 1,
            "num_hidden_layers": 0,
            "inputs": {"input_ids": "input_ids"},
            "outputs": {"logits": "logits"},
        },
    },
    "search": {"max_length": 8, "past_present_share_buffer": False},
}


def build() -> bytes:
    table = np.roll(np.eye(dummy.VOCABULARY, dtype=np.float32), 1, axis=1)
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "input_ids"], ["logits"])],
        "dummy",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "sequence", dummy.VOCABULARY])],
        initializer=[numpy_helper.from_array(table, "table")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString(deterministic=True)


def config() -> str:
    return json.dumps(CONFIG, indent=1) + "\n"


def test_the_file_is_what_onnx_builds():
    assert (dummy.FOLDER / "model.onnx").read_bytes() == build()
    assert (dummy.FOLDER / "genai_config.json").read_text() == config()


def test_it_is_tiny():
    assert (dummy.FOLDER / "model.onnx").stat().st_size < 500


if __name__ == "__main__":
    (dummy.FOLDER / "model.onnx").write_bytes(build())
    (dummy.FOLDER / "genai_config.json").write_text(config())
