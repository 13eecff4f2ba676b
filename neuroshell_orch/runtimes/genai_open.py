"""The opening of a genai folder: the graph with its weights, and beside it the tokenizer.

Owns the two native objects and their making. genai's own constructors hold the interpreter's lock, so one would begin
when the other is done; its C interface, called by ctypes, does not. Both are then handed to genai's Python classes by
pybind11's conduit, which exists to pass objects between bindings. Where a version of genai has no conduit its own
constructors are used. Must not know requests, templates or frames.
"""

from __future__ import annotations

import ctypes
import json
import sys
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from neuroshell_orch.marks import mark

if TYPE_CHECKING:
    from collections.abc import Callable

Native: TypeAlias = Any
"""An object of onnxruntime_genai, which comes without types."""

LIBRARY: Final = "libonnxruntime-genai.so"
_CONDUIT: Final = "_pybind11_conduit_v1_"
_POINTER: Final = ctypes.c_void_p


def open_model(og: Native, folder: Path, device: str, overlay: dict[str, Any]) -> tuple[Native, Native]:
    """The model and the tokenizer in ``folder``, made side by side. Raises RuntimeError with genai's own words."""
    library = Path(og.__file__).with_name(LIBRARY)
    if not hasattr(og.Model, _CONDUIT) or not library.is_file():
        return _one_by_one(og, folder, device, overlay)
    native = Interface(library)
    model = _Made("model", partial(native.model, folder, device, overlay))
    tokenizer = _Made("tokenizer", partial(native.tokenizer, folder))
    import numpy  # noqa: F401, ICN001, PLC0415 - genai's bindings import it with the first tokens

    try:
        opened = Opened(og.Model, model.result(), native.free("Model"))
    except RuntimeError:
        with suppress(RuntimeError):
            native.free("Tokenizer")(tokenizer.result())
        raise
    return opened, Opened(og.Tokenizer, tokenizer.result(), native.free("Tokenizer"))


def open_tokenizer(og: Native, folder: Path, model: Native) -> Native:
    """The tokenizer alone, of a model that is open; other threads go on meanwhile. Raises RuntimeError."""
    library = Path(og.__file__).with_name(LIBRARY)
    if not hasattr(og.Tokenizer, _CONDUIT) or not library.is_file():
        return og.Tokenizer(model)
    native = Interface(library)
    return Opened(og.Tokenizer, native.tokenizer(folder), native.free("Tokenizer"))


def _one_by_one(og: Native, folder: Path, device: str, overlay: dict[str, Any]) -> tuple[Native, Native]:
    config = og.Config(str(folder))
    config.clear_providers()
    if device != "cpu":
        config.append_provider(device)
    config.overlay(json.dumps(overlay))
    model = og.Model(config)
    return model, og.Tokenizer(model)


class Opened:
    """A native object that genai's Python functions take for one of ``kind``, and that has the methods of it."""

    def __init__(self, kind: type, pointer: int, free: Callable[[int], object]) -> None:
        self._kind = kind
        self._pointer = pointer
        self._free = free

    def _pybind11_conduit_v1_(self, _abi: bytes, _type: object, _kind: bytes) -> object:
        return _capsule(self._pointer, None, None)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever ``kind`` has
        found = getattr(self._kind, name)
        return found.__get__(self) if isinstance(found, property) else partial(found, self)

    def __del__(self) -> None:
        if not sys.is_finalizing():
            self._free(self._pointer)


class _Made:
    """Something that is made in a thread of its own."""

    def __init__(self, name: str, make: Callable[[], int]) -> None:
        self._name = name
        self._make = make
        self._pointer = 0
        self._error: RuntimeError | None = None
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._pointer = self._make()
            mark(self._name)
        except RuntimeError as error:
            self._error = error

    def result(self) -> int:
        """Its address. Raises RuntimeError as the making did."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._pointer


class Interface:
    """The few functions of genai's C interface that loading needs. Each returns None, or a result with an error."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self._text = self._function("OgaResultGetError", _POINTER, returns=ctypes.c_char_p)
        self._forget = self._function("OgaDestroyResult", _POINTER, returns=None)

    def model(self, folder: Path, device: str, overlay: dict[str, Any]) -> int:
        """Load the graph and its weights."""
        config = self._make("OgaCreateConfig", str(folder).encode())
        try:
            self._call("OgaConfigClearProviders", _POINTER(config))
            if device != "cpu":
                self._call("OgaConfigAppendProvider", _POINTER(config), device.encode())
            self._call("OgaConfigOverlay", _POINTER(config), json.dumps(overlay).encode())
            return self._make("OgaCreateModelFromConfig", _POINTER(config))
        finally:
            self.free("Config")(config)

    def tokenizer(self, folder: Path) -> int:
        """Load the tokenizer."""
        return self._make("OgaCreateTokenizerFromPath", str(folder).encode())

    def free(self, kind: str) -> Callable[[int], object]:
        """What ends the life of such an object."""
        destroy: Callable[[int], object] = self._function(f"OgaDestroy{kind}", _POINTER, returns=None)
        return destroy

    def _function(self, name: str, *takes: type, returns: type | None = _POINTER) -> Any:  # noqa: ANN401 - ctypes'
        function = self._library[name]
        function.argtypes, function.restype = takes, returns
        return function

    def _make(self, name: str, argument: bytes | ctypes.c_void_p) -> int:
        made = _POINTER()
        self._call(name, argument, ctypes.byref(made))
        return made.value or 0

    def _call(self, name: str, *arguments: Any) -> None:  # noqa: ANN401 - ctypes'
        takes = [ctypes.c_char_p if isinstance(argument, bytes) else _POINTER for argument in arguments]
        result = self._function(name, *takes)(*arguments)
        if result:
            text = self._text(result).decode("utf-8", "replace")
            self._forget(result)
            raise RuntimeError(text)


def _capsule(pointer: int, name: bytes | None, destructor: None) -> object:
    make = ctypes.pythonapi.PyCapsule_New
    make.restype = ctypes.py_object
    make.argtypes = (_POINTER, ctypes.c_char_p, _POINTER)
    capsule: object = make(pointer, name, destructor)
    return capsule
