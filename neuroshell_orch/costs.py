"""What each model costs: estimated before its first load, measured afterwards, remembered across restarts.

Owns the estimate's arithmetic and the file ``costs.json`` in the state folder, keyed by what the figures depend on (the
artefact). Where a model was measured before any worker of ours served it, those figures take the place of the estimate;
they are told anew after each start, and not written to the file. Holds numbers only. Must not know what they are for.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from neuroshell_orch import encoders
from neuroshell_orch.config.write import write_file
from neuroshell_orch.core.budget import RAM, Bytes, Cost
from neuroshell_orch.core.figures import Figures, merged, with_memory, with_wake
from neuroshell_orch.errors import OrchError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from neuroshell_orch.core.warmth import Warmth

FILE: Final = "costs.json"
KEPT: Final = 2000
"""Artefacts that are remembered; the oldest are forgotten."""

RUNTIME_BYTES: Final = 64 << 20
"""An interpreter, a runtime and its libraries: a parked worker was measured at 50 MB."""
PREPACKING: Final = 2.2
"""Bytes in memory for each byte of weights: mapped once, and copied as the processor's kernels want them."""
CONTEXT_BYTES: Final = 600 << 20
"""What CUDA takes for itself in each process: 100 to 600 MiB were seen."""
DEEP: Final = 3
"""Levels of folders below a model's own that are looked through for graphs."""
FIRST_CACHE: Final = 2048
"""Tokens of key-value cache that an answer is sure to get; it grows on demand."""


class Costs:
    """Measured figures by artefact, kept in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._figures: dict[str, Figures] = self._read()
        self._initial: dict[str, Figures] = {}
        self._changed = False

    def begin_with(self, artefact: str, initial: Figures | None) -> None:
        """What was measured of it in advance, or None: it counts for what is not seen yet."""
        if initial is None:
            self._initial.pop(artefact, None)
        else:
            self._initial[artefact] = initial

    def cost(self, artefact: str, path: str, context: int, gpu: str | None = None, parallel: int = 1) -> Cost:
        """The cost of a model: what was seen, or else measured in advance, and an estimate for the rest.

        ``gpu`` is the accelerator that it would use if it can; ``parallel`` answers have a cache each.
        """
        seen = merged(self._figures.get(artefact, Figures()), self._initial.get(artefact, Figures()))
        guess = estimate(path, context, parallel)
        vram = seen.vram
        if vram is None:
            vram = {} if gpu is None else {gpu: estimate_vram(path, context, parallel)}
        return Cost(
            hot={RAM: seen.hot or guess[RAM], **vram},
            hibernated={RAM: min(seen.hibernated or guess[RAM], seen.hot or guess[RAM])},
            parked={RAM: seen.parked or RUNTIME_BYTES},
            wake_cold=seen.wake_cold or 1.0,
            wake_parked=seen.wake_parked or 0.7,
            wake_hibernated=seen.wake_hibernated or 0.2,
            measured=seen.hot > 0,
        )

    def saw_memory(self, artefact: str, warmth: Warmth, size: int) -> bool:
        """A worker took ``size`` bytes on this rung. Returns whether that changes its cost: HOT keeps the peak."""
        before = self._figures.get(artefact, Figures())
        after = with_memory(before, warmth, size)
        if after is not before:
            self._set(artefact, after)
        return after is not before

    def saw_vram(self, artefact: str, taken: dict[str, int]) -> bool:
        """A HOT worker holds so much of each accelerator. Returns whether that changes its cost; the peak is kept."""
        before = self._figures.get(artefact, Figures()).vram
        peak = taken if before is None else {name: max(before.get(name, 0), taken.get(name, 0)) for name in taken}
        if peak == before:
            return False
        self._set(artefact, msgspec.structs.replace(self._figures.get(artefact, Figures()), vram=peak))
        return True

    def saw_wake(self, artefact: str, warmth: Warmth, seconds: float) -> None:
        """A wake from this rung took ``seconds``."""
        before, initial = self._figures.get(artefact, Figures()), self._initial.get(artefact)
        self._set(artefact, with_wake(before, warmth, seconds, initial))

    def figures(self, artefact: str) -> Figures | None:
        """What was seen of it, or None; what was measured in advance is not among it."""
        return self._figures.get(artefact)

    def save(self) -> None:
        """Write what changed. Losing it costs an estimate, so a full disk is no reason to fail."""
        if self._changed:
            kept = dict(list(self._figures.items())[-KEPT:])
            with suppress(OSError):  # the next line says it better
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_file(self._path, msgspec.json.encode(kept).decode() + "\n")
            self._changed = False

    def _set(self, artefact: str, figures: Figures) -> None:
        self._figures.pop(artefact, None)  # what changed last stands last, and is forgotten last
        self._figures[artefact] = figures
        self._changed = True

    def _read(self) -> dict[str, Figures]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, Figures])
        except (OSError, msgspec.MsgspecError):
            return {}  # the first start, or a file that a crash of the machine cut off: measure again


def estimate(path: str, context: int, parallel: int = 1) -> Bytes:
    """Bytes that a model will take when it is HOT, from its files: weights, key-value caches, the runtime."""
    weights = sum(size for size in _sizes(Path(path).expanduser()))
    caches = cache_bytes(Path(path).expanduser(), context) * parallel
    return {RAM: RUNTIME_BYTES + int(weights * PREPACKING) + caches}


def estimate_vram(path: str, context: int, parallel: int = 1) -> int:
    """Bytes of an accelerator: the weights with room to copy, the key-value cache, CUDA's own context."""
    folder = Path(path).expanduser()
    return CONTEXT_BYTES + int(sum(_sizes(folder)) * 1.2) + cache_bytes(folder, context) * parallel


def cache_bytes(folder: Path, context: int) -> int:
    """Bytes of key-value cache for an answer's first tokens: layers, heads, their size, keys and values, in float32."""
    try:
        config: Any = json.loads((folder / "genai_config.json").read_bytes())["model"]
        decoder = config["decoder"]
        per_token = 2 * 4 * decoder["num_hidden_layers"] * decoder["num_key_value_heads"] * decoder["head_size"]
        return int(per_token) * min(context or FIRST_CACHE, FIRST_CACHE, int(config["context_length"]))
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _sizes(path: Path) -> list[int]:
    """The sizes of the files that hold weights: a graph and its data, or all graphs of a folder but an encoder's.

    An encoder's folder often has one graph in several precisions, of which one is loaded.
    """
    try:
        if not path.is_dir():
            return _with_data(path)
        if encoders.is_encoder(path):
            with suppress(OrchError):  # said when it is loaded
                return _with_data(path / encoders.read(path).graph)
        return list(_graphs(path, DEEP))
    except OSError:
        return []


def _with_data(graph: Path) -> list[int]:
    names = [entry for entry in os.scandir(graph.parent) if entry.name.startswith(graph.name)]
    return [e.stat().st_size for e in names if e.is_file() and (e.name == graph.name or e.name.endswith("data"))]


def _graphs(folder: Path, levels: int) -> Iterator[int]:
    for entry in os.scandir(folder):
        if entry.is_file() and "onnx" in entry.name:
            yield entry.stat().st_size
        elif levels > 0 and entry.is_dir(follow_symlinks=False):
            yield from _graphs(Path(entry.path), levels - 1)
