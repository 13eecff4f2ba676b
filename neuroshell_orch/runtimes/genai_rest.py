"""What a language model does without while nobody asks it, beside its weights.

Owns the measure of what may stay, and the return of what onnxruntime keeps of its longest run. Measured with 49,000
words and 30 layers: of 23 MiB that a model at rest had beyond a parked worker, 10 were the tokenizer, 8 freed memory
that the allocator kept, 1 to 25 (by the longest prompt) onnxruntime's arena, and 5 the graph, which alone is needed to
wake quickly. Must not know requests.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final, TypeAlias

Native: TypeAlias = Any

KEPT: Final = 8 << 20
"""Private bytes that may stay beyond what a worker without a model has. A vocabulary takes 10 to 40 MiB whatever the
model's size, and is read again in a tenth of a second, while the weights come back."""


def shrink(og: Native, model: Native) -> None:
    """Give back the arena. Only a run can tell onnxruntime to: the shortest one there is, without an arena's gain."""
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=2)
    with suppress(RuntimeError):  # then it stays
        generator = og.Generator(model, parameters)
        generator.set_runtime_option("memory.enable_memory_arena_shrinkage", "cpu:0")
        generator.append_tokens([0])
