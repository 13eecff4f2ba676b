"""Encoders for tests: a BERT of a few kilobytes in sentence-transformers' layout, and the one of the catalogue.

Owns what their files look like. Must not know the package it tests, but for pulling the real model; the script that
makes the references uses it where nothing of ours is installed.
"""

from __future__ import annotations

import functools
import hashlib
import json
import zipfile
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

HIDDEN, LAYERS, HEADS, WIDE, POSITIONS, MAX_TOKENS = 32, 2, 4, 64, 48, 24
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["the", "cat", "dog", "sits", "plays", "outside", "garden", "in", "a", "is", "new", "great", "movie", "##s"]
LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]
VOCABULARY = list(dict.fromkeys([*SPECIALS, *WORDS, *LETTERS, *(f"##{letter}" for letter in LETTERS), ".", ",", "!"]))

TEXTS = ["the cat sits outside", "a dog plays in the garden.", "movies", "x", "new " * 40]
"""The last one is longer than the tiny model reads."""

CONFIG = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "hidden_act": "gelu",
    "hidden_size": HIDDEN,
    "intermediate_size": WIDE,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": POSITIONS,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "type_vocab_size": 2,
    "vocab_size": len(VOCABULARY),
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def tiny_tensors(seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights that make every part of the graph matter."""
    random = np.random.default_rng(seed)
    found: dict[str, np.ndarray] = {}

    def add(name: str, *shape: int) -> None:
        found[name] = (random.standard_normal(shape) * 0.3).astype(np.float32)

    def norm(name: str) -> None:
        add(f"{name}.weight", HIDDEN)
        found[f"{name}.weight"] += 1
        add(f"{name}.bias", HIDDEN)

    for kind, rows in {"word": len(VOCABULARY), "position": POSITIONS, "token_type": 2}.items():
        add(f"embeddings.{kind}_embeddings.weight", rows, HIDDEN)
    norm("embeddings.LayerNorm")
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}"
        sides = {f"attention.self.{part}": (HIDDEN, HIDDEN) for part in ("query", "key", "value")}
        sides |= {"attention.output.dense": (HIDDEN, HIDDEN)}
        sides |= {"intermediate.dense": (WIDE, HIDDEN), "output.dense": (HIDDEN, WIDE)}
        for name, shape in sides.items():
            add(f"{at}.{name}.weight", *shape)
            add(f"{at}.{name}.bias", shape[0])
        norm(f"{at}.attention.output.LayerNorm")
        norm(f"{at}.output.LayerNorm")
    add("pooler.dense.weight", HIDDEN, HIDDEN)
    add("pooler.dense.bias", HIDDEN)
    return found


def write_safetensors(path: Path, tensors: dict[str, np.ndarray], kind: str = "F32") -> Path:
    """The container, written once more by hand."""
    table, parts, at = {}, [], 0
    for name, values in tensors.items():
        if kind == "BF16":
            raw = (values.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
        else:
            raw = values.astype({"F32": "<f4", "F16": "<f2"}[kind]).tobytes()
        table[name] = {"dtype": kind, "shape": list(values.shape), "data_offsets": [at, at + len(raw)]}
        parts.append(raw)
        at += len(raw)
    head = json.dumps({"__metadata__": {"format": "pt"}, **table}).encode()
    head += b" " * (-len(head) % 8)
    path.write_bytes(len(head).to_bytes(8, "little") + head + b"".join(parts))
    return path


def tiny_tokenizer() -> Tokenizer:
    """WordPiece as BERT has it."""
    tokenizer = Tokenizer(models.WordPiece({token: n for n, token in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ids = {token: VOCABULARY.index(token) for token in ("[CLS]", "[SEP]")}
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=list(ids.items())
    )
    tokenizer.enable_padding(length=16)  # what the publisher left in the file must not matter
    tokenizer.enable_truncation(8)
    return tokenizer


def tiny_encoder(
    folder: Path, *, kind: str = "F32", prefix: str = "", pooling: str = "mean", normalise: bool = True, seed: int = 0
) -> Path:
    """Write the model into the new folder in sentence-transformers' layout."""
    folder.mkdir()
    write_safetensors(
        folder / "model.safetensors", {prefix + name: value for name, value in tiny_tensors(seed).items()}, kind
    )
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    kinds = ["Transformer", "Pooling", *(["Normalize"] if normalise else [])]
    paths = ["", "1_Pooling", "2_Normalize"]
    modules = [
        {"idx": n, "name": str(n), "path": paths[n], "type": f"sentence_transformers.models.{name}"}
        for n, name in enumerate(kinds)
    ]
    pools = {"word_embedding_dimension": HIDDEN}
    pools |= {f"pooling_mode_{name}": name.startswith(pooling) for name in ("cls_token", "mean_tokens", "max_tokens")}
    (folder / "1_Pooling").mkdir()
    for name, value in {
        "config.json": CONFIG,
        "modules.json": modules,
        "1_Pooling/config.json": pools,
        "sentence_bert_config.json": {"max_seq_length": MAX_TOKENS, "do_lower_case": False},
    }.items():
        (folder / name).write_text(json.dumps(value))
    return folder


def edit(folder: Path, name: str, **changes: object) -> None:
    """Change some fields of a JSON file in ``folder``; None removes one."""
    path = folder / name
    found = json.loads(path.read_text()) if path.exists() else {}
    found = {key: value for key, value in {**found, **changes}.items() if value is not None}
    path.write_text(json.dumps(found))


def zipped(folder: Path, path: Path) -> Path:
    """The folder as a ZIP file."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder))
    return path


def converted(folder: Path, out: Path) -> Path:
    """An encoder's folder made from the one in sentence-transformers' layout."""
    from neuroshell_orch.models.convert_encoder import convert_encoder  # noqa: PLC0415 - see the top of this file

    return convert_encoder(folder, out).folder


@functools.cache
def minilm_folder() -> Path:
    """all-MiniLM-L6-v2, pulled and converted once for this checkout: ``build/models/REVISION/all-minilm-l6-v2``."""
    import neuroshell_orch  # noqa: PLC0415 - see the top of this file
    from neuroshell_orch.models.catalogue import pull  # noqa: PLC0415
    from tests.support_models import CACHE, ROOT  # noqa: PLC0415

    digest = hashlib.sha256()
    for path in sorted(Path(neuroshell_orch.__file__).parent.glob("models/convert_encoder/*.py")):
        digest.update(path.read_bytes())
    return pull("all-minilm-l6-v2", ROOT / digest.hexdigest()[:12], CACHE)
