"""Asks transformers what the converted models must say, and writes the answers beside this file.

Run by hand, with ``torch``, ``transformers``, ``gguf``, ``regex`` and this project's own run-time needs installed:

    python tests/data/make_reference.py GGUF

where GGUF is SmolLM2-135M-Instruct.Q4_1.gguf (``nsorch model pull smollm2-135m`` leaves it in the cache). Neither torch
nor transformers is needed by the tests themselves. Nothing of our converter is used here: the weights go into
transformers through its own GGUF reader, and tokens are checked against a second, plain implementation below.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import regex
import torch
from tokenizers import pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "models"))

import tiny  # noqa: E402

PROMPTS = [
    "What is the capital of France?",
    "Name three colours of the rainbow.",
    "Write one sentence about the sea.",
    "Explain in simple words why the sky is blue.",
    "Translate 'good morning' into Spanish.",
    "What is 7 times 8?",
    "Give me a recipe for pancakes.",
    "Who wrote Romeo and Juliet?",
    "List the planets of the solar system.",
    "How do I boil an egg?",
    "What does a compiler do?",
    "Write a short poem about winter.",
    "Why do cats purr?",
    "Summarise the plot of Cinderella.",
    "What is the difference between a list and a tuple in Python?",
    "Suggest a name for a small grey dog.",
    "How many days are there in a leap year?",
    "What should I pack for a day of hiking?",
    "Describe the taste of a lemon.",
    "Tell me a fact about honey bees.",
]
TRICKY = [
    "", "Hello world", "  leading", "trailing  ", "a\n\n\nb", "\t\tx = 1;\r\n", "12345 678", "3.14159 and 1,000,000",
    "don't I'LL we've 'tis", "naïve café Ünïcödé", "日本語のテキスト", "Привет, мир", "😀👩‍👩‍👧 emoji", "🇩🇪",
    "<|im_start|>user\nhi<|im_end|>", "<|endoftext|>", "<|im_start", "a<|im_end|>b", "e\u0301 combining", "½ ² Ⅳ ٣",
    "\u00a0nbsp\u2003em", "x" * 200, "http://a.b/c?d=e&f#g", "def f(x):\n    return x**2\n", "\u200b zero\ufeff",
    "!!!???...", "ﬁ ligature", "nul\x00 del\x7f", "'s 't", "multiple   spaces   here", "\n", "   \n  ",
    "\uff21 full width",
    "अनुच्छेद", "ALL CAPS AND camelCaseWords", "\ud7ff\ue000 private", "tab\there", "a" + "\u0300" * 20,
]  # fmt: skip
GPT2 = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
NEW_TOKENS = 24
SAMPLE = 192


def plain_encode(text: str, vocabulary: dict[str, int], ranks: dict[tuple[str, str], int]) -> list[int]:
    """SmolLM2's tokenizer written down once more: special tokens, single digits, GPT-2's cuts, byte-pair merges."""
    letters = tiny.alphabet()
    special = [token for token in vocabulary if regex.fullmatch(r"<\|?\w+\|?>", token)]
    ids: list[int] = []
    for piece in regex.split("(" + "|".join(map(regex.escape, special)) + ")", text):
        if piece in special:
            ids.append(vocabulary[piece])
            continue
        for run in regex.findall(r"\p{N}|\P{N}+", piece):
            for word in GPT2.findall(run):
                parts = [letters[byte] for byte in word.encode()]
                while len(parts) > 1:
                    pairs = [(ranks.get(pair, 1 << 30), at) for at, pair in enumerate(itertools.pairwise(parts))]
                    rank, at = min(pairs)
                    if rank == 1 << 30:
                        break
                    parts[at : at + 2] = [parts[at] + parts[at + 1]]
                ids += [vocabulary[part] for part in parts]
    return ids


def make_smollm2(gguf: Path) -> None:
    """Tokens of tricky strings; for each prompt its tokens, the greedy answer, and a sample of the first logits."""
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # The published tokenizer cuts digits apart first; transformers' GGUF reader leaves that out.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    state = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    ranks = {tuple(merge): rank for rank, merge in enumerate(state["merges"])}
    strings = []
    for text in TRICKY:
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert ids == plain_encode(text, state["vocab"], ranks), text
        strings.append({"text": text, "ids": ids})
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32).eval()
    sample = np.sort(np.random.Generator(np.random.PCG64(0)).choice(model.config.vocab_size, SAMPLE, replace=False))
    prompts, logits = [], np.zeros((len(PROMPTS), SAMPLE), dtype=np.float32)
    for number, prompt in enumerate(PROMPTS):
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
        ids = tokenizer.encode(text, add_special_tokens=False)
        with torch.no_grad():
            scores = model(torch.tensor([ids])).logits[0, -1]
            answer = model.generate(
                torch.tensor([ids]), max_new_tokens=NEW_TOKENS, do_sample=False, attention_mask=torch.ones(1, len(ids))
            )[0, len(ids) :]
        logits[number] = scores[sample].numpy()
        prompts.append({"prompt": prompt, "text": text, "ids": ids, "answer": answer.tolist()})
    np.savez_compressed(HERE / "smollm2_logits.npz", sample=sample.astype(np.int32), logits=logits)
    content = {"strings": strings, "prompts": prompts}
    (HERE / "smollm2_reference.json").write_text(json.dumps(content, indent=1, ensure_ascii=True) + "\n")


def make_tiny() -> None:
    """All logits of one fixed sequence for each tiny model."""
    found: dict[str, np.ndarray] = {}
    for name, kind in tiny.TINY.items():
        with tempfile.TemporaryDirectory() as folder:
            path = tiny.write_tiny(Path(folder) / "tiny.gguf", kind)
            config = AutoConfig.from_pretrained(folder, gguf_file=path.name)
            config.head_dim = kind.head_size  # the GGUF reader of transformers does not know key_length
            model = AutoModelForCausalLM.from_pretrained(
                folder, gguf_file=path.name, config=config, dtype=torch.float32
            ).eval()
            ids = tiny.sequence()
            with torch.no_grad():
                found[name] = model(torch.tensor([ids])).logits[0].numpy()
    np.savez_compressed(HERE / "tiny_logits.npz", **found)


if __name__ == "__main__":
    make_tiny()
    make_smollm2(Path(sys.argv[1]))
