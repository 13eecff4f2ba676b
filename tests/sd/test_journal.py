"""Structured fields where there is a journal, one plain line where there is none."""

import os
import subprocess
import sys

import pytest

from neuroshell_orch.sd import journal


@pytest.fixture
def sent(monkeypatch):
    """The entries given to journald; standard error counts as the journal."""
    entries: list[dict[str, str]] = []
    monkeypatch.setattr(journal, "stderr_is_journal", lambda: True)
    journal.configure(journal.INFO)
    monkeypatch.setattr(
        journal._Output, "send", lambda *lines: entries.append(dict(line.split("=", 1) for line in lines))
    )
    yield entries
    monkeypatch.undo()
    journal.configure(journal.INFO)


def test_fields(sent):
    journal.log(
        journal.NOTICE,
        "smollm2 is PARKED: idle for 5 s",
        message_id=journal.WARMTH_CHANGED,
        model="smollm2",
        warmth="PARKED",
        mode="dummy-swap",
        reason="idle",
        NSORCH_EXTRA=7,
        freed=None,
    )
    (entry,) = sent
    line = int(entry.pop("CODE_LINE"))
    assert line > 0
    assert entry == {
        "MESSAGE": "smollm2 is PARKED: idle for 5 s",
        "PRIORITY": "5",
        "SYSLOG_IDENTIFIER": "nsorch",
        "MESSAGE_ID": journal.WARMTH_CHANGED,
        "CODE_FILE": __file__,
        "CODE_FUNC": "test_fields",
        "NSORCH_MODEL": "smollm2",
        "NSORCH_WARMTH": "PARKED",
        "NSORCH_MODE": "dummy-swap",
        "NSORCH_REASON": "idle",
        "NSORCH_EXTRA": "7",
    }


def test_level(sent):
    journal.log(journal.DEBUG, "too small")
    journal.log(journal.ERR, "big enough")
    assert [entry["MESSAGE"] for entry in sent] == ["big enough"]


def test_a_journal_that_is_away_is_survived(sent, monkeypatch, capsys):
    def refuse(*_):
        raise ConnectionRefusedError

    monkeypatch.setattr(journal._Output, "send", refuse)
    journal.log(journal.ERR, "still said")
    assert capsys.readouterr().err == "still said\n"


def test_without_a_journal_it_is_one_plain_line(capsys):
    journal.configure(journal.INFO)
    journal.log(journal.WARNING, "two\nlines", message_id=journal.STARTED, model="m")
    assert capsys.readouterr().err == "two lines\n"


def test_a_closed_standard_error_is_survived():
    code = "import os; os.close(2); from neuroshell_orch.sd import journal; journal.configure(); journal.log(3, 'x')"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("value", ["", "1", "x:y", "1:2", ":"])
def test_a_stale_stream_is_no_journal(monkeypatch, value):
    monkeypatch.setenv("JOURNAL_STREAM", value)
    assert not journal.stderr_is_journal()


def test_the_stream_is_recognised(monkeypatch):
    status = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    assert journal.stderr_is_journal()


def test_a_real_send_reaches_the_library():
    """What journald would get is accepted by the library, journal or not. In a child: the library keeps its socket."""
    code = """
from neuroshell_orch.sd import journal
journal.stderr_is_journal = lambda: True
journal.configure()
journal.log(journal.INFO, "a test line\\nof two", message_id=journal.STARTED, model="m")
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("", "")
