"""What a request may bound beyond the answer's length: the context it may use, and how often it repeats itself."""

from __future__ import annotations

import pytest

from neuroshell_orch.errors import OrchError
from neuroshell_orch.runtimes.genai import GenaiRuntime
from neuroshell_orch.workers.protocol import ChatMessage, Generate, Load
from tests.support_tiny import CONTEXT, tiny_genai_folder


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    runtime = GenaiRuntime()
    runtime.load(Load("tiny", "genai", str(tiny_genai_folder(tmp_path_factory.mktemp("bounds") / "tiny"))))
    return runtime


def answer(runtime, **fields):
    pieces = []
    request = Generate(1, [ChatMessage("user", "the quick brown fox")], temperature=0, **fields)
    return runtime.generate(request, lambda text, *_: pieces.append(text), lambda: False), pieces


def test_a_context_bounds_prompt_and_answer_together(runtime):
    whole, _ = answer(runtime)
    prompt = whole.prompt_tokens
    assert prompt + whole.completion_tokens <= CONTEXT
    done, _ = answer(runtime, context=prompt + 5)
    assert (done.completion_tokens, done.reason) == (5, "length")
    done, _ = answer(runtime, context=prompt + 5, max_tokens=3)
    assert done.completion_tokens == 3
    done, _ = answer(runtime, context=1 << 20)
    assert done.completion_tokens == whole.completion_tokens, "a longer one than the model's is no bound"
    with pytest.raises(OrchError, match=f"bounds the context to {prompt}") as refused:
        answer(runtime, context=prompt)
    assert refused.value.problem == "prompt-too-long"


def test_a_repeat_penalty_makes_it_repeat_itself_less(runtime):
    _, plain = answer(runtime, max_tokens=60)
    _, same = answer(runtime, max_tokens=60, repeat_penalty=1.0)
    _, varied = answer(runtime, max_tokens=60, repeat_penalty=10.0)
    assert same == plain
    assert varied != plain
    assert len(set(varied)) > len(set(plain))
