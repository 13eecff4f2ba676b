"""Runs a converted folder by onnxruntime alone: logits of a sequence, greedy answers through the cache, perplexity."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime


class Model:
    """One folder. ``state`` is the cache between calls."""

    def __init__(self, folder: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 2
        self.session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
        self.caches = {i.name: i.shape for i in self.session.get_inputs() if i.name.startswith("past_key_values")}
        self.outputs = [o.name for o in self.session.get_outputs()]

    def empty(self) -> dict[str, np.ndarray]:
        return {name: np.zeros((1, shape[1], 0, shape[3]), np.float32) for name, shape in self.caches.items()}

    def step(self, ids: list[int], state: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        past = next(iter(state.values())).shape[2]
        feed = {
            "input_ids": np.array([ids], dtype=np.int64),
            "attention_mask": np.ones((1, past + len(ids)), dtype=np.int64),
            **state,
        }
        results = dict(zip(self.outputs, self.session.run(None, feed), strict=True))
        state = {name: results[name.replace("past_key_values", "present")] for name in state}
        return results["logits"][0], state

    def logits(self, ids: list[int]) -> np.ndarray:
        return self.step(ids, self.empty())[0]

    def greedy(self, ids: list[int], count: int, end: int) -> tuple[np.ndarray, list[int]]:
        """The logits behind ``ids``, and the answer."""
        scores, state = self.step(ids, self.empty())
        first, answer = scores[-1], []
        while True:
            answer.append(int(scores[-1].argmax()))
            if len(answer) == count or answer[-1] == end:
                return first, answer
            scores, state = self.step(answer[-1:], state)

    def loss(self, ids: list[int], window: int = 256) -> float:
        """Mean negative log-likelihood of each token after the first of its window."""
        total, count = 0.0, 0
        for start in range(0, len(ids) - 1, window):
            part = ids[start : start + window]
            if len(part) < 2:
                continue
            scores = self.logits(part)[:-1].astype(np.float64)
            scores -= scores.max(axis=1, keepdims=True)
            chosen = scores[np.arange(len(part) - 1), part[1:]]
            total += float((np.log(np.exp(scores).sum(axis=1)) - chosen).sum())
            count += len(part) - 1
        return total / count
