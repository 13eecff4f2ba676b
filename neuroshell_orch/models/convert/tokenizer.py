"""Rebuilds the tokenizer that a GGUF file describes, as ``tokenizer.json`` and ``tokenizer_config.json``.

Owns the table of pre-tokenizers (how text is cut before byte-pair merges; GGUF names it, it does not describe it) and
the check that tokens, types and merges fit together. Byte-level BPE only: a file with another kind of vocabulary is
refused with the names of those that work. Knows nothing about weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from neuroshell_orch.errors import OrchError
from neuroshell_orch.models.convert.gguf_file import GgufFile

_CONTROL: Final = 3
_USER_DEFINED: Final = 4
_END_OF_TURN: Final = ("<|im_end|>", "<|eot_id|>", "<|endoftext|>", "<|end_of_text|>", "<|end|>", "<|eom_id|>")

# How the regular expressions of the published tokenizers cut text, by what GGUF calls them.
_GPT2: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_TIKTOKEN: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}"
    r"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class TokenizerFacts:
    """What ``genai_config.json`` needs to know about the vocabulary."""

    vocabulary: int
    bos: int | None
    eos: list[int]
    pad: int
    has_template: bool


def _pattern(expression: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(expression), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _digits() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )


def _gpt2() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


_CUTS: Final[dict[str, Callable[[], pre_tokenizers.PreTokenizer]]] = {
    "gpt-2": _gpt2,
    "smollm": _digits,
    "qwen2": lambda: _pattern(_TIKTOKEN.format(digits="")),
    "llama-bpe": lambda: _pattern(_TIKTOKEN.format(digits="{1,3}")),
}
_NORMALISED: Final = frozenset({"qwen2"})
_WHOLE_WORDS_FIRST: Final = frozenset({"llama-bpe"})


def write_tokenizer(file: GgufFile, folder: Path, rows: int) -> TokenizerFacts:
    """Writes both files into ``folder``. ``rows`` is the embedding's height: no token may lie beyond it."""
    kind, cut = _text(file, "tokenizer.ggml.model"), _text(file, "tokenizer.ggml.pre", "")
    if kind != "gpt2" or cut not in _CUTS:
        raise OrchError(
            "unsupported",
            f"{file.path}: the tokenizer is {kind!r} with the pre-tokenizer {cut!r}.",
            "Byte-pair tokenizers ('gpt2') with these pre-tokenizers can be converted: " + ", ".join(_CUTS) + ".",
        )
    tokens = _strings(file, "tokenizer.ggml.tokens")
    if len(tokens) > rows:
        file.invalid("tokenizer.ggml.tokens", f"has {len(tokens)} tokens, the embedding has only {rows} rows")
    vocabulary = {token: number for number, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        file.invalid("tokenizer.ggml.tokens", "has the same token twice")
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=_merges(file, vocabulary), ignore_merges=cut in _WHOLE_WORDS_FIRST)
    )
    if cut in _NORMALISED:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = _CUTS[cut]()
    tokenizer.decoder = decoders.ByteLevel()
    added = _added(file, tokens)
    tokenizer.add_tokens([token for token in added if not token.special])
    tokenizer.add_special_tokens([token for token in added if token.special])
    bos = _token_id(file, "bos", len(tokens))
    if bos is not None and file.fields.get("tokenizer.ggml.add_bos_token", cut == "llama-bpe") is True:
        tokenizer.post_processor = processors.Sequence(
            [
                processors.ByteLevel(trim_offsets=False),
                processors.TemplateProcessing(
                    single=[tokens[bos], "$A"], pair=[tokens[bos], "$A", "$B"], special_tokens=[(tokens[bos], bos)]
                ),
            ]
        )
    else:
        bos = None
    tokenizer.save(str(folder / "tokenizer.json"))
    facts = _facts(file, vocabulary, bos)
    config = _config(file, tokens, added, facts)
    (folder / "tokenizer_config.json").write_text(json.dumps(config, ensure_ascii=False, indent=2), encoding="utf-8")
    return facts


def _facts(file: GgufFile, vocabulary: dict[str, int], bos: int | None) -> TokenizerFacts:
    eos = _token_id(file, "eos", len(vocabulary))
    ends = [] if eos is None else [eos]
    ends += [vocabulary[token] for token in _END_OF_TURN if token in vocabulary and vocabulary[token] not in ends]
    if not ends:
        file.invalid("tokenizer.ggml.eos_token_id", "is missing, and no token is known to end an answer")
    pad = _token_id(file, "padding", len(vocabulary))
    template = file.fields.get("tokenizer.chat_template")
    return TokenizerFacts(len(vocabulary), bos, ends, ends[0] if pad is None else pad, isinstance(template, str))


def _config(file: GgufFile, tokens: list[str], added: list[AddedToken], facts: TokenizerFacts) -> dict[str, object]:
    numbers = {token: number for number, token in enumerate(tokens)}
    config: dict[str, object] = {
        "tokenizer_class": "Qwen2Tokenizer" if file.fields.get("tokenizer.ggml.pre") == "qwen2" else "GPT2Tokenizer",
        "model_max_length": 1 << 24,
        "add_prefix_space": False,
        "add_bos_token": facts.bos is not None,
        "clean_up_tokenization_spaces": False,
        "bos_token": None if facts.bos is None else tokens[facts.bos],
        "eos_token": tokens[facts.eos[0]],
        "pad_token": tokens[facts.pad],
        "unk_token": None,
        "added_tokens_decoder": {
            str(numbers[token.content]): {
                "content": token.content,
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": token.special,
            }
            for token in added
        },
    }
    if facts.has_template:
        config["chat_template"] = file.fields["tokenizer.chat_template"]
    return config


def _added(file: GgufFile, tokens: list[str]) -> list[AddedToken]:
    """The tokens that are matched as a whole before anything else; control tokens are special."""
    types = file.fields.get("tokenizer.ggml.token_type", [])
    if not isinstance(types, list) or (types and len(types) != len(tokens)):
        file.invalid("tokenizer.ggml.token_type", "does not have one entry per token")
    return [
        AddedToken(token, normalized=False, special=kind == _CONTROL)
        for token, kind in zip(tokens, types, strict=False)
        if kind in (_CONTROL, _USER_DEFINED) and token
    ]


def _merges(file: GgufFile, vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    merges: list[tuple[str, str]] = []
    for number, line in enumerate(_strings(file, "tokenizer.ggml.merges")):
        left, found, right = line.partition(" ")
        if not found or not {left, right, left + right} <= vocabulary.keys():
            file.invalid("tokenizer.ggml.merges", f"entry {number} does not join two tokens into a third")
        merges.append((left, right))
    return merges


def _token_id(file: GgufFile, name: str, count: int) -> int | None:
    key = f"tokenizer.ggml.{name}_token_id"
    value = file.fields.get(key)
    if value is None:
        return None
    if not isinstance(value, int) or not 0 <= value < count:
        file.invalid(key, f"is not a token: there are {count}")
    return value


def _text(file: GgufFile, key: str, default: str | None = None) -> str:
    value = file.fields.get(key, default)
    if not isinstance(value, str):
        file.invalid(key, "is missing" if value is None else "is not text")
    return value


def _strings(file: GgufFile, key: str) -> list[str]:
    value = file.fields.get(key)
    if not isinstance(value, list):
        file.invalid(key, "is missing" if value is None else "is not a list")
    texts = [item for item in value if isinstance(item, str)]
    if len(texts) != len(value):
        file.invalid(key, "holds something other than text")
    return texts
