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
from typing import TYPE_CHECKING, Any, TypeAlias

from neuroshell_orch.marks import mark
from neuroshell_orch.runtimes import base, heap
from neuroshell_orch.runtimes.genai_native import POINTER, Interface, TokenizerCalls, Tokens, interface

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Native: TypeAlias = Any
"""An object of onnxruntime_genai, which comes without types."""


def open_model(
    og: Native, folder: Path, device: str, overlay: dict[str, Any], ready: Native | None = None
) -> tuple[Native, Native]:
    """The model and the tokenizer in ``folder``, made side by side unless one is ``ready``.

    Raises RuntimeError with genai's own words.
    """
    native = interface(og)
    if native is None:
        return _one_by_one(og, folder, device, overlay)
    begun, Begun.last = Begun.last, None
    if begun is None and ready is not None:
        model = _Made("model", partial(_model, native, folder, device, overlay))
        return Opened(og.Model, model.result(), native.free("Model")), ready
    if begun is None or begun.key != (folder, device, overlay):
        begun = Begun(native, folder, device, overlay)
    try:
        opened = Opened(og.Model, begun.model.result(), native.free("Model"))
    except RuntimeError:
        with suppress(RuntimeError):
            native.free("Tokenizer")(begun.tokenizer.result())
        raise
    return opened, Tokenizer(og, begun.tokenizer.result(), native)


def overlay_of(threads: int) -> dict[str, Any]:
    """What is changed in a model's own configuration."""
    return {"model": {"decoder": {"session_options": {"intra_op_num_threads": threads, **base.SESSION_ENTRIES}}}}


def begin_opening(native: Interface, folder: Path, device: str, overlay: dict[str, Any]) -> Begun:
    """Begin what ``open_model`` will be asked for."""
    Begun.last = Begun(native, folder, device, overlay)
    return Begun.last


class Begun:
    """A model and its tokenizer, each being made."""

    last: Begun | None = None
    """One that nobody has asked for yet."""

    def __init__(self, native: Interface, folder: Path, device: str, overlay: dict[str, Any]) -> None:
        self.key = (folder, device, overlay)
        self.model = _Made("model", partial(_model, native, folder, device, overlay))
        self.tokenizer = _Made("tokenizer", partial(_tokenizer, native, folder))


def open_tokenizer(og: Native, folder: Path, model: Native) -> Native:
    """The tokenizer alone, of a model that is open; other threads go on meanwhile. Raises RuntimeError."""
    native = interface(og)
    return og.Tokenizer(model) if native is None else Tokenizer(og, _tokenizer(native, folder), native)


def _one_by_one(og: Native, folder: Path, device: str, overlay: dict[str, Any]) -> tuple[Native, Native]:
    config = og.Config(str(folder))
    config.clear_providers()
    if device != "cpu":
        config.append_provider(device)
    config.overlay(json.dumps(overlay))
    model = og.Model(config)
    return model, og.Tokenizer(model)


def _model(native: Interface, folder: Path, device: str, overlay: dict[str, Any]) -> int:
    config = _new(native, "OgaCreateConfig", str(folder).encode())
    try:
        native.checked("OgaConfigClearProviders", POINTER)(config)
        if device != "cpu":
            native.checked("OgaConfigAppendProvider", POINTER, ctypes.c_char_p)(config, device.encode())
        native.checked("OgaConfigOverlay", POINTER, ctypes.c_char_p)(config, json.dumps(overlay).encode())
        with heap.loading():
            return _new(native, "OgaCreateModelFromConfig", config)
    finally:
        native.free("Config")(config)


def _tokenizer(native: Interface, folder: Path) -> int:
    return _new(native, "OgaCreateTokenizerFromPath", str(folder).encode())


def _new(native: Interface, name: str, argument: bytes | int) -> int:
    made = POINTER()
    takes = ctypes.c_char_p if isinstance(argument, bytes) else POINTER
    native.checked(name, takes, ctypes.POINTER(POINTER))(argument, ctypes.byref(made))
    return made.value or 0


class Opened:
    """A native object that genai's Python functions take for one of ``kind``, and that has the methods of it."""

    def __init__(self, kind: type, pointer: int, free: Callable[[int], object]) -> None:
        self._kind = kind
        self._pointer = pointer
        self._free = free

    def _pybind11_conduit_v1_(self, _abi: bytes, _type: object, _kind: bytes) -> object:
        return _capsule(self._pointer)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever ``kind`` has
        found = getattr(self._kind, name)
        return found.__get__(self) if isinstance(found, property) else partial(found, self)

    def __del__(self) -> None:
        if not sys.is_finalizing():
            self._free(self._pointer)


class Tokenizer(Opened):
    """A tokenizer whose tokens are lists."""

    def __init__(self, og: Native, pointer: int, native: Interface) -> None:
        super().__init__(og.Tokenizer, pointer, native.free("Tokenizer"))
        self._calls = TokenizerCalls(native)

    @property
    def eos_token_ids(self) -> Tokens:
        """The tokens that end an answer."""
        return self._calls.ends(self._pointer)

    def encode(self, text: str) -> Tokens:
        """The tokens of ``text``. Raises RuntimeError."""
        return self._calls.encode(self._pointer, text)


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


def _capsule(pointer: int) -> object:
    make = ctypes.pythonapi.PyCapsule_New
    make.restype, make.argtypes = ctypes.py_object, (POINTER, ctypes.c_char_p, POINTER)
    capsule: object = make(pointer, None, None)
    return capsule
