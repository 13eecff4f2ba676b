"""The real language model behind the real daemon: what it says, and what is left of it after each mode's idle time."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys

import pytest

from neuroshell_orch.config.paths import cache_dir
from neuroshell_orch.errors import OrchError
from neuroshell_orch.workers.prepared import prepare
from tests.support_models import smollm2_folder

pytestmark = pytest.mark.model

MIB = 1 << 20
PARIS = "What is the capital of France?"


@pytest.fixture
def real(manager):
    manager.register("fake", smollm2_folder())
    return manager


def cycle(manager, mode, phase, **parameters):
    """Ask, let it come to rest, and return the status before and after."""
    manager.settings(Mode=mode)
    manager.mode(mode, IdleSec="400ms", **parameters)
    manager.start(real=True)
    answer = manager.ask(PARIS, max_tokens=12)
    assert "Paris" in answer
    hot = manager.status()
    return answer, hot, manager.wait_phase(phase)


def test_the_answer_through_the_command_line(real):
    real.start(real=True)
    command = [sys.executable, "-P", "-m", "neuroshell_orch.cli.main", "ask", PARIS]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    assert "Paris" in result.stdout
    assert result.stderr == ""


@pytest.mark.parametrize("mode", ["dynamic", "timeout"])
def test_nothing_is_left_when_it_is_cold(real, mode):
    real.settings(Mode=mode)
    real.mode(mode, IdleSec="400ms")
    real.start(real=True)
    assert "Paris" in real.ask(PARIS, max_tokens=12)
    cold = real.wait_phase("COLD")
    assert cold["memory"] is None
    assert cold["freed"]["before"] > 100 * MIB
    assert cold["freed"]["after"] == 0


def test_dummy_swap_leaves_a_small_standby(real):
    _answer, hot, parked = cycle(real, "dummy-swap", "PARKED")
    assert hot["memory"]["pss"] > 100 * MIB
    assert parked["memory"]["pss"] < 80 * MIB, "the runtime and a dummy model, no weights"
    assert parked["freed"]["before"] > 100 * MIB


@pytest.mark.parametrize("copied", [True, False])
def test_a_parked_worker_has_the_tokenizer_of_what_its_load_takes(real, copied):
    if copied:
        asyncio.run(prepare(cache_dir(), smollm2_folder()))
    cycle(real, "dummy-swap", "PARKED")
    told = []
    body = {"messages": [{"role": "user", "content": PARIS}], "max_tokens": 2, "stream": True}
    path, trace = "/v1/chat/completions", {"X-Nsorch-Trace": "1"}
    assert list(real.client().events(path, body, headers=trace, on_comment=told.append))
    (marks,) = [json.loads(text.removeprefix(b"timeline ")) for text in told if text.startswith(b"timeline ")]
    assert "model" in marks["worker"]
    assert "tokenizer" not in marks["worker"], "it was made before the ask"


def test_hibernation_gives_the_weights_back_and_says_the_same_afterwards(real):
    asyncio.run(prepare(cache_dir(), smollm2_folder()))  # a load waits for its first copy, but not for long
    answer, hot, asleep = cycle(real, "hibernate", "HIBERNATED", ForgetSec="1h")
    assert asleep["pid"] == hot["pid"]
    assert asleep["memory"]["rss"] < 0.6 * hot["memory"]["rss"]
    assert asleep["freed"]["before"] - asleep["freed"]["after"] > 80 * MIB
    for _ in range(3):
        assert real.ask(PARIS, max_tokens=12) == answer
        assert real.wait_phase("HIBERNATED")["pid"] == hot["pid"]


def test_persistent_stays(real):
    real.settings(Mode="persistent")
    real.start(real=True)
    status = real.wait_phase("HOT")
    assert status["memory"]["pss"] > 100 * MIB
    assert "Paris" in real.ask(PARIS, max_tokens=12)


def test_the_same_words_in_every_mode_and_from_every_warmth(real):
    real.start(real=True)
    cold = real.ask(PARIS, max_tokens=24)
    assert real.ask(PARIS, max_tokens=24) == cold, "warm"
    streamed = real.stream(PARIS, max_tokens=24)
    assert "".join(e["choices"][0]["delta"].get("content", "") for e in streamed) == cold
    real.client().call("PUT", "/orch/mode", {"mode": "hibernate"})
    real.post("/orch/models/fake/unload")
    assert real.ask(PARIS, max_tokens=24) == cold, "from the prepared copy"


def test_a_prompt_longer_than_the_context_is_told_with_both_numbers(real):

    real.start(real=True)
    with pytest.raises(OrchError) as caught:
        real.ask("word " * 9000)
    assert caught.value.problem == "prompt-too-long"
    assert "8192" in caught.value.message
    assert "Paris" in real.ask(PARIS, max_tokens=12)
