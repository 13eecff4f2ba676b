"""Turns GGUF blocks into what the kernels read: float32, or blocks of 32 in 4 or 8 bits with a scale.

Owns the arithmetic of quantisation. The CPU kernel is fast only with whole zero points (a float one costs fifty
times the time), but Q4_1 and Q4_K have a free minimum in each block: those keep their own grid, with the nearest whole
zero point, and what is left over is handed out as one *offset* per block, for ``matrices`` to multiply by the block's
mean. Rounding it away instead costs a quarter in perplexity. Q4_0 and Q8_0 keep their blocks bit for bit; every other
type gets the scale and zero point with the least squared error. Knows nothing about graphs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Final, NamedTuple

import numpy as np
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray

from neuroshell_orch.models.convert.gguf_file import GgufFile, TensorEntry

BLOCK: Final = 32
_CHUNK: Final = 1 << 22
"""Values handled at a time: bounds the memory that a conversion takes beside its largest tensor."""
_SHRINK: Final = (1.0, 0.95, 0.9, 0.85)
"""Fractions of a block's range to try: giving up the outermost values can fit the others better."""
_TINY: Final = np.float32(1e-20)

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Quantised:
    """A matrix as MatMulNBits lays it out: ``packed`` [rows, blocks, bytes], ``scales`` and ``zeros`` [rows, blocks].

    A matrix in 8 bits has no ``zeros``: its zero is 128.
    """

    packed: Bytes
    scales: Floats
    zeros: Bytes | None

    def rows(self, order: NDArray[np.intp]) -> Quantised:
        """The same matrix with its rows in another order."""
        return Quantised(self.packed[order], self.scales[order], None if self.zeros is None else self.zeros[order])

    def packed_zeros(self) -> Bytes | None:
        """The zero points of neighbouring blocks, two a byte, as the kernel reads them."""
        if self.zeros is None:
            return None
        points = np.pad(self.zeros, ((0, 0), (0, self.zeros.shape[1] % 2)))
        packed: Bytes = np.bitwise_or(points[:, 0::2], points[:, 1::2] << 4, dtype=np.uint8)
        return packed


class Affine(NamedTuple):
    """A matrix in 4 bits and the offset of each of its blocks: value = scale * (nibble - zero) + offset."""

    matrix: Quantised
    offsets: Floats


def float_rows(file: GgufFile, entry: TensorEntry, start: int = 0, stop: int | None = None) -> Floats:
    """Rows ``start`` to ``stop`` of a tensor as float32. Values that are not finite are refused."""
    raw = file.data(entry, start, stop)
    try:
        with np.errstate(all="ignore"):
            values: Floats = dequantize(raw, entry.kind).astype(np.float32, copy=False)
    except NotImplementedError:
        file.invalid(f"tensor {entry.name!r}", f"has the block type {entry.kind.name}, which cannot be read")
    if not np.isfinite(values).all():
        file.invalid(f"tensor {entry.name!r}", "holds values that are not finite")
    return values.reshape(-1, entry.shape[-1])


def int4_rows(file: GgufFile, entry: TensorEntry, *, offsets: bool) -> Affine:
    """The whole tensor in 4 bits. Its offsets are zero where the type has none, or where they are not wanted."""
    parts = [_int4(file, entry, start, stop, offsets=offsets) for start, stop in _chunks(entry)]
    return Affine(below([part.matrix for part in parts]), np.concatenate([part.offsets for part in parts]))


def int8_rows(file: GgufFile, entry: TensorEntry) -> Quantised:
    """The whole tensor in 8 bits, symmetric: exact for Q8_0, and next to exact for everything coarser."""
    return below([quantise8(float_rows(file, entry, start, stop)) for start, stop in _chunks(entry)])


def below(parts: list[Quantised]) -> Quantised:
    """Matrices of the same width and kind, one below the other."""
    return _joined(parts, 0)


def beside(left: Quantised, right: Quantised) -> Quantised:
    """Two matrices of the same height and kind, the second to the right of the first."""
    return _joined([left, right], 1)


def _joined(parts: list[Quantised], axis: int) -> Quantised:
    zeros = [part.zeros for part in parts if part.zeros is not None]
    return Quantised(
        np.concatenate([part.packed for part in parts], axis),
        np.concatenate([part.scales for part in parts], axis),
        np.concatenate(zeros, axis) if zeros else None,
    )


def quantise4(values: Floats) -> Quantised:
    """The best 4-bit blocks that a short search finds: the least squared error in each block of 32."""
    blocks = _blocks(values)
    low, high = np.minimum(blocks.min(axis=1), 0), np.maximum(blocks.max(axis=1), 0)
    best_error = np.full(len(blocks), np.inf, dtype=np.float32)
    best_scale = np.zeros(len(blocks), dtype=np.float32)
    best_zero = np.zeros(len(blocks), dtype=np.float32)
    best_steps = np.zeros(blocks.shape, dtype=np.float32)
    for shrink in _SHRINK:
        scale = np.maximum((high - low) * np.float32(shrink / 15), _TINY)
        zero = np.clip(np.rint(-low * np.float32(shrink) / scale), 0, 15)
        steps = np.rint(blocks / scale[:, None])
        np.clip(steps, -zero[:, None], (15 - zero)[:, None], out=steps)
        square = np.einsum("ij,ij->i", steps, steps)
        product = np.einsum("ij,ij->i", steps, blocks)
        scale = product / np.maximum(square, np.float32(1))
        error = -product * scale  # the squared error less the block's own square, which is the same for each try
        better = error < best_error
        best_error[better], best_scale[better], best_zero[better] = error[better], scale[better], zero[better]
        best_steps[better] = steps[better]
    rows = len(values)
    nibbles = (best_steps + best_zero[:, None]).reshape(rows, -1, BLOCK)
    return _pack4(nibbles, best_scale.reshape(rows, -1), best_zero.reshape(rows, -1))


