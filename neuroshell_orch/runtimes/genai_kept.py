"""What was computed for earlier prompts, kept for the next one that begins alike.

Owns the generators that have ended their answers, and which part of their text may be taken over. Only the prompt's
part is: its keys and values were computed many tokens at a time, as they would be again, so that the answer is the same
to the last bit; those of the answer were computed one by one, by another kernel that rounds differently. What is kept
is what a person wrote, in this process's memory and nowhere else; it goes with ``drop``, with the next prompt that is
different, and with the process. Must not know sampling.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from neuroshell_orch.runtimes.genai_sampling import Options

Native: TypeAlias = Any

LEAST: Final = 16
"""Tokens that two prompts must share to be worth it."""
NEW: Final = 2
"""Tokens of a prompt that are computed in any case: a single one takes another kernel, which rounds differently."""


class Kept(NamedTuple):
    """A generator that has read ``tokens``, with room for ``size`` of them."""

    generator: Native
    tokens: list[int]
    size: int
    options: Options

    def shared(self, prompt: list[int]) -> int:
        """How many tokens at the beginning of ``prompt`` it need not read again."""
        return shared_by(self.tokens, prompt)


def shared_by(tokens: list[int], prompt: list[int]) -> int:
    """How many tokens ``prompt`` shares with ``tokens`` at the beginning, but for those that are computed anyway."""
    most = min(len(tokens), len(prompt) - NEW)
    for at in range(most):
        if tokens[at] != prompt[at]:
            return at
    return max(most, 0)


class Keeper:
    """At most ``most`` generators, those that serve an answer included; none is kept unless ``keep`` says so."""

    def __init__(self, most: int, *, keep: bool) -> None:
        self._most = most
        self._keep = keep
        self._kept: list[Kept] = []
        self._out = 0

    def take(self, prompt: list[int], size: int) -> tuple[Kept | None, int]:
        """The one that shares most with ``prompt``, and how much. None: make one, with this much room more.

        Whatever would be one too many is given up before.
        """
        shared, best = max(
            ((kept.shared(prompt), kept) for kept in self._kept), key=lambda found: found[0], default=(0, None)
        )
        self._out += 1
        if best is not None and shared >= LEAST and best.size >= size:
            self._kept.remove(best)
            return best, shared
        if best is not None and shared >= LEAST:
            self._kept.remove(best)  # the conversation has outgrown it, and will grow on
            return None, len(prompt)
        del best
        del self._kept[: max(0, len(self._kept) + self._out - self._most)]
        return None, 0

    def give(self, kept: Kept | None) -> None:
        """An answer has ended; None where its generator is of no use any more."""
        self._out -= 1
        if kept is None or not self._keep or len(kept.tokens) < LEAST + NEW:
            return
        if self._out + len(self._kept) < self._most:
            self._kept.append(kept)

    def drop(self) -> None:
        """Give up all that is kept."""
        self._kept.clear()
