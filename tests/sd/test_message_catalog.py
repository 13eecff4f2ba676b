"""Every message id has a text that journalctl can show, and every text an id."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from neuroshell_orch.sd import journal

CATALOG = Path(__file__).parents[2] / "systemd" / "nsorch.catalog"

FIELDS = {"NSORCH_MODEL", "NSORCH_MODE", "NSORCH_WARMTH", "NSORCH_REASON"}


def _entries() -> dict[str, tuple[dict[str, str], str]]:
    """Entries by id: headers and body, by the rules of systemd's catalogue files."""
    text = "".join(f"{line}\n" for line in CATALOG.read_text().splitlines() if not line.startswith("#"))
    found: dict[str, tuple[dict[str, str], str]] = {}
    for block in re.split(r"^-- ", text, flags=re.MULTILINE)[1:]:
        head, _, body = block.partition("\n\n")
        identity, *lines = head.splitlines()
        assert re.fullmatch(r"[0-9a-f]{32}", identity), f"not a message id: {identity!r}"
        assert identity not in found
        found[identity] = (dict(line.split(": ", 1) for line in lines), body.strip())
    return found


def test_ids_are_distinct_random_uuids():
    ids = list(journal.MESSAGE_IDS.values())
    assert len(set(ids)) == len(ids)
    for identity in ids:
        assert re.fullmatch(r"[0-9a-f]{12}4[0-9a-f]{3}[89ab][0-9a-f]{15}", identity)


def test_every_id_has_an_entry_and_every_entry_an_id():
    assert set(_entries()) == set(journal.MESSAGE_IDS.values())


def test_entries_have_a_subject_a_body_and_only_fields_that_are_sent():
    for headers, body in _entries().values():
        assert headers["Subject"]
        assert headers["Defined-By"] == "nsorch"
        assert body
        assert set(re.findall(r"@([A-Z_]+)@", headers["Subject"] + body)) <= FIELDS


@pytest.mark.skipif(shutil.which("journalctl") is None, reason="journalctl is not installed")
def test_journalctl_compiles_it(tmp_path):
    folder = tmp_path / "usr" / "lib" / "systemd" / "catalog"
    folder.mkdir(parents=True)
    shutil.copy(CATALOG, folder)
    (tmp_path / "var" / "lib" / "systemd" / "catalog").mkdir(parents=True)
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        ["journalctl", f"--root={tmp_path}", "--update-catalog"],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert (done.returncode, done.stderr) == (0, "")
    listed = subprocess.run(
        ["journalctl", f"--root={tmp_path}", "--list-catalog"],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    ).stdout
    for identity, (headers, _) in _entries().items():
        assert f"{identity} nsorch: {headers['Subject']}" in listed
