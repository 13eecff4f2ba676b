"""What an encoder's folder says: where its graph lies, how many tokens it reads, how their vectors become one.

Owns both layouts: ours (one file, ``encoder_config.json``) and that of sentence-transformers (``modules.json`` and the
folders that it names). Read by the runtime, by the converter and by whoever identifies a model, so it must not know any
of them, and imports little but msgspec. Nothing here is trusted: sizes are bounded, no name leads out of the folder.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal

import msgspec

from neuroshell_orch import regular
from neuroshell_orch.errors import OrchError

FILE: Final = "encoder_config.json"
MODULES: Final = "modules.json"
WEIGHTS: Final = "model.safetensors"

MAX_DIMENSIONS: Final = 1 << 16
MAX_TOKENS: Final = 1 << 20
_LIMIT: Final = 4 << 20
_DEFAULT_TOKENS: Final = 512
_GRAPHS: Final = ("onnx/model.onnx", "model.onnx")
_MODES: Final = {"cls": "cls", "mean": "mean"}
_OLD_MODES: Final = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean"}
_OFFSETS: Final = {"roberta": 2, "xlm-roberta": 2, "camembert": 2, "mpnet": 2}
"""Positions that these families never use."""

Pooling = Literal["mean", "cls"]


class Encoder(msgspec.Struct, frozen=True):
    """How texts become vectors. Paths are relative to the folder."""

    max_tokens: int
    dimensions: int
    pooling: Pooling
    normalise: bool
    graph: str = "model.onnx"
    """Empty where there is none, but weights that could be converted."""
    tokenizer: str = "tokenizer.json"
    lowercase: bool = False
    prompt: str = ""
    """Goes before every text."""
    shorter: list[int] = []
    """Numbers of leading values that are a vector of their own, besides all of them."""
    any_shorter: bool = False
    """Every number is."""

    def allows(self, dimensions: int) -> bool:
        """Whether the first so many values are a vector of their own."""
        if dimensions == self.dimensions or dimensions in self.shorter:
            return True
        return self.any_shorter and 0 < dimensions < self.dimensions


def is_encoder(folder: Path) -> bool:
    """Whether the folder has one of the two descriptions."""
    return (folder / FILE).is_file() or (folder / MODULES).is_file()


def read(folder: Path) -> Encoder:
    """What the folder says. Raises OrchError: ``model-invalid``, ``unsupported``, ``file-missing``."""
    if not (folder / FILE).is_file():
        return _sentence_transformers(folder)
    try:
        found = msgspec.json.decode(_bytes(folder, FILE), type=Encoder)
    except msgspec.DecodeError as error:
        raise _invalid(folder / FILE, str(error)) from None
    _whole(folder / FILE, "max_tokens", found.max_tokens, MAX_TOKENS)
    _whole(folder / FILE, "dimensions", found.dimensions, MAX_DIMENSIONS)
    for name in (found.graph, found.tokenizer):
        _inside(folder / FILE, name)
    return found


def write(folder: Path, encoder: Encoder) -> None:
    """Our own description."""
    text = msgspec.json.format(msgspec.json.encode(encoder), indent=2)
    (folder / FILE).write_bytes(text + b"\n")


# ---- the layout of sentence-transformers ----


def _sentence_transformers(folder: Path) -> Encoder:
    base, pooling, normalise = _chain(folder)
    parts = _json(folder, f"{pooling}/config.json")
    config = _json(folder, f"{base}config.json", optional=True)
    limits = _json(folder, f"{base}sentence_bert_config.json", optional=True)
    size = parts.get("word_embedding_dimension", parts.get("embedding_dimension", config.get("hidden_size")))
    shorter = config.get("matryoshka_dimensions") or []
    if not isinstance(shorter, list) or any(type(size) is not int for size in shorter):
        raise _invalid(folder / f"{base}config.json", "matryoshka_dimensions must be a list of whole numbers")
    return Encoder(
        max_tokens=_max_tokens(folder, base, config, limits),
        dimensions=_whole(folder / pooling / "config.json", "word_embedding_dimension", size, MAX_DIMENSIONS),
        pooling=_pooling(folder / pooling / "config.json", parts),
        normalise=normalise,
        graph=next((base + name for name in _GRAPHS if (folder / (base + name)).is_file()), ""),
        tokenizer=f"{base}tokenizer.json",
        lowercase=limits.get("do_lower_case") is True,
        prompt=_prompt(folder),
        shorter=shorter,
        any_shorter=config.get("is_matryoshka") is True and not shorter,
    )


def _chain(folder: Path) -> tuple[str, str, bool]:
    """The folder of the transformer (empty, or with a slash), that of the pooling, and whether vectors get length 1."""
    path = folder / MODULES
    modules = _decoded(folder, MODULES)
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise _invalid(path, "it is not a list of modules")
    kinds = [str(module.get("type")).rpartition(".")[2] for module in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]):
        raise OrchError(
            "unsupported",
            f"{path}: the modules are {', '.join(kinds)[:200] or 'none'}.",
            "Transformer and Pooling, with or without Normalize, can be used.",
        )
    base, pooling = (_inside(path, module.get("path", "")) for module in modules[:2])
    return f"{base}/" if base else "", pooling, len(kinds) == 3


def _pooling(path: Path, parts: dict[str, Any]) -> Pooling:
    wanted = {_OLD_MODES.get(key, key) for key, on in parts.items() if key.startswith("pooling_mode_") and on is True}
    mode = parts.get("pooling_mode")
    if isinstance(mode, str):
        wanted.add(_MODES.get(mode, mode))
    if parts.get("include_prompt") is False:
        raise OrchError("unsupported", f"{path}: include_prompt is false.", "The prompt's tokens always count here.")
    if wanted == {"mean"}:
        return "mean"
    if wanted == {"cls"}:
        return "cls"
    named = ", ".join(sorted(wanted))[:200] or "not given"
    raise OrchError("unsupported", f"{path}: the pooling is {named}.", "The poolings mean and cls can be used.")


def _max_tokens(folder: Path, base: str, config: dict[str, Any], limits: dict[str, Any]) -> int:
    positions = config.get("max_position_embeddings")
    if type(positions) is int:
        positions -= _OFFSETS.get(str(config.get("model_type")), 0)
    wanted = limits.get("max_seq_length")
    if wanted is None:
        wanted = _json(folder, f"{base}tokenizer_config.json", optional=True).get("model_max_length")
    known = [size for size in (positions, wanted) if isinstance(size, int | float) and 2 < size <= MAX_TOKENS]
    return int(min(known)) if known else _DEFAULT_TOKENS


def _prompt(folder: Path) -> str:
    settings = _json(folder, "config_sentence_transformers.json", optional=True)
    name, prompts = settings.get("default_prompt_name"), settings.get("prompts")
    if name is None:
        return ""
    found = prompts.get(name) if isinstance(prompts, dict) and isinstance(name, str) else None
    if not isinstance(found, str):
        raise _invalid(folder / "config_sentence_transformers.json", "default_prompt_name names no prompt")
    return found


# ---- files ----


def _json(folder: Path, name: str, *, optional: bool = False) -> dict[str, Any]:
    if optional and not (folder / name).exists():
        return {}
    found = _decoded(folder, name)
    if not isinstance(found, dict):
        raise _invalid(folder / name, "it is not a JSON object")
    return found


def _decoded(folder: Path, name: str) -> object:
    try:
        found: object = msgspec.json.decode(_bytes(folder, name))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _invalid(folder / name, "it is not valid JSON") from None
    return found


def _bytes(folder: Path, name: str) -> bytes:
    path = folder / name
    try:
        return regular.read_file(path, _LIMIT)
    except (regular.NotRegularError, regular.TooLargeError):
        raise _invalid(path, f"it is not a regular file of {_LIMIT >> 20} MiB at most") from None
    except FileNotFoundError:
        raise OrchError("file-missing", f"{path} does not exist.", "Copy or fetch the whole folder.") from None
    except OSError as error:
        raise OrchError("not-allowed", f"{path} cannot be opened: {error.strerror}.", "Look at the file.") from None


def _inside(path: Path, name: object) -> str:
    """A relative path below the folder, as it was written."""
    if not isinstance(name, str) or "\0" in name or name.startswith("/") or ".." in PurePosixPath(name).parts:
        raise _invalid(path, "it names a path that leads out of the folder")
    return name.rstrip("/")


def _whole(path: Path, key: str, value: object, most: int) -> int:
    if type(value) is not int or not 1 <= value <= most:
        raise _invalid(path, f"{key} must be a whole number from 1 to {most}")
    return value


def _invalid(path: Path, what: str) -> OrchError:
    return OrchError("model-invalid", f"{path}: {what}.", "Fetch the model again; its folder has to be complete.")
