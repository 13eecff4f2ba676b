"""A runtime whose vectors can be foretold: selected by ``NSORCH_RUNTIMES=encoder=tests.api.fake_encoder``."""

from __future__ import annotations

import time

import numpy as np

from neuroshell_orch.errors import OrchError
from neuroshell_orch.workers.protocol import Embedded
from tests.workers.fake_runtime import FakeRuntime

SIZE = 3


def create():
    return FakeEncoder()


class FakeEncoder(FakeRuntime):
    """A text's vector is its length, its number of words and one; of words, no more are read than the context holds."""

    def embed(self, request, cancelled):
        while self.knobs.get("tokens") == -1 and not cancelled():
            time.sleep(0.005)
        if cancelled():
            raise OrchError("cancelled", "The request was cancelled.")
        most = self.knobs.get("context_length", 1000)
        inputs = [text if isinstance(text, str) else " ".join(map(str, text)) for text in request.inputs]
        words = [len(text.split()) for text in inputs]
        if not request.truncate and max(words) > most:
            raise OrchError("prompt-too-long", f"An input has more than {most} words.", "Shorten it.")
        vectors = [[len(text), min(count, most), 1] for text, count in zip(inputs, words, strict=True)]
        size = request.dimensions or SIZE
        if size > SIZE:
            raise OrchError("unsupported", f"There are no vectors of {size} dimensions.", f"It has {SIZE}.")
        data = np.array(vectors, "<f4")[:, :size].tobytes()
        return Embedded(request.job, size, data, sum(min(count, most) for count in words))
