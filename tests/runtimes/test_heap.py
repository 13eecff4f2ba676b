"""The allocator's thresholds while a model is loaded: set, put back whatever happens, and left alone where they are
somebody's own."""

from __future__ import annotations

import ctypes

import pytest

from neuroshell_orch.runtimes import heap
from neuroshell_orch.workers.environment import worker_environment

USUAL = {-1: 128 << 10, -2: 128 << 10, -3: 128 << 10}


class Function:
    """In the place of a function of the C library."""

    def __init__(self, call):
        self._call = call

    def __call__(self, *arguments):
        return self._call(*arguments)


class Libc:
    def __init__(self):
        self.now = dict(USUAL)
        self.freed = []
        self.mallopt = Function(self.now.__setitem__)
        self.malloc = Function(lambda size: size)
        self.free = Function(self.freed.append)


@pytest.fixture
def libc(monkeypatch):
    found = Libc()
    monkeypatch.setattr(ctypes, "CDLL", lambda _: found)
    monkeypatch.setenv("GLIBC_TUNABLES", worker_environment({}, {})["GLIBC_TUNABLES"])
    return found


def test_the_thresholds_are_put_back_and_the_heaps_end_is_looked_at(libc):
    with pytest.raises(RuntimeError), heap.loading():  # noqa: PT012
        assert libc.now[-3] > USUAL[-3]
        assert libc.now[-1] > libc.now[-3], "what is freed stays"
        assert not libc.freed
        raise RuntimeError
    assert libc.now == USUAL
    (touched,) = libc.freed
    assert 64 << 10 < touched < USUAL[-3], "as the allocator wants it, and from the heap"


@pytest.mark.parametrize("set_by_a_person", ["", "glibc.malloc.mmap_threshold=65536", "glibc.malloc.check=1"])
def test_thresholds_of_others_are_left_alone(libc, monkeypatch, set_by_a_person):
    monkeypatch.setenv("GLIBC_TUNABLES", set_by_a_person)
    with heap.loading():
        assert libc.now == USUAL
    assert not libc.freed
