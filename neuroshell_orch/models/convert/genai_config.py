"""Writes ``genai_config.json``: what onnxruntime-genai must know about a model beside its graph.

Owns that file's shape only. Threads are left to the one who loads the model: the daemon knows how many cores there
are to use, a file on disk does not.
"""

from __future__ import annotations

import json
from pathlib import Path

from neuroshell_orch.models.convert.architecture import Architecture
from neuroshell_orch.models.convert.tokenizer import TokenizerFacts


def write_genai_config(folder: Path, model: Architecture, facts: TokenizerFacts) -> None:
    """Writes the file into ``folder``."""
    decoder: dict[str, object] = {
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
        "filename": "model.onnx",
        "head_size": model.head_size,
        "hidden_size": model.hidden,
        "inputs": {
            "input_ids": "input_ids",
            "attention_mask": "attention_mask",
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
        "num_attention_heads": model.heads,
        "num_hidden_layers": model.layers,
        "num_key_value_heads": model.kv_heads,
    }
    described: dict[str, object] = {
        "bos_token_id": facts.eos[0] if facts.bos is None else facts.bos,
        "context_length": model.context_length,
        "decoder": decoder,
        "eos_token_id": facts.eos,
        "pad_token_id": facts.pad,
        "type": model.family,
        "vocab_size": model.vocabulary,
    }
    search: dict[str, object] = {
        "do_sample": False,
        "early_stopping": True,
        "max_length": model.context_length,
        "min_length": 0,
        "num_beams": 1,
        "num_return_sequences": 1,
        "past_present_share_buffer": True,
        "repetition_penalty": 1.0,
        "temperature": 1.0,
        "top_k": 1,
        "top_p": 1.0,
    }
    text = json.dumps({"model": described, "search": search}, indent=2)
    (folder / "genai_config.json").write_text(text + "\n", encoding="utf-8")
