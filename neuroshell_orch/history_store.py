"""When models were asked, across restarts: one small file in the state folder.

Owns ``history.json``: by model the histogram of gaps, the last few of them and the time of the last ask, nothing else.
In the file that time is the wall clock's, in the engine a monotonic clock's; here one becomes the other. Must not know
what is decided by it. Losing the file costs some learning, so a broken one is no reason to fail.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from neuroshell_orch.config.write import write_file
from neuroshell_orch.core.history import BINS, FULL, LONGEST, RECENT, Gaps

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

FILE: Final = "history.json"
KEPT: Final = 500
"""Models that are remembered: those that were asked last. At most some 6 KB each."""
LARGEST: Final = 8 << 20
"""A file above this, in bytes, is not ours."""


class HistoryStore:
    """The file in ``folder``. ``wall`` is the clock that goes on while nobody runs."""

    def __init__(self, folder: Path, wall: Callable[[], float] = time.time) -> None:
        self._path = folder / FILE
        self._wall = wall
        self._written: dict[str, Gaps] = self._read()
        """What stands in the file, by the wall clock."""

    def load(self, now: float) -> dict[str, Gaps]:
        """Every model's history, on the clock that says ``now``. Changing them changes nothing here."""
        offset = now - self._wall()
        return {name: _moved(gaps, offset, now) for name, gaps in self._written.items()}

    def save(self, histories: Mapping[str, Gaps], now: float) -> None:
        """Keep ``histories``, which are on the clock that says ``now``, and those that are known from before.

        Writes nothing where nothing changed. Raises OrchError where it cannot be written.
        """
        wall = self._wall()
        known = dict(self._written)
        for name, gaps in histories.items():
            before = known.get(name)
            if gaps.last is not None and (before is None or before.count != gaps.count or before.last is None):
                known[name] = _moved(gaps, wall - now, wall)
        if known == self._written:
            return
        latest = sorted(known.items(), key=lambda item: -(item[1].last or 0.0))[:KEPT]
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_file(self._path, msgspec.json.encode(dict(latest)).decode() + "\n")
        self._path.chmod(0o600)  # when somebody asks is nobody else's business
        self._written = dict(latest)

    def _read(self) -> dict[str, Gaps]:
        try:
            if self._path.stat().st_size > LARGEST:
                return {}
            found = msgspec.json.decode(self._path.read_bytes(), type=dict[str, Gaps])
        except (OSError, msgspec.MsgspecError):
            return {}  # the first start, or a file that a crash of the machine cut off: learn again
        return {name: gaps for name, gaps in found.items() if _sane(gaps)}


def _moved(gaps: Gaps, offset: float, latest: float) -> Gaps:
    """A copy whose last ask is ``offset`` seconds later, but not after ``latest``: a clock may have been set back."""
    copy = msgspec.json.decode(msgspec.json.encode(gaps), type=Gaps)
    copy.last = None if gaps.last is None else min(gaps.last + offset, latest)
    return copy


def _sane(gaps: Gaps) -> bool:
    """Whether ``gaps`` could have come about by observation."""
    numbers = [gaps.beyond, *gaps.recent, *(n for b in gaps.bins.values() for n in (b.weight, b.low, b.high))]
    return (
        len(gaps.bins) <= BINS
        and len(gaps.recent) <= RECENT
        and gaps.count >= 0
        and all(math.isfinite(number) and number >= 0.0 for number in numbers)
        and all(0.0 < b.weight <= FULL and b.low <= b.high <= LONGEST for b in gaps.bins.values())
        and all(0 <= index <= BINS for index in gaps.bins)
    )
