"""The XDG rules, and a runtime folder that is never somebody else's."""

import os
from pathlib import Path

import pytest

from neuroshell_orch.config import paths
from neuroshell_orch.errors import OrchError

FOLDERS = [
    ("XDG_CONFIG_HOME", paths.config_home, ".config"),
    ("XDG_DATA_HOME", paths.data_dir, ".local/share"),
    ("XDG_STATE_HOME", paths.state_dir, ".local/state"),
    ("XDG_CACHE_HOME", paths.cache_dir, ".cache"),
]


@pytest.mark.parametrize(("variable", "function", "fallback"), FOLDERS)
def test_a_variable_counts_only_if_it_is_absolute(variable, function, fallback, monkeypatch):
    monkeypatch.setenv("HOME", "/home/anna")
    monkeypatch.setenv(variable, "/elsewhere")
    assert function() == Path("/elsewhere/nsorch")
    for value in ("", "relative", "./x"):
        monkeypatch.setenv(variable, value)
        assert function() == Path("/home/anna", fallback, "nsorch")
    monkeypatch.delenv(variable)
    assert function() == Path("/home/anna", fallback, "nsorch")


@pytest.mark.parametrize("value", [None, "", "relative"])
def test_without_a_home_the_user_database_counts(value, monkeypatch):
    if value is None:
        monkeypatch.delenv("HOME", raising=False)
    else:
        monkeypatch.setenv("HOME", value)
    entry = paths.pwd.struct_passwd(["n", "x", "1", "1", "g", "/base", "/bin/sh"])
    monkeypatch.setattr(paths.pwd, "getpwuid", lambda _: entry)
    assert paths.home() == Path("/base")


def test_a_user_without_an_entry_has_a_home_that_cannot_be_written(monkeypatch):
    def nobody(uid):
        raise KeyError(uid)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(paths.pwd, "getpwuid", nobody)
    assert paths.home() == Path("/nonexistent")


def test_the_runtime_folder_of_the_session(xdg):
    assert paths.runtime_dir() == xdg / "run" / "nsorch"
    assert not (xdg / "run" / "nsorch").exists()


@pytest.fixture
def no_session(tmp_path, monkeypatch):
    """A user without a runtime folder; /tmp is a folder of the test."""
    monkeypatch.setattr(paths, "_TMP", str(tmp_path))
    monkeypatch.setattr(paths, "_is_own_folder", lambda *_: False)
    return tmp_path / f"nsorch-{os.getuid()}"


@pytest.mark.parametrize("value", ["", "relative", "/nonexistent/run"])
def test_a_runtime_folder_that_is_none_does_not_count(value, no_session, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", value)
    assert paths.runtime_dir() == no_session


def test_a_runtime_folder_of_somebody_else_does_not_count(tmp_path):
    assert paths._is_own_folder(str(tmp_path), os.getuid())
    assert not paths._is_own_folder(str(tmp_path), os.getuid() + 1)
    (tmp_path / "file").touch()
    assert not paths._is_own_folder(str(tmp_path / "file"), os.getuid())


def test_the_folder_in_tmp_is_private_and_used_again(no_session):
    for _ in range(2):
        assert paths.runtime_dir() == no_session
        assert no_session.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("make", [lambda p: p.mkdir(mode=0o755), lambda p: p.symlink_to("/"), lambda p: p.touch()])
def test_a_folder_in_tmp_that_others_prepared_is_refused(make, no_session):
    make(no_session)
    with pytest.raises(OrchError, match=r"is not a folder that only you can use\. Set XDG_RUNTIME_DIR") as caught:
        paths.runtime_dir()
    assert caught.value.problem == "not-allowed"


def test_the_configuration_folders(monkeypatch, xdg):
    monkeypatch.delenv("NSORCH_CONFIG_DIRS", raising=False)
    vendor = paths.vendor_dir()
    own = xdg / "config" / "nsorch"
    assert paths.config_dirs() == [vendor, Path("/usr/lib/nsorch"), Path("/etc/nsorch"), own]
    monkeypatch.setenv("NSORCH_CONFIG_DIRS", "/one:/two::/one/")
    assert paths.config_dirs() == [vendor, Path("/two"), Path("/one")]
    monkeypatch.setenv("NSORCH_CONFIG_DIRS", "")
    assert paths.config_dirs()[-1] == own
