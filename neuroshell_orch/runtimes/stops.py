"""Stop strings: text goes through, minus the first stop string and all that follows.

Owns the hold-back of text that may yet turn into a stop string. Pure; must not know tokens or models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class StopFilter:
    """Feed it text as it comes; ``stopped`` turns true once a stop string has been seen whole."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.stopped = False

    def feed(self, text: str) -> str:
        """What may be shown now."""
        if self.stopped:
            return ""
        if not self._stops:
            return text
        self._held += text
        # The one that is complete first counts, so that it does not matter how the text was cut into pieces.
        found = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            shown, self._held = self._held[: min(found)[1]], ""
            return shown
        keep = self._possible_start()
        at = len(self._held) - keep
        shown, self._held = self._held[:at], self._held[at:]
        return shown

    def flush(self) -> str:
        """The text has ended: what was held back is no stop string after all."""
        shown, self._held = self._held, ""
        return shown

    def _possible_start(self) -> int:
        """Length of the longest end of the held text that some stop string begins with."""
        for size in range(min(len(self._held), max(map(len, self._stops)) - 1), 0, -1):
            tail = self._held[-size:]
            if any(stop.startswith(tail) for stop in self._stops):
                return size
        return 0
