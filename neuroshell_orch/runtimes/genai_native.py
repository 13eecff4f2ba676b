"""genai without numpy: the few calls on the way to a plain answer whose bindings would import it.

Owns tokens in and out as lists, by genai's C interface. numpy takes as long to import as a small model's tokenizer to
load, and 10 MiB; what needs it (logits, for scores and grammars) still gets it from the bindings. Objects go back and
forth by pybind11's conduit, see ``genai_open``. Must not know requests, templates or frames.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Native: TypeAlias = Any
"""An object of onnxruntime_genai, which comes without types."""

LIBRARY: Final = "libonnxruntime-genai.so"
LOOKED_AT: Final = ("0.18.",)
"""The versions whose Python classes are known to be what is expected here: the C interface's own for models and
tokenizers, a class around it for generators. Others are used by their own constructors, one after the other."""
CONDUIT: Final = "_pybind11_conduit_v1_"
POINTER: Final = ctypes.c_void_p
_COUNT: Final = ctypes.c_size_t
_TOKENS: Final = ctypes.POINTER(ctypes.c_int32)


class Tokens(list[int]):
    """Token numbers, as an array of them would be used."""

    def tolist(self) -> list[int]:
        """Themselves."""
        return self


class Interface:
    """genai's C interface. Each function returns None, or a result with an error, which becomes a RuntimeError."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self._text = self.function("OgaResultGetError", POINTER, returns=ctypes.c_char_p)
        self._forget = self.function("OgaDestroyResult", POINTER, returns=None)

    def function(self, name: str, *takes: Any, returns: Any = POINTER) -> Any:  # noqa: ANN401 - ctypes'
        """The function ``name``."""
        function = self._library[name]
        function.argtypes, function.restype = takes, returns
        return function

    def checked(self, name: str, *takes: Any) -> Callable[..., None]:  # noqa: ANN401
        """The function ``name``, raising RuntimeError with genai's own words."""
        function = self.function(name, *takes)

        def call(*arguments: object) -> None:
            result = function(*arguments)
            if result:
                text = self._text(result).decode("utf-8", "replace")
                self._forget(result)
                raise RuntimeError(text)

        return call

    def free(self, kind: str) -> Callable[[int], object]:
        """What ends the life of such an object."""
        destroy: Callable[[int], object] = self.function(f"OgaDestroy{kind}", POINTER, returns=None)
        return destroy


def interface(og: Native) -> Interface | None:
    """The C interface behind the module ``og``; None where this version of it is not known to exchange objects."""
    if not og.__version__.startswith(LOOKED_AT):
        return None
    library = Path(og.__file__).with_name(LIBRARY)
    return Interface(library) if hasattr(og.Model, CONDUIT) and library.is_file() else None


def without_numpy(og: Native) -> Native:
    """The module ``og``, whose generators take and give lists."""
    native = interface(og)
    return og if native is None else Module(og, native)


class Module:
    """onnxruntime_genai, with another ``Generator``."""

    def __init__(self, og: Native, native: Interface) -> None:
        self._og = og
        self._append = native.checked("OgaGenerator_AppendTokens", POINTER, _TOKENS, _COUNT)
        next_takes = (POINTER, ctypes.POINTER(_TOKENS), ctypes.POINTER(_COUNT))
        self._next = native.checked("OgaGenerator_GetNextTokens", *next_takes)
        self._key = _key(og.Generator.is_done)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the module has
        return getattr(self._og, name)

    def Generator(self, model: Native, parameters: Native) -> Native:  # noqa: N802 - genai's name
        """A generator over ``model``."""
        made = self._og.Generator(model, parameters)
        capsule = None if self._key is None else getattr(made, CONDUIT)(*self._key)
        if capsule is None:
            return made
        # What the bindings have is a class of their own around the one of the C interface, its first and only member.
        pointer = POINTER.from_address(_pointer(capsule)).value or 0
        return Generator(made, pointer, self._append, self._next)


class Generator:
    """A generator of genai's that takes and gives lists; all else is as it was."""

    def __init__(self, made: Native, pointer: int, append: Callable[..., None], following: Callable[..., None]) -> None:
        self._made = made
        self._pointer = pointer
        self._append = append
        self._next = following
        self._out = _TOKENS()
        self._count = _COUNT()
        self.generate_next_token = made.generate_next_token
        self.is_done = made.is_done

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever genai's has
        return getattr(self._made, name)

    def append_tokens(self, tokens: Sequence[int] | Native) -> None:
        """Read ``tokens``; other threads go on meanwhile."""
        if isinstance(tokens, list) and (not tokens or isinstance(tokens[0], int)):
            self._append(self._pointer, (ctypes.c_int32 * len(tokens))(*tokens), len(tokens))
        else:
            self._made.append_tokens(tokens)

    def get_next_tokens(self) -> Tokens:
        """What was chosen last, for each sequence."""
        self._next(self._pointer, ctypes.byref(self._out), ctypes.byref(self._count))
        return Tokens(self._out[: self._count.value])


class TokenizerCalls:
    """What a tokenizer is asked before the first token."""

    def __init__(self, native: Interface) -> None:
        out = (ctypes.POINTER(_TOKENS), ctypes.POINTER(_COUNT))
        self._ends = native.checked("OgaTokenizerGetEosTokenIds", POINTER, *out)
        self._encode = native.checked("OgaTokenizerEncode", POINTER, ctypes.c_char_p, POINTER)
        self._new = native.checked("OgaCreateSequences", ctypes.POINTER(POINTER))
        self._size = native.function("OgaSequencesGetSequenceCount", POINTER, _COUNT, returns=_COUNT)
        self._data = native.function("OgaSequencesGetSequenceData", POINTER, _COUNT, returns=_TOKENS)
        self._free = native.free("Sequences")

    def ends(self, tokenizer: int) -> Tokens:
        """The tokens that end an answer."""
        found, count = _TOKENS(), _COUNT()
        self._ends(tokenizer, ctypes.byref(found), ctypes.byref(count))
        return Tokens(found[: count.value])

    def encode(self, tokenizer: int, text: str) -> Tokens:
        """The tokens of ``text``."""
        made = POINTER()
        self._new(ctypes.byref(made))
        try:
            self._encode(tokenizer, text.encode(), made)
            return Tokens(self._data(made, 0)[: self._size(made, 0)])
        finally:
            self._free(made.value or 0)


class _Asked:
    """Learns from pybind11 what it calls a type, by being passed where an object of that type belongs."""

    key: tuple[object, ...] | None = None

    def _pybind11_conduit_v1_(self, *key: object) -> None:
        self.key = key


def _key(method: Callable[..., object]) -> tuple[object, ...] | None:
    asked = _Asked()
    with suppress(TypeError):  # it is none
        method(asked)
    return asked.key


def _pointer(capsule: object) -> int:
    api = ctypes.pythonapi
    api.PyCapsule_GetName.restype, api.PyCapsule_GetName.argtypes = ctypes.c_char_p, (ctypes.py_object,)
    api.PyCapsule_GetPointer.restype = POINTER
    api.PyCapsule_GetPointer.argtypes = (ctypes.py_object, ctypes.c_char_p)
    pointer: int = api.PyCapsule_GetPointer(capsule, api.PyCapsule_GetName(capsule))
    return pointer
