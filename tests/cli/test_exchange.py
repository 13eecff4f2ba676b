"""Reading responses: every way in which a body is delimited, cut anywhere; and the early beginning of a request."""

from __future__ import annotations

import socket
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroshell_orch import exchange
from neuroshell_orch.cli import early
from neuroshell_orch.client import Client
from neuroshell_orch.errors import OrchError
from neuroshell_orch.exchange import BrokenAnswerError, Response

LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=1\r\nllo\r\n0\r\nTrailer: x\r\n\r\n"
UNTIL_END = b"HTTP/1.1 200\r\nX-Some: Thing\r\n\r\nhello"


def response(data: bytes, cuts=()):
    ours, theirs = socket.socketpair()

    def say():
        with theirs:
            last = 0
            for cut in [*sorted(cuts), len(data)]:
                theirs.sendall(data[last:cut])
                last = cut

    thread = threading.Thread(target=say)
    thread.start()
    try:
        return Response(ours)
    except BaseException:
        ours.close()
        raise
    finally:
        thread.join()


def read(data):
    answer = response(data)
    try:
        return answer.read()
    finally:
        answer.close()


@pytest.mark.parametrize("data", [LENGTH, CHUNKED, UNTIL_END, b"HTTP/1.1 100 Continue\r\n\r\n" + LENGTH])
@given(cuts=st.sets(st.integers(1, 60), max_size=6))
def test_a_body_is_read_however_it_comes(data, cuts):
    answer = response(data, [cut for cut in cuts if cut < len(data)])
    assert (answer.status, answer.read(), answer.read1()) == (200, b"hello", b"")
    answer.close()


def test_headers_have_no_case():
    answer = response(UNTIL_END)
    assert (answer.header("x-some"), answer.header("X-SOME"), answer.header("other")) == ("Thing", "Thing", None)
    answer.close()


@pytest.mark.parametrize("data", [b"HTTP/1.1 204 No\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"])
def test_no_body_is_empty(data):
    answer = response(data)
    assert answer.read() == b""
    answer.close()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"SSH-2.0-x\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        LENGTH[:-1],
        CHUNKED[:-4],
        CHUNKED[:60],
        CHUNKED.replace(b"2\r\nhe\r\n", b"2\r\nhexx\r\n"),
        CHUNKED.replace(b"\r\n2\r\n", b"\r\nzz\r\n"),
    ],
)
def test_what_is_no_answer_is_an_error(data):
    with pytest.raises(BrokenAnswerError):
        read(data)


def test_a_chunk_is_handed_on_before_its_end_has_come():
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe")
        answer = Response(ours)
        assert answer.read1() == b"he"
        theirs.sendall(b"\r\n0\r\n\r\n")
        assert answer.read1() == b""
    answer.close()


class Listener:
    """Answers one connection after the other and remembers what was sent."""

    def __init__(self, path):
        self.path = str(path)
        self.heard = []
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(self.path)
        self.socket.listen(4)
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self):
        while True:
            connection, _ = self.socket.accept()
            with connection:
                data = b""
                while b"\r\n\r\n" not in data and (more := connection.recv(4096)):
                    data += more
                if data == b"end":
                    return
                self.heard.append(data)
                if b"\r\n\r\n" in data:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    def connect(self):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(self.path)
        return sock

    def close(self):
        with self.connect() as sock:
            sock.sendall(b"end")
        self.thread.join()
        self.socket.close()


@pytest.fixture
def listener(tmp_path):
    listener = Listener(tmp_path / "s")
    yield listener
    listener.close()


def test_a_request_that_was_begun_is_ended_and_sent_once(listener):
    begun = exchange.beginning("POST", "/x") + b"X-Early: 1\r\n"
    sock = listener.connect()
    sock.sendall(begun)
    client = Client(listener.connect, ready=sock, begun=begun)
    assert client.call("POST", "/x", {}) == {}
    assert client.call("POST", "/x", {}) == {}
    assert [data.count(b"POST /x") for data in listener.heard] == [1, 1]
    assert [data.count(b"X-Early") for data in listener.heard] == [1, 0]


def test_another_request_takes_another_connection(listener):
    begun = exchange.beginning("POST", "/x")
    sock = listener.connect()
    sock.sendall(begun)
    assert Client(listener.connect, ready=sock, begun=begun).call("GET", "/y") == {}
    assert [data.split(b"\r\n")[0] for data in listener.heard] == [b"POST /x HTTP/1.1", b"GET /y HTTP/1.1"]


def test_an_early_connection_that_was_closed_is_replaced(listener):
    ours, theirs = socket.socketpair()
    theirs.close()
    assert Client(listener.connect, ready=ours, begun=exchange.beginning("GET", "/y")).call("GET", "/y") == {}
    assert listener.heard[0].startswith(b"GET /y HTTP/1.1")


def test_the_end_in_the_middle_is_told(tmp_path):
    def half():
        ours, theirs = socket.socketpair()
        with theirs:
            theirs.sendall(LENGTH[:-2])
        return ours

    with pytest.raises(OrchError, match="middle of the answer"):
        Client(half).call("GET", "/y")


@pytest.mark.parametrize(
    ("words", "model"),
    [
        (["hi"], ""),
        (["-m", "a", "hi"], "a"),
        (["hi", "--model=b"], "b"),
        (["-mc"], "c"),
        (["--", "-m", "a"], ""),
        (["-m"], ""),
    ],
)
def test_the_model_of_a_command_line(words, model):
    assert early.model(words) == model
