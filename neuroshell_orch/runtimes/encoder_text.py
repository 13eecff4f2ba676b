"""Texts as the tokens that an encoder reads: cut off where it stops reading, with its own tokens around them.

Owns the tokenizer and the rule by which a long text is cut: as sentence-transformers cuts it, its beginning is kept.
Only as much of a text is tokenized as can matter, so that a book costs no more than a page. Must not know the graph.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

from tokenizers import Tokenizer

from neuroshell_orch.encoders import Encoder
from neuroshell_orch.errors import OrchError
from neuroshell_orch.runtimes import files

Native: TypeAlias = Any
"""A tokenizer, which comes without types."""

_LIMIT: Final = 64 << 20
"""Bytes of a tokenizer's file."""
_HEAD: Final = 32
"""Characters for each token that a first look takes: far more than most texts have."""
_MARGIN: Final = 64
"""Tokens that a cut in the text could have changed."""


class Tokens(NamedTuple):
    """What the model reads of one input, and whether that is not all of it."""

    ids: list[int]
    truncated: bool


class Texts:
    """The tokenizer of one encoder."""

    def __init__(self, folder: Path, encoder: Encoder, limit: int) -> None:
        path = folder / encoder.tokenizer
        self._tokenizer = _load(folder, encoder.tokenizer)
        self._vocabulary = int(self._tokenizer.get_vocab_size(with_added_tokens=True))
        self._encoder = encoder
        self._before, self._after = self._around(path)
        self._room = limit - len(self._before) - len(self._after)
        if self._room < 1:
            raise OrchError("config-invalid", f"{path}: {limit} tokens leave no room for a text.", "Allow it more.")

    @property
    def padding(self) -> int:
        """The token that fills a batch up; a mask hides it, whatever it is."""
        return self._before[0] if self._before else 0

    def tokens(self, given: str | list[int], number: int) -> Tokens:
        """One input. Raises OrchError that names it by its ``number``."""
        ids, truncated = self._of_text(given) if isinstance(given, str) else self._checked(given, number)
        return Tokens([*self._before, *ids[: self._room], *self._after], truncated)

    def _of_text(self, text: str) -> tuple[list[int], bool]:
        text = self._encoder.prompt + text
        text = text.lower() if self._encoder.lowercase else text
        size = self._room * _HEAD
        while True:
            head = text[:size]
            space = max(head.rfind(" "), head.rfind("\n")) if len(head) < len(text) else -1
            ids = self._plain(head[:space] if space > 0 else head)
            if len(ids) >= self._room + _MARGIN or len(head) == len(text):
                return ids, len(ids) > self._room
            size *= 4

    def _plain(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _checked(self, ids: list[int], number: int) -> tuple[list[int], bool]:
        for token in ids:
            if not 0 <= token < self._vocabulary:
                raise OrchError(
                    "bad-request",
                    f"input[{number}] has a token that this model does not know.",
                    f"Its tokens are 0 to {self._vocabulary - 1}; other models' tokens mean nothing to it: send text.",
                )
        return ids, len(ids) > self._room

    def _around(self, path: Path) -> tuple[list[int], list[int]]:
        """The tokens that the tokenizer puts before and behind a text."""
        plain = self._plain("a")
        whole: list[int] = self._tokenizer.encode("a", add_special_tokens=True).ids
        for start in range(len(whole) - len(plain) + 1):
            if whole[start : start + len(plain)] == plain:
                return whole[:start], whole[start + len(plain) :]
        raise OrchError("model-invalid", f"{path} changes a text's own tokens.", "Such a tokenizer cannot be used.")


def _load(folder: Path, name: str) -> Native:
    descriptor = files.open_beneath(folder, name)
    with open(descriptor, "rb") as stream:  # noqa: PTH123 - a descriptor
        if os.fstat(descriptor).st_size > _LIMIT:
            raise OrchError("model-invalid", f"{folder / name} is larger than {_LIMIT >> 20} MiB.", "")
        content = stream.read()
    try:
        tokenizer = Tokenizer.from_buffer(content)
    except ValueError:
        message = f"{folder / name} is not a tokenizer that can be read."
        raise OrchError("model-invalid", message, "Fetch the model again.") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
