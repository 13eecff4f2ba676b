"""What can be said about a model from its files: family, parameters, precision, what its template knows.

Owns the reading of a genai folder's descriptions and of the head of its ONNX graph, of which only shapes and names are
looked at, within bounds and without any library: importing this stays cheap, and no weight is ever read. A file that
is damaged or strange says less and harms nobody. Must not know who asks.
"""

from __future__ import annotations

import json
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from neuroshell_orch import encoders
from neuroshell_orch.errors import OrchError
from neuroshell_orch.models import graph_facts

if TYPE_CHECKING:
    from collections.abc import Iterable

_TEXT_LIMIT: Final = 64 << 20
_PRECISIONS: Final = {32: "F32", 16: "F16", 8: "Q8", 4: "Q4", 2: "Q2"}


class Details(msgspec.Struct, frozen=True):
    """What is known; empty and 0 where it is not. ``bits`` is the precision that most parameters are kept in."""

    format: str = "onnx"
    family: str = ""
    parameters: int = 0
    bits: int = 0
    size: int = 0
    """Bytes of all files."""
    modified: float = 0.0
    """Unix time of the newest file."""
    template: str = ""
    context_length: int = 0
    hidden_size: int = 0
    layers: int = 0
    heads: int = 0
    kv_heads: int = 0
    vocabulary: int = 0
    search: dict[str, Any] = {}
    """How answers are chosen where nobody says otherwise."""

    @property
    def tools(self) -> bool:
        """Whether its own template knows tools."""
        return "tools" in self.template

    @property
    def thinks(self) -> bool:
        """Whether it was taught to think aloud before it answers."""
        return "<think>" in self.template or "enable_thinking" in self.template

    @property
    def parameter_size(self) -> str:
        """The number of parameters as people say it: 134.5M, 1.2B."""
        for unit, size in (("B", 10**9), ("M", 10**6), ("K", 10**3)):
            if self.parameters >= size:
                return f"{self.parameters / size:.1f}{unit}"
        return str(self.parameters) if self.parameters else ""

    @property
    def precision(self) -> str:
        """How its weights are kept: F32, F16, Q8, Q4."""
        return _PRECISIONS.get(self.bits, "")


def described(path: str) -> Details:
    """What can be said about the model at ``path``, a file or a folder. Nothing is raised."""
    root = Path(path).expanduser()
    stamps = tuple(sorted(_stamps(root)))
    return _described(root, stamps)


def _stamps(root: Path) -> Iterable[tuple[str, int, float]]:
    try:
        files = [file for file in root.iterdir() if file.is_file()] if root.is_dir() else [root]
        for file in files:
            status = file.stat()
            yield file.name, status.st_size, status.st_mtime
    except OSError:
        return


@lru_cache(maxsize=64)
def _described(root: Path, stamps: tuple[tuple[str, int, float], ...]) -> Details:
    """``stamps`` changes with the files, so that what is remembered is true."""
    size, modified = sum(stamp[1] for stamp in stamps), max((stamp[2] for stamp in stamps), default=0.0)
    if not root.is_dir():
        facts = graph_facts.read(root)
        return Details(parameters=facts.parameters, bits=_most(facts.bits), size=size, modified=modified)
    if encoders.is_encoder(root):
        return _encoder(root, size, modified)
    config = _object(root / "genai_config.json")
    model, search = _inside(config, "model"), _inside(config, "search")
    decoder = _inside(model, "decoder")
    filename = decoder.get("filename")
    facts = graph_facts.Facts()
    if isinstance(filename, str) and Path(filename).name == filename:
        facts = graph_facts.read(root / filename)
    family = model.get("type")
    return Details(
        family=family if isinstance(family, str) else "",
        parameters=facts.parameters,
        bits=_most(facts.bits),
        size=size,
        modified=modified,
        template=_template(root),
        context_length=_whole(model, "context_length"),
        hidden_size=_whole(decoder, "hidden_size"),
        layers=_whole(decoder, "num_hidden_layers"),
        heads=_whole(decoder, "num_attention_heads"),
        kv_heads=_whole(decoder, "num_key_value_heads"),
        vocabulary=_whole(model, "vocab_size"),
        search=search,
    )


def _encoder(root: Path, size: int, modified: float) -> Details:
    try:
        encoder = encoders.read(root)
    except OrchError:
        return Details(size=size, modified=modified)
    facts = graph_facts.read(root / encoder.graph) if encoder.graph else graph_facts.Facts()
    family = _object(root / "config.json").get("model_type")
    return Details(
        family=family if isinstance(family, str) else "",
        parameters=facts.parameters,
        bits=_most(facts.bits),
        size=size,
        modified=modified,
        context_length=encoder.max_tokens,
        hidden_size=encoder.dimensions,
    )


def _most(bits: Counter[int]) -> int:
    return bits.most_common(1)[0][0] if bits else 0


def _template(root: Path) -> str:
    own = _text(root / "chat_template.jinja")
    if own:
        return own
    template = _object(root / "tokenizer_config.json").get("chat_template")
    if isinstance(template, list):  # several with names
        named = {item.get("name"): item.get("template") for item in template if isinstance(item, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else ""


def _text(path: Path) -> str:
    try:
        if not path.is_file() or path.stat().st_size > _TEXT_LIMIT:
            return ""
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""


def _object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_text(path) or "{}")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _inside(value: dict[str, Any], key: str) -> dict[str, Any]:
    inner = value.get(key)
    return inner if isinstance(inner, dict) else {}


def _whole(value: dict[str, Any], key: str) -> int:
    number = value.get(key)
    return number if type(number) is int and number > 0 else 0
