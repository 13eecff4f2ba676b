"""A runtime whose models are small JSON files: a real worker process that misbehaves on command.

Selected by ``NSORCH_RUNTIMES=fake=tests.workers.fake_runtime`` (see tests/support_fake.py). Knobs, all optional:

load         ok, fail, exit, segv, kill, hang, memory        what loading does
load_seconds how long it takes
tokens       how many tokens an answer has; -1 never ends; default: one per word of the last message
delay        seconds per token
die_after    tokens after which the process ends, by ``die`` (kill, segv, abort, exit)
tell         a file that is told the options of each load, one JSON object a line
ignore_cancel, eat_mb, context_length, can_hibernate, standby_seconds (by environment NSORCH_FAKE_STANDBY)

An answer is the last message's words (or the prompt's) over and over, each with a space behind it.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import time
from pathlib import Path

from neuroshell_orch.errors import OrchError
from neuroshell_orch.workers.protocol import Done, Loaded, TensorInfo, TokenScore


def create():
    return FakeRuntime()


def _die(how):
    if how == "segv":
        ctypes.string_at(0)
    elif how == "abort":
        os.abort()
    elif how == "exit":
        os._exit(3)
    elif how == "hang":
        while True:
            time.sleep(3600)
    else:
        os.kill(os.getpid(), signal.SIGKILL)


class FakeRuntime:
    def __init__(self):
        self.knobs = {}
        self.eaten = []
        self.asleep = False

    def standby(self):
        time.sleep(float(os.environ.get("NSORCH_FAKE_STANDBY", "0")))
        return "fake 1"

    def load(self, load):
        try:
            self.knobs = json.loads(Path(load.path).read_text())
        except FileNotFoundError:
            raise OrchError("file-missing", f"There is no {load.path}.", "Add it.") from None
        if "tell" in self.knobs:
            with Path(self.knobs["tell"]).open("a") as file:
                file.write(f"{json.dumps(load.options)}\n")
        time.sleep(self.knobs.get("load_seconds", 0))
        if "eat_mb" in self.knobs:
            self.eaten = [b"\x01" * (1 << 20) for _ in range(self.knobs["eat_mb"])]
        how = self.knobs.get("load", "ok")
        if how == "fail":
            raise OrchError("model-invalid", "The fake model does not want to.", "Try another.")
        if how == "memory":
            raise MemoryError
        if how == "crash":
            raise KeyError("a secret prompt")
        if how != "ok":
            _die(how)
        return Loaded(
            seconds=0,
            runtime_version="fake 1",
            context_length=load.context_length or self.knobs.get("context_length", 1000),
            can_hibernate=self.knobs.get("can_hibernate", True),
            inputs=[TensorInfo("x", "FP32", [-1])],
            outputs=[TensorInfo("x", "FP32", [-1])],
        )

    def hibernate(self):
        if not self.knobs.get("can_hibernate", True):
            raise OrchError("unsupported", "This model's weights cannot be given back.", "Use another mode for it.")
        self.asleep = True
        return len(self.eaten) << 20

    def wake(self):
        self.asleep = False

    def generate(self, request, emit, cancelled):
        if self.asleep:
            raise OrchError("internal", "It is asleep.")
        if isinstance(request.prompt, list):
            words = [str(token) for token in request.prompt]
        else:
            words = (request.prompt or request.messages[-1].content).split() or ["nothing"]
        wanted = self.knobs.get("tokens", len(words))
        limit = request.max_tokens or (1 << 62)
        started, count, reason = time.monotonic(), 0, "stop"
        while wanted < 0 or count < wanted:
            if count >= limit:
                reason = "length"
                break
            if count == self.knobs.get("die_after"):
                _die(self.knobs.get("die", "kill"))
            if cancelled() and not self.knobs.get("ignore_cancel"):
                reason = "cancelled"
                break
            time.sleep(self.knobs.get("delay", 0))
            word = words[count % len(words)] + " "
            likeliest = [(f"{word}{number}", -1.0 - number) for number in range(request.scores)]
            emit(word, 1, [TokenScore(word, -0.5, likeliest)] if request.scores >= 0 else None)
            count += 1
        seconds = time.monotonic() - started
        prompt = sum(len(m.content.split()) for m in request.messages) or len(words)
        return Done(request.job, reason, prompt, count, 0.0, seconds)

    def infer(self, request, cancelled):
        if self.knobs.get("die_after") == 0:
            _die(self.knobs.get("die", "kill"))
        while self.knobs.get("tokens") == -1 and not cancelled():
            time.sleep(0.005)
        if cancelled():
            raise OrchError("cancelled", "The request was cancelled.")
        return list(request.inputs)
