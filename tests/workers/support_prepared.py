"""What tests of prepared copies share: a model with its copy, harm to a copy, an order for a load."""

from __future__ import annotations

import asyncio
import os
import shutil

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from neuroshell_orch.planning import Order
from neuroshell_orch.workers import prepared
from neuroshell_orch.workers.protocol import Load


def make_copy(root):
    """A model and the cache with its copy, made by the real process."""
    source = root / "m.onnx"
    weights = numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 64]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "m", ends[:1], ends[1:], [weights])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), source)
    path, manifest = asyncio.run(prepared.make(root / "cache", source, tune=True))
    return source, root / "cache", path, manifest


def private(made, folder):
    """A copy of that cache to do harm to: the source, the cache, the folder in it."""
    source, cache, path, _ = made
    shutil.copytree(cache, folder / "cache")
    return source, folder / "cache", folder / "cache" / "prepared" / path.parent.name


def data_file(folder):
    (path,) = folder.glob("*.data")
    return path


def cut_off(folder):
    os.truncate(data_file(folder), 4096)


def order(source, prepare="make", **keys):
    return Order(Load("m", "onnx", str(source), options={"device": "cpu"}, **keys), None, prepare)
