"""The cache of several answers side by side, and the passes that take all of them one token further at once.

Owns the graph as an onnxruntime session, one row of key-value cache for each answer, and what each row has read. Where
one answer reads all weights for one token, four read them for four, which on a processor gives twice the tokens. genai
itself cannot do that for answers that begin at different times, so its part here is the tokenizer and the choice of
tokens. A row is never computed alone, but beside an idle one: another kernel would take it that rounds differently, and
an answer would depend on who else asks. Must not know requests, text or how tokens are chosen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from neuroshell_orch.runtimes import base, heap
from neuroshell_orch.runtimes.genai_kept import LEAST, shared_by

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Native: TypeAlias = Any

_SMALLEST: Final = 1024
"""Tokens that a row has room for at first; it doubles, and memory is only taken where something is written."""
_KINDS: Final = {"tensor(float)": "float32", "tensor(float16)": "float16"}
_ATTENTION: Final = b"GroupQueryAttention"


class Form(NamedTuple):
    """The names of a graph's inputs and outputs, from the model's configuration."""

    file: str
    tokens: str
    mask: str
    positions: str
    past: list[str]
    present: list[str]
    logits: str


def form_of(config: Any) -> Form | None:  # noqa: ANN401 - JSON
    """How the graph is driven, or None where it is not a plain decoder whose cache is one buffer."""
    try:
        decoder = config["model"]["decoder"]
        inputs, outputs, layers = decoder["inputs"], decoder["outputs"], int(decoder["num_hidden_layers"])
        if {"pipeline", "sliding_window"} & decoder.keys() or not config["search"]["past_present_share_buffer"]:
            return None
        return Form(
            decoder["filename"],
            inputs["input_ids"],
            inputs["attention_mask"],
            inputs.get("position_ids", ""),
            [inputs[f"past_{kind}_names"] % n for n in range(layers) for kind in ("key", "value")],
            [outputs[f"present_{kind}_names"] % n for n in range(layers) for kind in ("key", "value")],
            outputs["logits"],
        )
    except (KeyError, TypeError, ValueError):
        return None


def open_rows(folder: Path, config: Any, threads: int, rows: int, context: int) -> Rows | None:  # noqa: ANN401
    """Load the graph for ``rows`` answers at once, or None where it has another form. Raises RuntimeError."""
    form = form_of(config)
    if form is None or _ATTENTION not in (folder / form.file).read_bytes():
        return None
    import onnxruntime  # noqa: PLC0415 - it takes long to import, and only this needs it

    from neuroshell_orch.runtimes import onnx  # noqa: PLC0415 - likewise

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4
    for key, value in base.SESSION_ENTRIES.items():
        options.add_session_config_entry(key, value)
    try:
        with heap.loading():
            session = onnxruntime.InferenceSession(str(folder / form.file), options, ["CPUExecutionProvider"])
    except onnx.FAILURES as error:
        raise RuntimeError(onnx.detail(error)) from error
    inputs = {value.name: value for value in session.get_inputs()}
    positions = form.positions if form.positions in inputs else ""
    wanted = {form.tokens, form.mask, *form.past, *([positions] if positions else [])}
    cache = inputs.get(form.past[0]) if form.past else None
    if set(inputs) != wanted or cache is None or cache.type not in _KINDS or len(cache.shape) != 4:
        return None
    if not isinstance(cache.shape[1], int) or not isinstance(cache.shape[3], int):
        return None
    return Rows(session, form._replace(positions=positions), max(rows, 2), context, onnx.FAILURES)


class Rows:
    """``count`` rows. Raises RuntimeError where a pass fails."""

    def __init__(
        self, session: Native, form: Form, count: int, context: int, failures: tuple[type[Exception], ...]
    ) -> None:
        import numpy  # noqa: ICN001, PLC0415 - with the session it is there

        self._np = numpy
        self._session = session
        self._form = form
        self._failures = failures
        self._context = context
        cache = next(value for value in session.get_inputs() if value.name == form.past[0])
        self._heads, self._size, self._kind = cache.shape[1], cache.shape[3], _KINDS[cache.type]
        logits = next(value for value in session.get_outputs() if value.name == form.logits)
        self._logits_kind = _KINDS.get(logits.type, "float32")
        self._vocabulary = int(logits.shape[2])
        self._only_last = logits.shape[1] == 1
        self._logits: Native = None
        self._caches: list[Native] = []
        self._length = 0
        self._bindings: dict[tuple[int, int], Native] = {}
        self.tokens: list[list[int]] = [[] for _ in range(count)]
        """What each row has read."""
        self._busy: set[int] = set()

    # ---- rows ----

    def take(self, prompt: list[int]) -> tuple[int, int]:
        """A free row, and how many tokens at the beginning of ``prompt`` it has read. Below 0: there is none."""
        free = [row for row in range(len(self.tokens)) if row not in self._busy]
        if not free:
            return -1, 0
        shared, row = max((shared_by(self.tokens[row], prompt), -row) for row in free)
        row = -row
        if shared < LEAST:
            shared, row = 0, min(free, key=lambda row: (len(self.tokens[row]), row))
        self._busy.add(row)
        del self.tokens[row][shared:]
        return row, shared

    def give(self, row: int, *, keep: bool) -> None:
        """An answer has ended; what its row has read may be kept for the next."""
        self._busy.discard(row)
        if not keep:
            self.tokens[row].clear()

    def closer(self, row: int, low: int) -> int:
        """Move an answer to a free row between ``low`` and its own, if there is one; where it is then."""
        free = [other for other in range(low, row) if other not in self._busy]
        if not free:
            return row
        other, length = free[0], len(self.tokens[row])
        for cache in self._caches:
            cache[other, :, :length] = cache[row, :, :length]
        self._busy.discard(row)
        self._busy.add(other)
        self.tokens[other], self.tokens[row] = self.tokens[row], []
        return other

    def drop(self) -> None:
        """Give up all that is kept."""
        for row, tokens in enumerate(self.tokens):
            if row not in self._busy:
                tokens.clear()
        if not self._busy:
            self._shrink()
            self._caches, self._length, self._logits = [], 0, None
            self._bindings.clear()

    def _shrink(self) -> None:
        """Have onnxruntime give its arena back, which only a run can tell it to: the shortest there is."""
        import onnxruntime  # noqa: PLC0415 - it is there by now

        options = onnxruntime.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        self._pass(0, 1, [[0]], [1], options)

    # ---- passes ----

    def read(self, row: int, tokens: list[int]) -> Native:
        """Take in a piece of a text: the logits of what comes next. They hold until the next pass."""
        if len(tokens) == 1:
            return self.step({row: tokens[0]})[row]
        at = len(self.tokens[row])
        logits = self._pass(row, row + 1, [tokens], [at + len(tokens)])
        self.tokens[row] += tokens
        return logits[0, -1]

    def step(self, tokens: dict[int, int]) -> dict[int, Native]:
        """One token more in each of these rows: the logits of what comes next. They hold until the next pass."""
        low, high = min(tokens), max(tokens) + 1
        if high - low == 1:
            low, high = (low, high + 1) if high < len(self.tokens) else (low - 1, high)
        # An idle row in between computes something too, behind all that it has read.
        rows = range(low, high)
        ids = [[tokens.get(row, 0)] for row in rows]
        logits = self._pass(low, high, ids, [len(self.tokens[row]) + 1 for row in rows])
        for row, token in tokens.items():
            self.tokens[row].append(token)
        return {row: logits[row - low, -1] for row in tokens}

    def _pass(self, low: int, high: int, tokens: list[list[int]], lengths: list[int], options: Native = None) -> Native:
        np, form = self._np, self._form
        self._make_room(max(lengths))
        binding = self._binding(low, high)
        ids = np.array(tokens, np.int64)
        mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
        binding.bind_cpu_input(form.tokens, ids)
        binding.bind_cpu_input(form.mask, mask)
        if form.positions:
            places = np.array(lengths, np.int64)[:, None] - ids.shape[1] + np.arange(ids.shape[1])
            binding.bind_cpu_input(form.positions, np.ascontiguousarray(places))
        logits = self._logits_for(high - low, ids.shape[1])
        binding.bind_output(form.logits, "cpu", 0, logits.dtype, logits.shape, logits.ctypes.data)
        try:
            self._session.run_with_iobinding(binding, options)
        except self._failures as error:
            raise RuntimeError(f"{type(error).__name__} in a pass of {high - low} answers") from error
        return logits.astype(np.float32, copy=False)

    def _logits_for(self, rows: int, tokens: int) -> Native:
        shape = (rows, 1 if self._only_last else tokens, self._vocabulary)
        if self._logits is None or self._logits.shape != shape:
            self._logits = self._np.empty(shape, self._logits_kind)
        return self._logits

    def _make_room(self, length: int) -> None:
        if length <= self._length:
            return
        longer = max(_SMALLEST, self._length)
        while longer < length:
            longer *= 2
        longer = max(length, min(longer, self._context))
        shape = (len(self.tokens), self._heads, longer, self._size)
        for number, cache in enumerate(self._fresh(shape)):
            if number < len(self._caches):
                for row, tokens in enumerate(self.tokens):
                    cache[row, :, : len(tokens)] = self._caches[number][row, :, : len(tokens)]
                self._caches[number] = cache
            else:
                self._caches.append(cache)
        self._length = longer
        self._bindings.clear()

    def _fresh(self, shape: tuple[int, ...]) -> Iterator[Native]:
        for _ in self._form.past:
            yield self._np.zeros(shape, self._kind)

    def _binding(self, low: int, high: int) -> Native:
        """The caches of these rows, bound once: a hundred names take as long to bind as a token takes to choose."""
        if (low, high) not in self._bindings:
            binding = self._session.io_binding()
            names = zip(self._form.past, self._form.present, self._caches, strict=True)
            for past, present, cache in names:
                rows = cache[low:high]
                place = ("cpu", 0, rows.dtype, rows.shape, rows.ctypes.data)
                binding.bind_input(past, *place)
                binding.bind_output(present, *place)
            self._bindings[low, high] = binding
        return self._bindings[low, high]
