"""What is opened and what is refused, by the kind of thing that a name stands for."""

from __future__ import annotations

import errno
import os
import socket
import stat

import pytest

from neuroshell_orch import regular


def put(path, content=b"abc"):
    path.write_bytes(content)


def bind(path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(path))


def grow(path):
    with path.open("wb") as file:
        file.truncate(1 << 40)


KINDS = [
    ("a file", put, b"abc"),
    ("an empty file", lambda path: put(path, b""), b""),
    ("a file of just the size", lambda path: put(path, b"12345678"), b"12345678"),
    ("a link to a file", lambda path: (put(path.with_name("b")), path.symlink_to("b")), b"abc"),
    ("one byte more", lambda path: put(path, b"123456789"), regular.TooLargeError),
    ("a giant", grow, regular.TooLargeError),
    ("more than it says", lambda path: path.symlink_to("/proc/self/status"), regular.TooLargeError),
    ("nothing", lambda _path: None, FileNotFoundError),
    ("a dangling link", lambda path: path.symlink_to("nowhere"), FileNotFoundError),
    ("a circle", lambda path: path.symlink_to("a"), OSError),
    ("a folder", lambda path: path.mkdir(), stat.S_IFDIR),
    ("a pipe", os.mkfifo, stat.S_IFIFO),
    ("a socket", bind, stat.S_IFSOCK),
    ("a device", lambda path: path.symlink_to("/dev/zero"), stat.S_IFCHR),
    ("the terminal", lambda path: path.symlink_to("/dev/tty"), stat.S_IFCHR),
]


@pytest.mark.parametrize(("make", "found"), [case[1:] for case in KINDS], ids=[case[0] for case in KINDS])
def test_only_a_regular_file_of_the_size_is_read(tmp_path, make, found):
    path = tmp_path / "a"
    make(path)
    before = len(os.listdir("/proc/self/fd"))
    if isinstance(found, bytes):
        assert regular.read_file(path, 8) == found
    elif isinstance(found, int):
        with pytest.raises(regular.NotRegularError, match="Not a regular file") as caught:
            regular.read_file(path, 8)
        assert stat.S_IFMT(caught.value.facts.st_mode) == found
    else:
        with pytest.raises(found):
            regular.read_file(path, 8)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_name_that_becomes_a_pipe_in_between_does_not_block(tmp_path, monkeypatch):
    put(tmp_path / "a")
    os.mkfifo(tmp_path / "b")
    facts = (tmp_path / "a").stat()
    monkeypatch.setattr(regular.os, "stat", lambda _path: facts)
    with pytest.raises(regular.NotRegularError):
        regular.open_file(tmp_path / "b")


def test_what_was_opened_is_not_inherited_and_the_facts_are_its_own(tmp_path):
    put(tmp_path / "a")
    descriptor, facts = regular.open_file(os.fspath(tmp_path / "a"))
    assert not os.get_inheritable(descriptor)
    assert facts == os.fstat(descriptor)
    os.close(descriptor)


def test_whoever_knows_only_oserror_still_gets_words(tmp_path):
    with pytest.raises(OSError, match="Not a regular file") as caught:
        regular.open_file(tmp_path)
    assert (caught.value.errno, caught.value.strerror) == (errno.EINVAL, "Not a regular file")
