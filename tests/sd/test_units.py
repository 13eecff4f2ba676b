"""What setup writes, what it leaves alone, and that systemd has nothing to say about it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroshell_orch.errors import OrchError
from neuroshell_orch.sd import units

PROGRAM = Path(sys.executable)
SHIPPED = Path(__file__).parents[2] / "systemd"


@pytest.fixture
def home(xdg, monkeypatch):
    """A home whose XDG folders are the usual ones, so that units are as shipped."""
    for variable, usual in units._XDG.items():
        monkeypatch.setenv(variable, str(xdg / "home" / usual))
    return xdg / "home"


def _folder(home: Path) -> Path:
    return home / ".local" / "share" / "systemd" / "user"


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_install_writes_the_three_units_and_says_so(home):
    changes = units.install(PROGRAM)
    assert changes == [units.Change("write", _folder(home) / name) for name in units.NAMES]
    assert set(_tree(home)) == {f".local/share/systemd/user/{name}" for name in units.NAMES}
    service = (_folder(home) / "nsorch.service").read_text()
    assert f"\nExecStart={PROGRAM} serve\n" in service
    assert units.DEFAULT_EXEC not in service
    assert "Environment=" not in service


def test_again_changes_nothing(home):
    units.install(PROGRAM)
    before = _tree(home)
    assert {change.action for change in units.install(PROGRAM)} == {"unchanged"}
    assert _tree(home) == before


def test_another_program_rewrites_only_the_service(home, tmp_path):
    units.install(PROGRAM)
    other = tmp_path / "a b%c" / "nsorch"
    other.parent.mkdir()
    other.touch(mode=0o755)
    actions = {change.path.name: change.action for change in units.install(other)}
    assert actions == {"nsorch.socket": "unchanged", "nsorch.service": "write", "nsorch-http.socket": "unchanged"}
    service = (_folder(home) / "nsorch.service").read_text()
    assert f'\nExecStart="{tmp_path}/a b%%c/nsorch" serve\n' in service


def test_a_dry_run_says_the_same_and_does_nothing(home):
    promised = units.install(PROGRAM, dry_run=True)
    assert _tree(home) == {}
    assert units.install(PROGRAM) == promised
    before = _tree(home)
    promised = units.remove(dry_run=True)
    assert _tree(home) == before
    assert units.remove()[: len(promised)] == promised


def test_remove_leaves_the_home_as_it_was(home):
    (_folder(home).parents[1]).mkdir(parents=True)
    before = sorted(home.rglob("*"))
    units.install(PROGRAM)
    changes = units.remove()
    assert sorted(home.rglob("*")) == before
    assert {change.path for change in changes} >= {_folder(home) / name for name in units.NAMES}
    assert units.remove() == []


def test_remove_takes_the_links_that_enabled_them(home):
    units.install(PROGRAM)
    wants = home / ".config" / "systemd" / "user" / "sockets.target.wants"
    wants.mkdir(parents=True)
    (wants / "nsorch.socket").symlink_to(_folder(home) / "nsorch.socket")
    (wants / "other.socket").symlink_to("/usr/lib/systemd/user/other.socket")
    units.remove()
    assert [path.name for path in wants.iterdir()] == ["other.socket"]


def test_an_edited_file_is_kept(home):
    units.install(PROGRAM)
    service = _folder(home) / "nsorch.service"
    edited = service.read_text().replace("WatchdogSec=30", "WatchdogSec=5")
    service.write_text(edited)
    backup = service.with_name("nsorch.service.bak")
    assert units.install(PROGRAM)[1:3] == [
        units.Change("backup", service, str(backup)),
        units.Change("write", service),
    ]
    assert backup.read_text() == edited
    assert "WatchdogSec=30" in service.read_text()
    service.write_text(edited)
    changes = units.remove()
    assert units.Change("backup", service, f"{backup}1") in changes
    assert sorted(path.name for path in _folder(home).iterdir()) == ["nsorch.service.bak", "nsorch.service.bak1"]


def test_a_foreign_file_is_never_touched(home):
    _folder(home).mkdir(parents=True)
    foreign = _folder(home) / "nsorch.socket"
    foreign.write_text("[Socket]\nListenStream=/elsewhere\n")
    link = _folder(home) / "nsorch-http.socket"
    link.symlink_to("/dev/null")
    assert [change.action for change in units.install(PROGRAM)] == ["leave", "write", "leave"]
    units.remove()
    assert foreign.read_text() == "[Socket]\nListenStream=/elsewhere\n"
    assert link.is_symlink()
    assert not (_folder(home) / "nsorch.service").exists()


def test_unusual_folders_are_passed_on_to_the_service(xdg):
    units.install(PROGRAM)
    service = (xdg / "data" / "systemd" / "user" / "nsorch.service").read_text()
    for variable, folder in (("XDG_CONFIG_HOME", "config"), ("XDG_DATA_HOME", "data"), ("XDG_STATE_HOME", "state")):
        assert f"\nEnvironment={variable}={xdg / folder}\n" in service
        assert f"\nReadWritePaths={xdg / folder}/nsorch\n" in service


@pytest.mark.parametrize("program", [Path("nsorch"), Path("/nonexistent/nsorch"), Path("/etc/passwd")])
def test_what_is_no_program_is_refused(home, program):
    with pytest.raises(OrchError) as caught:
        units.install(program)
    assert caught.value.problem == "file-missing"
    assert not (_folder(home) / "nsorch.service").exists()


def test_a_folder_that_cannot_be_made(home):
    (home / ".local").write_text("a file where a folder should be")
    with pytest.raises(OrchError, match=r"cannot be written: .+\. Check"):
        units.install(PROGRAM)


@given(st.text(st.characters(min_codepoint=0x20, exclude_categories=["Cs", "Cc"]), min_size=1))
def test_quoting_is_undone_by_systemds_rules(word):
    quoted = units._quote(word)
    if quoted.startswith('"') and quoted.endswith('"') and len(quoted) > 1:
        quoted = quoted[1:-1]
    plain, position = "", 0
    while position < len(quoted):
        letter = quoted[position]
        assert letter != '"'
        if letter in "\\%":
            position += 1
            assert quoted[position] in ('"\\' if letter == "\\" else "%")
            letter = quoted[position]
        plain += letter
        position += 1
    assert plain == word


def test_a_line_break_in_a_path_is_refused():
    with pytest.raises(OrchError, match="cannot stand in a unit file"):
        units._quote("/a\nExecStartPre=/bin/evil")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_has_nothing_to_say(home, xdg):
    units.install(PROGRAM)
    done = subprocess.run(
        ["systemd-analyze", "--user", "verify", *(str(_folder(home) / name) for name in units.NAMES)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_shipped_line_is_one_this_project_means():
    """Options that a user's own service silently ignores would only pretend."""
    text = (SHIPPED / "nsorch.service").read_text()
    for pretended in (
        "ProtectProc=",
        "ProcSubset=",
        "IPAddressDeny=",
        "SocketBindDeny=",
        "DevicePolicy=",
        "DynamicUser=",
    ):
        assert pretended not in text
    assert "Type=notify\n" in text
    assert "StartLimitIntervalSec=0" in text
    assert "PrivateUsers=yes" in text
