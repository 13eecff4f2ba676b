"""The dummy model of a parked worker: a real ONNX graph of a few hundred bytes that any runtime can load and run.

Owns where it lies and what it computes: one table lookup, ``logits[b, s, :] = table[input_ids[b, s]]``, whose
greedy next token is always the successor of the last one. It lies here as a genai folder; ``onnx`` loads the same
file. Importing ``onnx`` to build it would cost a worker more than everything else it does, so it is built once;
``tests/runtimes/test_dummy.py`` proves that the file is what ``onnx`` builds, and writes it anew when asked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent
VOCABULARY: Final = 4


def successor(token: int) -> int:
    """The token that the dummy model answers with."""
    return (token + 1) % VOCABULARY
