"""The arithmetic of quantisation: what is promised to be exact is, and the rest is near."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize, quantize
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from neuroshell_orch.errors import OrchError
from neuroshell_orch.models.convert.gguf_file import GgufFile
from neuroshell_orch.models.convert.weights import (
    BLOCK,
    below,
    beside,
    float_rows,
    int4_rows,
    int8_rows,
    quantise4,
    quantise8,
    restore,
)

Kind = GGMLQuantizationType
ROWS, COLUMNS = 6, 512


def one_tensor(folder: Path, kind: Kind, raw: np.ndarray) -> GgufFile:
    path = folder / "one.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_tensor("t", raw, raw_dtype=None if kind is Kind.F32 else kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return GgufFile(path)


def random_values(seed: int = 0) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(seed)).standard_normal((ROWS, COLUMNS)).astype(np.float32)


def random_q4_k() -> np.ndarray:
    """Q4_K blocks with any bits but for scales that are sane."""
    random = np.random.Generator(np.random.PCG64(4))
    block, size = GGML_QUANT_SIZES[Kind.Q4_K]
    raw = random.integers(0, 256, (ROWS, COLUMNS // block, size), dtype=np.uint8)
    raw[..., :4] = random.uniform(0.001, 0.01, (*raw.shape[:2], 2)).astype(np.float16).view(np.uint8)
    return raw.reshape(ROWS, -1)


@pytest.mark.parametrize("kind", [Kind.Q4_0, Kind.Q4_1, Kind.Q4_K])
def test_4_bit_types_keep_their_grid(kind: Kind, tmp_path: Path):
    raw = random_q4_k() if kind is Kind.Q4_K else quantize(random_values(), kind)
    with one_tensor(tmp_path, kind, raw) as file:
        matrix, offsets = int4_rows(file, file.tensors["t"], offsets=True)
    rebuilt = restore(matrix) + np.repeat(offsets, BLOCK, axis=1)
    np.testing.assert_allclose(rebuilt, dequantize(raw, kind), atol=1e-5)
    assert offsets.any() == (kind is not Kind.Q4_0)


def test_without_offsets_q4_1_is_rounded_and_q4_0_is_not(tmp_path: Path):
    for kind, least, most in ((Kind.Q4_0, 0.0, 1e-6), (Kind.Q4_1, 0.01, 0.1)):
        raw = quantize(random_values(), kind)
        with one_tensor(tmp_path, kind, raw) as file:
            matrix, offsets = int4_rows(file, file.tensors["t"], offsets=False)
        error = np.abs(restore(matrix) - dequantize(raw, kind)).mean()
        assert least <= error < most
        assert not offsets.any()


def test_q8_0_is_exact_in_8_bits(tmp_path: Path):
    raw = quantize(random_values(), Kind.Q8_0)
    with one_tensor(tmp_path, Kind.Q8_0, raw) as file:
        np.testing.assert_allclose(restore(int8_rows(file, file.tensors["t"])), dequantize(raw, Kind.Q8_0), atol=1e-6)


@pytest.mark.parametrize("kind", [Kind.F32, Kind.F16, Kind.BF16, Kind.Q5_0, Kind.Q8_0])
def test_other_types_come_near(kind: Kind, tmp_path: Path):
    values = random_values()
    with one_tensor(tmp_path, kind, values if kind is Kind.F32 else quantize(values, kind)) as file:
        entry = file.tensors["t"]
        exact = float_rows(file, entry)
        assert np.abs(exact - values).mean() < 0.05
        assert np.abs(restore(int4_rows(file, entry, offsets=True).matrix) - exact).mean() < 0.1
        np.testing.assert_array_equal(float_rows(file, entry, 2, 4), exact[2:4])


def test_values_that_are_not_finite_are_refused(tmp_path: Path):
    values = random_values()
    values[3, 7] = np.inf
    with one_tensor(tmp_path, Kind.F32, values) as file, pytest.raises(OrchError, match=r"'t'.*not finite"):
        float_rows(file, file.tensors["t"])


FLOATS = arrays(np.float32, (2, 96), elements=st.floats(-1e4, 1e4, width=32))


@settings(max_examples=60, deadline=None)
@given(FLOATS)
def test_errors_stay_within_a_step(values: np.ndarray):
    blocks = values.reshape(-1, BLOCK)
    spread = np.maximum(blocks.max(1), 0) - np.minimum(blocks.min(1), 0)
    four = np.abs(restore(quantise4(values)) - values).reshape(-1, BLOCK)
    assert (np.square(four).sum(1) <= BLOCK * np.square(spread / 15) + 1e-6).all()
    eight = np.abs(restore(quantise8(values)) - values).reshape(-1, BLOCK)
    assert (eight.max(1) <= np.abs(blocks).max(1) / 127 * 0.51 + 1e-6).all()


def test_a_row_that_is_no_multiple_of_the_block_is_filled_up():
    values = random_values()[:, :40]
    matrix = quantise4(values)
    assert matrix.packed.shape == (ROWS, 2, BLOCK // 2)
    assert np.abs(restore(matrix)[:, :40] - values).max() < 0.4
    assert not restore(matrix)[:, 40:].any()


def test_parts_are_put_together():
    left, right = quantise4(random_values(1)[:, :96]), quantise4(random_values(2)[:, :32])
    np.testing.assert_array_equal(restore(beside(left, right)), np.hstack([restore(left), restore(right)]))
    np.testing.assert_array_equal(restore(below([left, left])), np.vstack([restore(left), restore(left)]))
    zeros = left.packed_zeros()
    assert zeros is not None
    assert left.zeros is not None
    assert zeros.shape == (ROWS, 2)
    np.testing.assert_array_equal(zeros[:, 0] >> 4, left.zeros[:, 1])
