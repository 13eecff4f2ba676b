"""A runtime that writes several answers at once: each is its last message's words, one word a round.

``max_tokens`` is how many; 0 means for ever. The word ``refuse`` is refused, ``break`` breaks the answer at its second
word.
"""

from __future__ import annotations

import time

from neuroshell_orch.errors import OrchError
from neuroshell_orch.workers.protocol import Done
from tests.workers.fake_runtime import FakeRuntime


def create():
    return StreamsRuntime()


class Words:
    def __init__(self, request, emit, cancelled):
        self.request, self.emit, self.cancelled = request, emit, cancelled
        self.words = request.messages[-1].content.split()
        self.count = 0
        self.done = None

    def step(self):
        if self.cancelled():
            self.done = Done(self.request.job, "cancelled", completion_tokens=self.count)
        elif self.count == 1 and self.words[0] == "break":
            self.done = OrchError("answer-failed", "It broke.", "Ask again.")
        else:
            self.emit(self.words[self.count % len(self.words)] + " ", 1)
            self.count += 1
            if self.count == self.request.max_tokens:
                self.done = Done(self.request.job, "length", completion_tokens=self.count)


class StreamsRuntime(FakeRuntime):
    def begin(self, request, emit, cancelled):
        if request.messages[-1].content == "refuse":
            raise OrchError("bad-request", "It does not want to.", "Ask for something else.")
        return Words(request, emit, cancelled)

    def advance(self, streams):
        for stream in streams:
            stream.step()
        time.sleep(self.knobs.get("delay", 0))