def quantise8(values: Floats) -> Quantised:
    """Blocks of 32 in 8 bits around 128."""
    blocks = _blocks(values)
    scale = np.abs(blocks).max(axis=1) / np.float32(127)
    steps = np.rint(blocks / np.maximum(scale, _TINY)[:, None])
    packed = (steps + 128).astype(np.uint8).reshape(len(values), -1, BLOCK)
    return Quantised(packed, scale.astype(np.float32).reshape(len(values), -1), None)


def affine4(nibbles: Bytes, scale: Floats, minimum: Floats) -> Affine:
    """Blocks of value = scale * nibble + minimum, their grid kept as it is. ``nibbles`` is [rows, blocks, 32]."""
    zero = np.divide(-minimum, scale, out=np.zeros_like(scale), where=scale != 0)
    zero = np.clip(np.rint(zero), 0, 15)
    return Affine(_pack4(nibbles, scale, zero), minimum + scale * zero)


def restore(matrix: Quantised) -> Floats:
    """What the kernel makes of a matrix, as float32: for tests and for measuring the error."""
    rows, count, _ = matrix.packed.shape
    if matrix.zeros is None:
        steps = matrix.packed.astype(np.float32) - 128
    else:
        nibbles = np.stack([matrix.packed & 15, matrix.packed >> 4], axis=-1).reshape(rows, count, BLOCK)
        steps = nibbles.astype(np.float32) - matrix.zeros[..., None]
    return (steps * matrix.scales[..., None]).reshape(rows, -1)


def _chunks(entry: TensorEntry) -> list[tuple[int, int]]:
    rows, step = prod(entry.shape[:-1]), max(1, _CHUNK // entry.shape[-1])
    return [(start, min(start + step, rows)) for start in range(0, rows, step)]


def _int4(file: GgufFile, entry: TensorEntry, start: int, stop: int, *, offsets: bool) -> Affine:
    split = _SPLITS.get(entry.kind)
    if split is None or not (offsets or entry.kind is GGMLQuantizationType.Q4_0):
        matrix = quantise4(float_rows(file, entry, start, stop))
        return Affine(matrix, np.zeros_like(matrix.scales))
    nibbles, scale, minimum = split(file.data(entry, start, stop))
    if not (np.isfinite(scale).all() and np.isfinite(minimum).all()):
        file.invalid(f"tensor {entry.name!r}", "holds values that are not finite")
    return affine4(nibbles, scale, minimum)


def _blocks(values: Floats) -> Floats:
    """Blocks of 32, the last one of a row filled up with zeros."""
    columns = values.shape[1]
    if columns % BLOCK:
        values = np.pad(values, ((0, 0), (0, BLOCK - columns % BLOCK)))
    return values.reshape(-1, BLOCK)


def _pack4(nibbles: NDArray[np.generic], scale: Floats, zero: Floats) -> Quantised:
    """Two neighbouring values a byte, the first in the low half."""
    small = nibbles.astype(np.uint8)
    packed = np.bitwise_or(small[..., 0::2], small[..., 1::2] << 4, dtype=np.uint8)
    return Quantised(packed, np.ascontiguousarray(scale, dtype=np.float32), zero.astype(np.uint8))


# ---- the 4-bit types' own layouts: a scale in half precision, then nibbles, value i in the low half of its byte ----


def _halves(raw: Bytes) -> Floats:
    return np.ascontiguousarray(raw).view(np.float16)[..., 0].astype(np.float32)


def _nibbles(raw: Bytes) -> Bytes:
    """Low halves, then high halves, of the last axis."""
    return np.concatenate([raw & 15, raw >> 4], axis=-1)


def _split_q4_0(raw: Bytes) -> tuple[Bytes, Floats, Floats]:
    blocks = raw.reshape(len(raw), -1, 18)
    scale = _halves(blocks[..., :2])
    return _nibbles(blocks[..., 2:]), scale, scale * np.float32(-8)


def _split_q4_1(raw: Bytes) -> tuple[Bytes, Floats, Floats]:
    blocks = raw.reshape(len(raw), -1, 20)
    return _nibbles(blocks[..., 4:]), _halves(blocks[..., :2]), _halves(blocks[..., 2:4])


def _split_q4_k(raw: Bytes) -> tuple[Bytes, Floats, Floats]:
    """Eight blocks share a scale and a minimum, each multiplied by 6 bits of the block's own."""
    groups = raw.reshape(len(raw), -1, 144)
    first, second, third = groups[..., 4:8], groups[..., 8:12], groups[..., 12:16]
    factors = np.concatenate([first & 63, (third & 15) | (first >> 6 << 4)], axis=-1)
    minima = np.concatenate([second & 63, (third >> 4) | (second >> 6 << 4)], axis=-1)
    scale = _halves(groups[..., :2])[..., None] * factors
    minimum = _halves(groups[..., 2:4])[..., None] * minima
    nibbles = _nibbles(groups[..., 16:].reshape(*groups.shape[:2], 4, 32)).reshape(len(raw), -1, BLOCK)
    return nibbles, scale.reshape(len(raw), -1), -minimum.reshape(len(raw), -1)


_SPLITS: Final[dict[GGMLQuantizationType, Callable[[Bytes], tuple[Bytes, Floats, Floats]]]] = {
    GGMLQuantizationType.Q4_0: _split_q4_0,
    GGMLQuantizationType.Q4_1: _split_q4_1,
    GGMLQuantizationType.Q4_K: _split_q4_k,
}
