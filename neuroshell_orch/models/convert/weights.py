"""Turns GGUF blocks into what the kernels read: float32, or 4-bit blocks of 32 with a scale and a whole zero point.

Owns the arithmetic of quantisation. The CPU kernel is fast only with whole zero points (a float one costs fifty
times the time), so Q4_0 keeps its own blocks bit for bit, and every other type, Q4_1 with its free minimum included,
gets the scale and zero point with the least squared error. Knows nothing about graphs or which tensor is which.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Final

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


@dataclass(frozen=True)
class Int4:
    """A matrix of ``rows`` by ``columns``: packed nibbles, scales and zero points as MatMulNBits lays them out."""

    packed: NDArray[np.uint8]
    scales: NDArray[np.float32]
    zero_points: NDArray[np.uint8]


Floats = NDArray[np.float32]


def float_rows(file: GgufFile, entry: TensorEntry, start: int = 0, stop: int | None = None) -> Floats:
    """Rows ``start`` to ``stop`` of a tensor as float32. Values that are not finite are refused."""
    raw = file.data(entry, start, stop)
    try:
        values: Floats = dequantize(raw, entry.kind).astype(np.float32, copy=False)
    except NotImplementedError:
        file.invalid(f"tensor {entry.name!r}", f"has the block type {entry.kind.name}, which cannot be read")
    if not np.isfinite(values).all():
        file.invalid(f"tensor {entry.name!r}", "holds values that are not finite")
    return values.reshape(-1, entry.shape[-1])


def int4_rows(file: GgufFile, entry: TensorEntry) -> Int4:
    """The whole tensor in 4 bits."""
    rows, columns = prod(entry.shape[:-1]), entry.shape[-1]
    step = max(1, _CHUNK // columns)
    parts: list[Int4] = []
    for start in range(0, rows, step):
        if entry.kind is GGMLQuantizationType.Q4_0:
            parts.append(_keep_q4_0(file.data(entry, start, start + step)))
        else:
            parts.append(quantise(float_rows(file, entry, start, start + step)))
    return join(parts)


def join(parts: list[Int4]) -> Int4:
    """Matrices of the same width, one below the other."""
    if len(parts) == 1:
        return parts[0]
    return Int4(
        np.concatenate([part.packed for part in parts]),
        np.concatenate([part.scales for part in parts]),
        np.concatenate([part.zero_points for part in parts]),
    )


def quantise(values: Floats) -> Int4:
    """The best 4-bit blocks that a short search finds: the least squared error in each block of 32."""
    rows, columns = values.shape
    if columns % BLOCK:
        values = np.pad(values, ((0, 0), (0, BLOCK - columns % BLOCK)))
    blocks = values.reshape(-1, BLOCK)
    low = np.minimum(blocks.min(axis=1), 0)
    high = np.maximum(blocks.max(axis=1), 0)
    best_error = np.full(len(blocks), np.inf, dtype=np.float32)
    best_scale = np.zeros(len(blocks), dtype=np.float32)
    best_zero = np.zeros(len(blocks), dtype=np.float32)
    best_steps = np.zeros(blocks.shape, dtype=np.float32)
    for shrink in _SHRINK:
        scale = np.maximum((high - low) * np.float32(shrink / 15), np.float32(1e-12))
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
    nibbles = (best_steps + best_zero[:, None]).astype(np.uint8)
    return _pack(nibbles.reshape(rows, -1, BLOCK), best_scale.reshape(rows, -1), best_zero.astype(np.uint8))


def restore(matrix: Int4) -> Floats:
    """What the kernel makes of a matrix, as float32: for tests and for measuring the error."""
    rows, count, _ = matrix.packed.shape
    nibbles = np.stack([matrix.packed & 15, matrix.packed >> 4], axis=-1).reshape(rows, count, BLOCK)
    zero = np.stack([matrix.zero_points & 15, matrix.zero_points >> 4], axis=-1).reshape(rows, -1)[:, :count]
    steps = nibbles.astype(np.float32) - zero[..., None]
    return (steps * matrix.scales[..., None]).reshape(rows, -1)


def _pack(nibbles: NDArray[np.uint8], scales: Floats, zero: NDArray[np.uint8]) -> Int4:
    """Two neighbouring values a byte, the first in the low half; the same for neighbouring blocks' zero points."""
    rows, count = scales.shape
    zero = zero.reshape(rows, count)
    if count % 2:
        zero = np.pad(zero, ((0, 0), (0, 1)))
    return Int4(
        np.ascontiguousarray(nibbles[..., 0::2] | nibbles[..., 1::2] << 4),
        np.ascontiguousarray(scales, dtype=np.float32),
        np.ascontiguousarray(zero[:, 0::2] | zero[:, 1::2] << 4),
    )


def _keep_q4_0(raw: NDArray[np.uint8]) -> Int4:
    """Q4_0's blocks as they are: a half-precision scale, then 16 bytes with values i and i + 16; zero is 8."""
    rows = len(raw)
    blocks = raw.reshape(rows, -1, 18)
    scales = np.ascontiguousarray(blocks[..., :2]).view(np.float16)[..., 0].astype(np.float32)
    nibbles = np.concatenate([blocks[..., 2:] & 15, blocks[..., 2:] >> 4], axis=-1)
    return _pack(nibbles, scales, np.full(scales.shape, 8, dtype=np.uint8))
