"""Who reads the worker's socket: the main thread while it waits, the reader thread while the main one is busy."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress

import pytest

from neuroshell_orch.workers import connection as module
from neuroshell_orch.workers.connection import Connection
from neuroshell_orch.workers.protocol import Cancel, Generate, Infer, Tensor, encode
from tests.support_daemon import wait_until


class Ends:
    """A connection whose main thread is the test's."""

    def __init__(self):
        self.daemon, worker = socket.socketpair()
        self.connection = Connection(worker)
        self.reader = threading.Thread(target=self.read, daemon=True)

    def read(self):
        with suppress(SystemExit):
            self.connection.read_forever()

    def send(self, *messages):
        self.daemon.sendall(b"".join(map(encode, messages)))


@pytest.fixture
def ends(monkeypatch):
    def leave(_code):
        raise SystemExit

    monkeypatch.setattr(module.os, "_exit", leave)
    it = Ends()
    yield it
    it.daemon.close()
    if it.reader.is_alive():
        it.connection._main = module._Main.BUSY
        it.connection._news.set()
        it.reader.join(10)
        assert not it.reader.is_alive()
    it.connection._sock.close()


def infer(job, size=4):
    return Infer(job, [Tensor("x", "UINT8", [size], os.urandom(size))])


def test_who_waits_reads_by_itself(ends):
    sent = [infer(1), infer(2), infer(3)]
    ends.send(*sent)
    assert [ends.connection.get() for _ in sent] == sent


def test_a_cancel_right_behind_its_request_is_known_before_it_runs(ends):
    ends.send(infer(1), Cancel(1))
    assert ends.connection.get().job == 1
    assert ends.connection.is_cancelled(1)


@pytest.mark.parametrize("size", [0, 1, module._CHUNK - 40, module._CHUNK, 5_000_000])
def test_frames_of_every_size_in_pieces_of_every_size(ends, size):
    sent = [infer(1), infer(2, size), infer(3, size), infer(4)]
    whole = b"".join(map(encode, sent))

    def trickle():
        at = 0
        for step in (1, 2, 3, 50, 7, 100_000, len(whole)):
            ends.daemon.sendall(whole[at : at + step])
            at += step

    writer = threading.Thread(target=trickle)
    writer.start()
    assert [ends.connection.get() for _ in sent] == sent
    writer.join()


@pytest.mark.parametrize("request_", [infer(1), Generate(1, [])], ids=["brief", "lasting"])
def test_a_cancel_overtakes_whatever_takes_longer_than_a_moment(ends, request_):
    ends.reader.start()
    ends.send(request_)
    assert ends.connection.get() == request_
    ends.send(Cancel(1))
    wait_until(lambda: ends.connection.is_cancelled(1))
    ends.send(infer(2))
    assert ends.connection.get() is None, "the cancel, for whoever waits for news"
    assert ends.connection.get().job == 2


def test_a_reader_that_sleeps_is_woken_by_the_next_request(ends, monkeypatch):
    monkeypatch.setattr(module, "_QUIET", 0)
    ends.connection._main = module._Main.WAITS
    ends.reader.start()
    wait_until(lambda: ends.connection._asleep)
    ends.send(infer(1))
    assert ends.connection.get().job == 1
    ends.send(Cancel(1))
    wait_until(lambda: ends.connection.is_cancelled(1))


def test_a_reader_that_was_just_through_when_the_main_thread_came_reads_on(ends):
    ends.connection._main = module._Main.WAITS
    ends.connection._reads.acquire()  # it has handed on a frame and not let go yet
    ends.reader.start()
    got = []
    main = threading.Thread(target=lambda: got.append(ends.connection.get()))
    main.start()
    wait_until(lambda: ends.connection._main is module._Main.LISTENS)
    ends.connection._reads.release()
    ends.send(infer(1))
    main.join(10)
    assert got
    assert got[0].job == 1


def test_what_the_reader_put_there_before_it_let_go_is_not_waited_for(ends):
    class Lock:
        """Whoever held it put a request there just before it was let go."""

        def acquire(self, *, blocking):
            assert not blocking
            ends.connection.requests.put(infer(1))
            return True

        def release(self):
            pass

    ends.connection._reads = Lock()
    got = []
    main = threading.Thread(target=lambda: got.append(ends.connection.get()), daemon=True)
    main.start()
    main.join(10)
    assert got
    assert got[0].job == 1


def test_the_end_of_the_daemon_ends_it_whoever_reads(ends):
    ends.reader.start()
    ends.daemon.close()
    ends.reader.join(10)
    assert not ends.reader.is_alive()
    with pytest.raises(SystemExit):
        ends.connection.get()
