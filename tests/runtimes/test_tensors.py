from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from neuroshell_orch.errors import OrchError
from neuroshell_orch.runtimes.tensors import NUMPY_TYPES, check_inputs, from_numpy, to_numpy
from neuroshell_orch.workers.protocol import Tensor, TensorInfo

shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
plain = st.sampled_from([name for name in NUMPY_TYPES if name != "BYTES"])


@given(st.data(), plain, shapes)
def test_numbers_survive_bit_by_bit(data, datatype, shape):
    dtype = NUMPY_TYPES[datatype]
    size = math.prod(shape)
    if datatype == "BOOL":
        raw = bytes(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    else:
        raw = data.draw(st.binary(min_size=size * dtype.itemsize, max_size=size * dtype.itemsize))
    tensor = Tensor("x", datatype, list(shape), raw)
    assert from_numpy("x", datatype, to_numpy(tensor)) == tensor


@given(hnp.arrays(object, shapes, elements=st.text(st.characters(exclude_categories=["Cs"]), max_size=5)))
def test_strings_survive(array):
    back = to_numpy(from_numpy("x", "BYTES", array))
    assert back.shape == array.shape
    assert back.tolist() == array.tolist()


@given(st.binary(max_size=20), st.integers(0, 3))
def test_no_bytes_surprise_the_string_reader(data, count):
    try:
        array = to_numpy(Tensor("x", "BYTES", [count], data))
    except OrchError:
        return
    assert array.shape == (count,)


@pytest.mark.parametrize(
    ("datatype", "shape", "data"),
    [
        ("FP32", [2], b"1234567"),
        ("FP32", [-1], b""),
        ("FP31", [1], b"1234"),
        ("BYTES", [1], b"\x05\0\0\0abc"),
        ("BYTES", [1], b"\x01\0\0\0\xff"),
        ("BYTES", [1], b"\x01\0\0\0a\x01\0\0\0b"),
        ("INT64", [1 << 40, 1 << 40], b""),
    ],
)
def test_what_does_not_fit_is_refused_by_name(datatype, shape, data):
    with pytest.raises(OrchError, match="'x'") as refused:
        to_numpy(Tensor("x", datatype, shape, data))
    assert refused.value.problem == "bad-request"


DECLARED = [TensorInfo("a", "FP32", [-1, 2]), TensorInfo("b", "INT64", [])]


def tensor(name, datatype, shape):
    return Tensor(name, datatype, shape, b"")


@pytest.mark.parametrize(
    ("given_tensors", "words"),
    [
        ([tensor("c", "FP32", [1, 2])], "no input 'c'.*a FP32"),
        ([tensor("a", "FP32", [1, 2])], "'b' is missing"),
        ([tensor("a", "FP32", [1, 2]), tensor("a", "FP32", [1, 2])], "'a' is given twice"),
        ([tensor("a", "INT64", [1, 2])], "'a' has the type INT64"),
        ([tensor("a", "FP32", [1, 3])], r"'a' has the shape \[1, 3\]"),
        ([tensor("a", "FP32", [2])], r"'a' has the shape \[2\]"),
        ([tensor("a", "FP32", [-1, 2])], r"'a' has the shape \[-1, 2\]"),
    ],
)
def test_inputs_are_checked_against_the_declaration(given_tensors, words):
    with pytest.raises(OrchError) as refused:
        check_inputs(given_tensors, DECLARED)
    assert re.search(words, str(refused.value))


def test_inputs_that_fit():
    check_inputs([tensor("b", "INT64", []), tensor("a", "FP32", [0, 2])], DECLARED)
    check_inputs([tensor("a", "FP32", [7, 2])], DECLARED, optional=["b"])


def test_a_bool_is_nothing_but_0_and_1():
    assert to_numpy(Tensor("x", "BOOL", [2], b"\0\1")).tolist() == [False, True]
    with pytest.raises(OrchError, match="other than 0 and 1"):
        to_numpy(Tensor("x", "BOOL", [2], b"\1\2"))
