"""When models were asked, across restarts: one small file in the state folder.

Owns ``history.json``: by model the histogram of gaps, the last few of them and the time of the last ask, nothing else.
In the file that time is the wall clock's, in the engine a monotonic clock's; here one becomes the other. What is old or
too much is forgotten, what is damaged is set aside. Must not know what is decided by it.
"""

from __future__ import annotations

import math
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from neuroshell_orch.config.write import write_file
from neuroshell_orch.core.history import BINS, FULL, LONGEST, RECENT, Gaps

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

FILE: Final = "history.json"
ASIDE: Final = "history.json.damaged"
KEPT: Final = 500
"""Models that are remembered: those that were asked last. At most some 6 KB each."""
FORGOTTEN: Final = 90 * 86400.0
"""Who was not asked for so many seconds is forgotten."""
LARGEST: Final = 8 << 20
"""A file above this, in bytes, is not ours."""


class _Entry(NamedTuple):
    """One model in the file: JSON, and what tells whether it is still true."""

    json: msgspec.Raw
    gaps: int
    last: float


class HistoryStore:
    """The file in ``folder``. ``wall`` is the clock that goes on while nobody runs."""

    def __init__(self, folder: Path, wall: Callable[[], float] = time.time) -> None:
        self._path = folder / FILE
        self._wall = wall
        self._written: dict[str, _Entry] = {}
        """What stands in the file, by the wall clock."""
        self._stands = True
        self.damage = ""
        """What was wrong with the file when it was read; it was set aside for that."""

    def there(self) -> bool:
        """Whether anything is remembered: as good as free to ask."""
        return os.path.exists(self._path)  # noqa: PTH110 - Path's raises where a folder may not be looked into

    def load(self, now: float) -> dict[str, Gaps]:
        """Every model's history, on the clock that says ``now``. Changing them changes nothing here."""
        wall, found = self._wall(), {}
        for name, gaps in self._read().items():
            if gaps.last is None or gaps.last < wall - FORGOTTEN:
                continue
            self._written[name] = _Entry(msgspec.Raw(msgspec.json.encode(gaps)), gaps.count, gaps.last)
            gaps.last = min(gaps.last + now - wall, now)  # not after now: a clock may have been set back
            found[name] = gaps
        return found

    def save(self, histories: Mapping[str, Gaps], now: float) -> None:
        """Keep ``histories``, which are on the clock that says ``now``. Raises OrchError where it cannot be written."""
        news = self.news(histories, now)
        if news is not None:
            self.write(news)

    def news(self, histories: Mapping[str, Gaps], now: float) -> dict[str, _Entry] | None:
        """What should stand in the file: ``histories``, and who is known from before. None where it does already."""
        wall = self._wall()
        known = dict(self._written)
        for name, gaps in histories.items():
            before = known.get(name)
            if gaps.last is None or (before is not None and before.gaps == gaps.count):
                continue
            last = min(gaps.last + wall - now, wall)
            moved = msgspec.structs.replace(gaps, last=last)
            known[name] = _Entry(msgspec.Raw(msgspec.json.encode(moved)), gaps.count, last)
        if known == self._written and self._stands:
            return None
        return dict(sorted(known.items(), key=lambda item: -item[1].last)[:KEPT])

    def write(self, news: dict[str, _Entry]) -> None:
        """Let ``news`` be the file. Blocking. Raises OrchError."""
        with suppress(OSError):  # the next line says it better
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        text = msgspec.json.encode({name: entry.json for name, entry in news.items()}).decode()
        write_file(self._path, text + "\n", mode=0o600)  # when somebody asks is nobody else's business
        self._written, self._stands = news, True

    def _read(self) -> dict[str, Gaps]:
        """What the file says and can be true. A broken file costs what it held, a broken entry only itself."""
        found: dict[str, Gaps] = {}
        try:
            if self._path.stat().st_size > LARGEST:
                self._set_aside("it is far too large")
                return {}
            parts = msgspec.json.decode(self._path.read_bytes(), type=dict[str, msgspec.Raw])
        except FileNotFoundError:
            return {}
        except OSError as error:
            self.damage = f"it cannot be read: {error.strerror}"
            return {}
        except msgspec.MsgspecError as error:
            self._set_aside(f"it is not what was written: {error}")
            return {}
        broken = []
        for name, part in parts.items():
            try:
                gaps = msgspec.json.decode(part, type=Gaps)
            except msgspec.MsgspecError:
                broken.append(name)
                continue
            if _sane(gaps):
                found[name] = gaps
            else:
                broken.append(name)
        if broken:
            self._set_aside(f"what it says of {', '.join(name[:80] for name in broken[:5])} cannot be true")
        return found

    def _set_aside(self, why: str) -> None:
        self.damage = why
        self._stands = False
        with suppress(OSError):
            self._path.replace(self._path.with_name(ASIDE))
            self.damage = f"{why} (set aside as {ASIDE})"


def _sane(gaps: Gaps) -> bool:
    """Whether ``gaps`` could have come about by observation."""
    numbers = [gaps.beyond, *gaps.recent, *(n for b in gaps.bins.values() for n in (b.weight, b.low, b.high))]
    return (
        len(gaps.bins) <= BINS
        and len(gaps.recent) <= RECENT
        and gaps.count >= 0
        and (gaps.last is None or math.isfinite(gaps.last))
        and all(math.isfinite(number) and number >= 0.0 for number in numbers)
        and all(0.0 < b.weight <= FULL and b.low <= b.high <= LONGEST for b in gaps.bins.values())
        and all(0 <= index <= BINS for index in gaps.bins)
    )
