"""A language model of a stated size, which no registry has to offer: real operators, random weights, a real tokenizer.

Owns its making: the converter's own graph, with matrices whose blocks come from a generator instead of a file. What it
says means nothing, and is the same every time. It is made once under ``build`` and used again. Must not know what is
measured with it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import onnx

from neuroshell_orch.models.convert.architecture import Architecture
from neuroshell_orch.models.convert.data_file import DataFile, open_data_file
from neuroshell_orch.models.convert.genai_config import write_genai_config
from neuroshell_orch.models.convert.graph import GraphBuilder
from neuroshell_orch.models.convert.matrices import Matrices
from neuroshell_orch.models.convert.weights import BLOCK
from neuroshell_orch.models.new_folder import new_folder

if TYPE_CHECKING:
    from neuroshell_orch.models.convert.gguf_file import GgufFile

HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, HEAD = 2048, 5632, 32, 8, 64
POOL = 16 << 20
SPREAD = 4.6
"""The standard deviation of a whole number from -8 to 7."""


class RandomMatrices(Matrices):
    """MatMulNBits of 4 bits in blocks of 32 all over, and of 8 bits at the two ends."""

    def __init__(self, model: Architecture, data: DataFile, seed: int) -> None:
        super().__init__(no_file(), model, data, "int4")
        self._random = np.random.default_rng(seed)
        self._pool = self._random.integers(0, 256, POOL, np.uint8)

    def vector(self, _name: str):
        return np.ones(self.model.hidden, np.float32)

    def embed(self, ids: str, result: str) -> str:
        self._write("token_embd", self.model.vocabulary, self.model.hidden, bits=8)
        self._emit_look_up("token_embd", ids, result)
        return result

    def output(self, value: str, result: str) -> None:
        self._emit_bits("token_embd", value, result, rows=self.model.vocabulary, columns=self.model.hidden, bits=8)

    def multiply(self, products: dict[str, str], value: str) -> None:
        for name, result in products.items():
            rows, columns = self._shape(name.split(".", 2)[2])
            self._write(name, rows, columns, bits=4)
            self._emit_bits(name, value, result, rows=rows, columns=columns, bits=4)

    def _shape(self, kind: str) -> tuple[int, int]:
        model = self.model
        return {
            "attn_qkv": (model.query_size + 2 * model.kv_size, model.hidden),
            "attn_output": (model.hidden, model.query_size),
            "ffn_gate": (model.intermediate, model.hidden),
            "ffn_up": (model.intermediate, model.hidden),
            "ffn_down": (model.hidden, model.intermediate),
        }[kind]

    def _write(self, name: str, rows: int, columns: int, *, bits: int) -> None:
        blocks = columns // BLOCK
        self.data.add(f"{name}.packed", self._bytes(rows * columns * bits // 8).reshape(rows, blocks, -1))
        scale = 1 / (SPREAD * columns**0.5) * (1 if bits == 4 else 1 / 16)
        self.data.add(f"{name}.scales", np.full(rows * blocks, scale, np.float32))
        if bits == 4:
            self.data.add(f"{name}.zeros", np.full(rows * -(-blocks // 2), 0x88, np.uint8))

    def _bytes(self, size: int):
        """Out of one pool, from a random place each time: generating all of them would take a minute."""
        at = int(self._random.integers(0, POOL))
        return np.resize(np.roll(self._pool, at), size) if size > POOL else np.roll(self._pool, at)[:size]


def no_file() -> GgufFile:
    return SimpleNamespace(tensors={}, fields={})  # the graph asks it for rotary factors only


def big_model(root: Path, mebibytes: int, tokenizer: Path) -> Path:
    """The folder of a model whose weights take about ``mebibytes``; made unless it is there."""
    out = root / f"random-{mebibytes}"
    if out.is_dir():
        return out
    config = json.loads((tokenizer / "genai_config.json").read_bytes())["model"]
    vocabulary = config["vocab_size"]
    layer = (HIDDEN * (HEADS + 2 * KV_HEADS) * HEAD + HIDDEN * HEADS * HEAD + 3 * HIDDEN * INTERMEDIATE) * 0.64
    ends = vocabulary * HIDDEN * 1.125
    layers = max(2, round(((mebibytes << 20) - ends) / layer))
    model = Architecture(
        family="llama",
        layers=layers,
        hidden=HIDDEN,
        intermediate=INTERMEDIATE,
        heads=HEADS,
        kv_heads=KV_HEADS,
        head_size=HEAD,
        vocabulary=vocabulary,
        context_length=2048,
        epsilon=1e-5,
        rope_base=10000.0,
        rope_scale=1.0,
        tied=True,
        bias=False,
        head_norm=False,
        interleaved=False,
    )
    eos = config["eos_token_id"]
    facts = SimpleNamespace(
        eos=eos if isinstance(eos, list) else [eos], bos=config.get("bos_token_id"), pad=config["pad_token_id"]
    )
    root.mkdir(parents=True, exist_ok=True)
    with new_folder(out) as folder:
        for path in tokenizer.iterdir():
            if path.is_file() and path.name.startswith(
                ("tokenizer", "chat_template", "special_tokens", "vocab", "merges")
            ):
                shutil.copyfile(path, folder / path.name)
        write_genai_config(folder, model, facts)
        with open_data_file(folder, "model.onnx.data") as stream:
            data = DataFile(stream, "model.onnx.data")
            builder = GraphBuilder(no_file(), model, RandomMatrices(model, data, 7), all_logits=False)
            proto = builder.build(lambda _: None)
        onnx.save_model(proto, folder / "model.onnx")
    return out
