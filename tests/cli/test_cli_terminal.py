"""What a person at a terminal sees: colour, the waiting line, the chat's keys. A pseudo-terminal plays the person."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import termios
import time

import pytest
from support_cli import wait_until


class Terminal:
    """A program on a pseudo-terminal; what it wrote is in ``seen``."""

    def __init__(self, world, *arguments, env=None) -> None:
        self.master, slave = pty.openpty()
        self.process = world.start(
            *arguments,
            env={"TERM": "xterm", **(env or {})},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # Ctrl-C becomes SIGINT
        )
        os.close(slave)
        self.seen = ""

    def read(self) -> bool:
        """Read what there is; False at the end."""
        if select.select([self.master], [], [], 0.05)[0]:
            try:
                data = os.read(self.master, 65536)
            except OSError:
                return False
            self.seen += data.decode("utf-8", "replace")
            return bool(data)
        return True

    def expect(self, pattern: str, seconds: float = 20.0) -> None:
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, self.seen)):
            assert time.monotonic() < end, f"{pattern!r} did not appear in {self.seen!r}"
            assert self.read() or re.search(pattern, self.seen), f"it ended with {self.seen!r}"
        self.seen = self.seen[found.end() :]

    def send(self, text: str) -> None:
        os.write(self.master, text.encode())

    def end(self) -> int:
        """Wait for the end and take in everything."""
        end = time.monotonic() + 20
        while self.read():
            assert time.monotonic() < end, f"it did not end after {self.seen!r}"
        code = self.process.wait(20)
        os.close(self.master)
        return code


@pytest.fixture
def terminal(nsorch):
    opened = []

    def start(*arguments, env=None):
        opened.append(Terminal(nsorch, *arguments, env=env))
        return opened[-1]

    yield start
    for one in opened:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()
        try:
            os.close(one.master)
        except OSError:
            continue


def test_a_terminal_gets_colour(nsorch, terminal):
    nsorch.daemon()
    screen = terminal("ps")
    assert screen.end() == 0
    assert "\x1b[1mNAME" in screen.seen


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
@pytest.mark.parametrize("arguments", [["ps"], ["doctor"], ["status"], ["config", "cat"], ["why", "nope"], ["--help"]])
def test_no_color_is_respected(nsorch, terminal, env, arguments):
    nsorch.daemon()
    screen = terminal(*arguments, env=env)
    screen.end()
    assert screen.seen
    assert "\x1b[" not in screen.seen


def test_an_answer_cannot_drive_the_terminal(nsorch, terminal):
    nsorch.daemon(pieces=["a\x1b]0;title\x07\x1b[2Jb\r\u009b1mc\n"])
    screen = terminal("ask", "hi")
    assert screen.end() == 0
    assert "a]0;title[2Jb1mc" in screen.seen
    assert "\x1b[2J" not in screen.seen


def test_waiting_is_shown_after_a_second_and_taken_away(nsorch, terminal):
    nsorch.daemon(delay=1.6, pieces=["word"])
    screen = terminal("ask", "hi")
    screen.expect("waiting for the model… 1 s")
    assert screen.end() == 0
    assert screen.seen.split("\x1b[K")[-1] == "word\r\n"


def test_chat_keeps_the_history_and_clears_it(nsorch, terminal):
    nsorch.daemon(echo=True)
    screen = terminal("chat", "--system", "Be brief.")
    screen.expect(">>> ")
    screen.send("one\n")
    screen.expect("2:one\r\n")
    screen.expect(">>> ")
    screen.send("two\n")
    screen.expect("4:two\r\n")
    screen.expect(">>> ")
    screen.send("/clear\n")
    screen.expect(">>> ")
    screen.send("three\n")
    screen.expect("2:three\r\n")
    screen.expect(">>> ")
    screen.send("/exit\n")
    assert screen.end() == 0


def test_ctrl_c_cancels_the_answer_and_not_the_chat(nsorch, terminal):
    nsorch.daemon(pieces=["word "] * 2000, delay=0.02)
    screen = terminal("chat")
    screen.expect(">>> ")
    screen.send("one\n")
    screen.expect("word ")
    screen.send("\x03")
    screen.expect(r"\(stopped\)")
    wait_until(lambda: {"cancelled": True} in nsorch.log())
    screen.expect(">>> ")
    screen.send("\x03")
    screen.expect(">>> ")
    screen.send("\x04")
    assert screen.end() == 0


def test_a_failed_turn_leaves_the_chat_and_its_history_as_they_were(nsorch, terminal):
    nsorch.daemon(error=[404, {"error": {"message": "No such model.", "code": "model-unknown"}}])
    screen = terminal("chat")
    screen.expect(">>> ")
    screen.send("one\n")
    screen.expect("No such model")
    screen.expect(">>> ")
    screen.send("two\n")
    screen.expect("No such model")
    screen.expect(">>> ")
    screen.send("\x04")
    assert screen.end() == 0
    assert [len(entry["body"]["messages"]) for entry in nsorch.log()] == [1, 1]


def test_chat_from_a_pipe_is_a_list_of_turns(nsorch):
    nsorch.daemon(echo=True)
    result = nsorch("chat", stdin=b"one\n\ntwo\n")
    assert (result.code, result.out) == (0, "1:one\n3:two\n")


def test_ctrl_c_in_a_terminal_ends_ask_with_130(nsorch, terminal):
    nsorch.daemon(pieces=["word "] * 2000, delay=0.02)
    screen = terminal("ask", "hi")
    screen.expect("word ")
    screen.send("\x03")
    assert screen.end() == 130
    assert "Traceback" not in screen.seen
