"""The note from one daemon to the next: what it says, and when it says nothing."""

from __future__ import annotations

import os
import stat

import pytest

from neuroshell_orch.config import paths
from neuroshell_orch.start import state_file
from neuroshell_orch.workers.ahead import frames
from neuroshell_orch.workers.likely import Likely, read, write
from neuroshell_orch.workers.protocol import HEADER, Announce, Load, decode_to_worker

LOAD = Load("m", "genai", "/models/m", threads=2)


@pytest.fixture
def place(tmp_path):
    (tmp_path / "nsorch.conf").write_text("[Orchestrator]\n")
    return tmp_path


def leave(place, sources=("nsorch.conf", "later.conf"), version="1", **more):
    note = Likely("child", "m", *frames(LOAD), **more)
    path = str(place / "state" / "likely")
    write(path, note, version, [str(place / source) for source in sources])
    return path, note


@pytest.mark.parametrize("more", [{}, {"default": True}, {"memory_max": 1 << 30}])
def test_what_was_left_is_read(place, more):
    path, note = leave(place, **more)
    assert read(path, "1") == note
    assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700  # noqa: PTH116, PTH120
    assert decode_to_worker(note.load[HEADER.size :]) == LOAD
    assert decode_to_worker(note.announce[HEADER.size :]) == Announce("genai", "/models/m")


@pytest.mark.parametrize("change", ["edit", "remove", "make", "version", "environment", "cut", "empty"])
def test_what_changed_makes_it_void(place, change, monkeypatch):
    path, _note = leave(place)
    if change == "edit":
        (place / "nsorch.conf").write_text("[Orchestrator]\nMode=dynamic\n")
    elif change == "remove":
        (place / "nsorch.conf").unlink()
    elif change == "make":
        (place / "later.conf").write_text("")
    elif change == "environment":
        monkeypatch.setenv("NSORCH_CONFIG_DIRS", "/elsewhere")
    elif change in {"cut", "empty"}:
        text = (place / "state" / "likely").read_text()
        (place / "state" / "likely").write_text(text[: len(text) // 2 if change == "cut" else 0])
    assert read(path, "2" if change == "version" else "1") is None


def test_no_note_is_none(tmp_path):
    assert read(str(tmp_path / "none"), "1") is None


def test_a_name_with_a_line_break_leaves_none(place):
    path, _note = leave(place, sources=["a\nb"])
    assert not os.path.exists(path)  # noqa: PTH110


@pytest.mark.parametrize("home", ["/somewhere/state", "", "relative"])
def test_it_lies_in_the_state_folder(monkeypatch, home):
    monkeypatch.setenv("XDG_STATE_HOME", home)
    assert state_file(alone=False) == str(paths.state_dir() / "likely-service")
    assert state_file(alone=True) == str(paths.state_dir() / "likely-private")
