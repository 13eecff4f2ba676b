"""Tensor models by onnxruntime: one ONNX file, with or without external data.

Owns the session: its options, the declared inputs and outputs, one run at a time. Types and checks are in
``tensors``, what a file may be is in ``files``. Never registers a library of custom operators.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec
import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as native

from neuroshell_orch.errors import OrchError
from neuroshell_orch.runtimes import base, devices, dummy, files, mappings, onnxheader, tensors
from neuroshell_orch.workers.protocol import Done, Generate, Infer, Load, Loaded, Tensor, TensorInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Native: TypeAlias = Any
"""An object of onnxruntime, which comes without types."""

FAILURES: Final[tuple[type[Exception], ...]] = (
    RuntimeError,
    ValueError,
    *(kind for kind in vars(native).values() if isinstance(kind, type) and issubclass(kind, Exception)),
)
_BFLOAT16: Final = 16
_CANCEL_SECONDS: Final = 0.02
_QUIET: Final = 50
"""Looks without a run between them, after which nobody looks until the next one."""
_DETAIL: Final = 400


def create() -> OnnxRuntime:
    """For the registry."""
    return OnnxRuntime()


class OnnxRuntime:
    """One tensor model."""

    def __init__(self) -> None:
        self._session: Native = None
        self._inputs: list[TensorInfo] = []
        self._outputs: list[TensorInfo] = []
        self._optional: list[str] = []
        self._unranked: list[str] = []
        self._weights = mappings.Weights([])

    @property
    def _version(self) -> str:
        return f"onnxruntime {onnxruntime.__version__}"

    def standby(self) -> str:
        """Load the dummy model and run it."""
        session = onnxruntime.InferenceSession(str(dummy.FOLDER / "model.onnx"), _options(1), ["CPUExecutionProvider"])
        (logits,) = session.run(None, {"input_ids": np.array([[1]], np.int64)})
        if int(logits.argmax()) != dummy.successor(1):
            raise OrchError("load-failed", "The runtime onnx computes wrong results on this machine.", "Reinstall it.")
        return self._version

    def load(self, load: Load) -> Loaded:
        """Load an ONNX file."""
        path = Path(os.path.realpath(load.path))
        if not path.exists():
            raise OrchError("file-missing", f"There is no {path}.", "Add the model again, or remove it.")
        if path.is_dir():
            raise OrchError("model-invalid", f"{path} is a folder.", "A tensor model is one ONNX file.")
        self._weights = mappings.Weights(files.check_onnx(path))
        device = devices.choose_device(load.options)
        providers = (["CUDAExecutionProvider"] if device == "cuda" else []) + ["CPUExecutionProvider"]
        try:
            session = onnxruntime.InferenceSession(str(path), _options(base.usable_threads(load.threads)), providers)
        except FAILURES as error:
            raise OrchError(
                "model-invalid",
                f"{path} cannot be loaded: {detail(error)}",
                "It may be damaged, or need operators that this onnxruntime does not have.",
            ) from error
        # onnxruntime shows a shape that is not declared like that of a scalar; only the file tells them apart.
        header = onnxheader.read_file(path)
        self._unranked = [value.name for value in (*header.inputs, *header.outputs) if value.shape is None]
        self._inputs = _declared(path, "input", session.get_inputs())
        self._optional = [value.name for value in session.get_overridable_initializers()]
        self._inputs += _declared(path, "input", session.get_overridable_initializers())
        self._outputs = _declared(path, "output", session.get_outputs())
        self._inputs, self._outputs = self._any_shape(self._inputs), self._any_shape(self._outputs)
        self._session = session
        return Loaded(
            seconds=0.0,
            runtime_version=self._version,
            device="cuda" if "CUDAExecutionProvider" in session.get_providers() else "cpu",
            can_hibernate=self._weights.can_hibernate(),
            inputs=self._inputs,
            outputs=self._outputs,
        )

    def _any_shape(self, infos: list[TensorInfo]) -> list[TensorInfo]:
        return [
            msgspec.structs.replace(info, shape=[-1]) if info.name in self._unranked and not info.shape else info
            for info in infos
        ]

    def hibernate(self) -> int:
        """Give the weights back, and what the allocator keeps of the last runs."""
        mappings.trim()
        return self._weights.give_back()

    def wake(self) -> None:
        """Fault the weights in."""
        self._weights.fault_in()

    def generate(self, request: Generate, emit: Callable[[str, int], None], cancelled: Callable[[], bool]) -> Done:  # noqa: ARG002
        """Not for tensor models."""
        raise OrchError("unsupported", "This model takes tensors; it cannot chat.", "Use `nsorch infer` with it.")

    def infer(self, request: Infer, cancelled: Callable[[], bool]) -> list[Tensor]:
        """Run the model once."""
        tensors.check_inputs(request.inputs, self._inputs, self._optional, self._unranked)
        wanted = self._wanted(request.outputs)
        names = [info.name for info in wanted]
        # Values of onnxruntime's own can be BF16 but not strings, and numpy's the other way round.
        raw = any(info.datatype == "BF16" for info in wanted)
        if raw and any(tensor.datatype == "BYTES" for tensor in request.inputs):
            raise OrchError("unsupported", "This model turns BYTES into BF16.", "Ask for outputs of another type.")
        feed = {tensor.name: _value(tensor, own=raw) for tensor in request.inputs}
        run = onnxruntime.RunOptions()
        run.log_severity_level = 4  # what goes wrong is told by the exception, and must not reach the journal
        try:
            with _WATCH.over(run, cancelled):
                values = (self._session.run_with_ort_values if raw else self._session.run)(names, feed, run)
        except FAILURES as error:
            if cancelled():
                raise OrchError("cancelled", "The request was cancelled.") from error
            raise OrchError(
                "answer-failed", f"The model failed: {detail(error)}", "Check the inputs' shapes and values."
            ) from error
        return [_tensor(info, value) for info, value in zip(wanted, values, strict=True)]

    def _wanted(self, names: list[str]) -> list[TensorInfo]:
        if not names:
            return self._outputs
        known = {info.name: info for info in self._outputs}
        for name in names:
            if name not in known:
                raise OrchError(
                    "bad-request",
                    f"The model has no output {name!r}.",
                    f"Its outputs are: {', '.join(map(tensors.describe, self._outputs))}.",
                )
        return [known[name] for name in names]


def open_session(path: Path, threads: int, providers: tuple[str, ...] = ("CPUExecutionProvider",)) -> Native:
    """A session as this runtime opens them; ``FAILURES`` come through as they are."""
    return onnxruntime.InferenceSession(str(path), _options(threads), list(providers))


def _options(threads: int) -> Native:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # The arena would keep the largest run's memory for as long as the model is loaded.
    options.enable_cpu_mem_arena = False
    return options


def _declared(path: Path, what: str, values: list[Native]) -> list[TensorInfo]:
    found: list[TensorInfo] = []
    for value in values:
        datatype = tensors.ORT_TYPES.get(value.type)
        if datatype is None:
            raise OrchError(
                "unsupported",
                f"The {what} {value.name!r} of {path} has the type {value.type}.",
                f"Only tensors of these types can be used: {', '.join(tensors.NUMPY_TYPES)}.",
            )
        shape = [size if isinstance(size, int) and size >= 0 else -1 for size in value.shape]
        found.append(TensorInfo(value.name, datatype, shape))
    return found


def _value(tensor: Tensor, *, own: bool) -> Native:
    """What onnxruntime takes for it: an array, which takes half as long, or a value of its ``own``."""
    array = tensors.to_numpy(tensor)
    if tensor.datatype == "BF16":
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array.copy(), _BFLOAT16)
    if tensor.datatype == "BYTES" or not own:
        return array
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def _tensor(info: TensorInfo, value: Native) -> Tensor:
    if info.datatype != "BF16":
        array = value if isinstance(value, np.ndarray) else value.numpy()
        return tensors.from_numpy(info.name, info.datatype, array)
    shape = [int(size) for size in value.shape()]
    data = ctypes.string_at(value.data_ptr(), int(np.prod(shape)) * 2)
    return Tensor(name=info.name, datatype="BF16", shape=shape, data=data)


class _Watch:
    """One thread that looks every moment whether the run under way is cancelled, and tells it to stop.

    A thread for each run would take longer than many a run. It lies down when there was nothing to watch for a while.
    """

    def __init__(self) -> None:
        self._run: tuple[Native, Callable[[], bool]] | None = None
        self._count = 0
        self._awake = threading.Event()
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def over(self, run: Native, cancelled: Callable[[], bool]) -> Iterator[None]:
        """While the model runs (without the interpreter's lock)."""
        self._run = (run, cancelled)
        self._count += 1
        if not self._awake.is_set():
            self._awake.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._look_for_ever, name="cancel", daemon=True)
            self._thread.start()
        try:
            yield
        finally:
            self._run = None

    def _look_for_ever(self) -> None:
        seen, quiet = 0, 0
        while True:
            time.sleep(_CANCEL_SECONDS)
            quiet = quiet + 1 if self._count == seen else 0
            seen = self._count
            if (watched := self._run) is not None:
                quiet = 0
                run, cancelled = watched
                if cancelled():
                    run.terminate = True
            elif quiet > _QUIET:
                self._awake.clear()
                if self._run is None:  # else a run began just now, and saw that nobody need be woken
                    self._awake.wait()


_WATCH: Final = _Watch()


def detail(error: Exception) -> str:
    """The sentence of an onnxruntime error, on one line and not too long."""
    return " ".join(str(error).split())[:_DETAIL]
