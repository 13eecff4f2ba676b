"""``nsorch ask``: what goes into the request, what comes out, and how it ends when something breaks."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from support_cli import wait_until


def asked(world):
    return next(entry["body"] for entry in world.log() if entry.get("path") == "/v1/chat/completions")


def test_prints_the_answer(nsorch):
    nsorch.daemon()
    result = nsorch("ask", "What is the capital of France?")
    assert (result.code, result.out, result.err) == (0, "Paris is it.\n", "")


def test_sends_what_the_options_say_and_nothing_else(nsorch):
    nsorch.daemon()
    nsorch("ask", "hello")
    body = asked(nsorch)
    assert body["messages"] == [{"role": "user", "content": "hello"}]
    assert set(body) == {"messages", "stream", "stream_options"}


def test_every_option_reaches_the_request(nsorch):
    nsorch.daemon()
    options = ["-m", "tiny", "--system", "Be brief.", "--max-tokens", "9", "--temperature", "0.5", "--seed", "3"]
    result = nsorch("ask", "two", "words", *options)
    assert result.code == 0, result
    body = asked(nsorch)
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "two words"},
    ]
    assert (body["model"], body["max_tokens"], body["temperature"], body["seed"]) == ("tiny", 9, 0.5, 3)


@pytest.mark.parametrize(
    ("words", "stdin", "prompt"),
    [
        (["summarise this"], b"diff --git\n", "summarise this\n\ndiff --git"),
        ([], b"only piped", "only piped"),
        (["-"], b"only piped", "only piped"),
        (["no pipe"], b"", "no pipe"),
        (["bad"], b"\xff utf-8", "bad\n\n� utf-8"),
        (["grüße"], "ü".encode(), "grüße\n\nü"),
    ],
)
def test_standard_input_is_added_to_the_prompt(nsorch, words, stdin, prompt):
    nsorch.daemon()
    result = nsorch("ask", *words, stdin=stdin)
    assert result.code == 0, result
    assert asked(nsorch)["messages"][-1]["content"] == prompt


def test_a_prompt_on_the_command_line_works_with_standard_input_closed(nsorch):
    nsorch.daemon()
    process = nsorch.start("ask", "hi", stdin=None, preexec_fn=lambda: os.close(0))
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, b"Paris is it.\n", b"")


@pytest.mark.parametrize("words", [[], [""], ["  "], ["-"]])
def test_an_empty_prompt_is_told_and_asks_nobody(nsorch, words):
    nsorch.daemon()
    result = nsorch("ask", *words)
    assert (result.code, result.out) == (4, "")
    assert re.fullmatch("nsorch: The prompt is empty.\nType one: .*\n", result.err)
    assert not nsorch.log()


def test_bytes_that_are_no_text_are_refused(nsorch):
    nsorch.daemon()
    result = nsorch("ask", "what is this", stdin=b"\x7fELF\0\0")
    assert result.code == 4
    assert "not text" in result.err


def test_stats_go_to_stderr(nsorch):
    nsorch.daemon()
    result = nsorch("ask", "hi", "--stats")
    assert result.out == "Paris is it.\n"
    assert result.err.startswith("tiny: 5 + 3 tokens, 6.0 tok/s, first token ")


def test_json_is_one_object(nsorch):
    nsorch.daemon()
    data = nsorch("ask", "hi", "--json").json
    assert (data["text"], data["model"], data["finish_reason"]) == ("Paris is it.", "tiny", "stop")
    assert data["usage"]["completion_tokens"] == 3
    assert 0 < data["first_token_seconds"] <= data["total_seconds"]


def test_text_is_printed_while_it_arrives(nsorch):
    nsorch.daemon(pieces=["first ", *["more "] * 1000], delay=0.05)
    process = nsorch.start("ask", "hi")
    assert os.read(process.stdout.fileno(), 6) == b"first "
    assert process.poll() is None


def test_ctrl_c_closes_the_connection_and_exits_130(nsorch):
    nsorch.daemon(pieces=["word "] * 2000, delay=0.02)
    process = nsorch.start("ask", "hi")
    os.read(process.stdout.fileno(), 1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, b"")
    assert out.endswith(b"\n")
    wait_until(lambda: {"cancelled": True} in nsorch.log())


def test_ctrl_c_before_the_first_token(nsorch):
    nsorch.daemon(hang=True)
    process = nsorch.start("ask", "hi")
    wait_until(nsorch.log)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (130, b"", b"")


def test_a_closed_pipe_ends_it_quietly_and_cancels(nsorch):
    nsorch.daemon(pieces=["word\n"] * 5000, delay=0.005)
    process = nsorch.start("ask", "hi")
    head = subprocess.run(["head", "-n", "1"], stdin=process.stdout, capture_output=True, check=True)
    process.stdout.close()
    assert head.stdout == b"word\n"
    assert process.wait(20) == 141
    assert process.stderr.read() == b""
    wait_until(lambda: {"cancelled": True} in nsorch.log())


@pytest.mark.parametrize(
    ("status", "body", "code", "first", "second"),
    [
        (404, {"error": {"message": "No m.", "code": "model-unknown", "hint": "H."}}, 3, "No m.", "H."),
        (400, {"error": {"message": "Long.", "code": "prompt-too-long", "hint": "Cut."}}, 4, "Long.", "Cut."),
        (429, {"error": {"message": "Full.", "code": "queue-full", "hint": ""}}, 7, "Full.", None),
        (503, {"error": {"message": "Slow.", "code": "load-timeout", "hint": "Wait."}}, 6, "Slow.", "Wait."),
        (503, {"problem": "service-stopping", "message": "Bye.", "hint": "Again."}, 5, "Bye.", "Again."),
        (404, {"error": "Sentence.", "problem": "not-found", "hint": "Do."}, 3, "Sentence.", "Do."),
        (404, {"error": {"message": "No m. H.", "code": "model-unknown", "hint": "H."}}, 3, "No m.", "H."),
        (404, {"error": {"message": "Odd.", "code": "invented"}}, 3, "Odd.", None),
        (500, "<html>", 1, "The service answered with status 500.", None),
        (500, [1], 1, "The service answered with status 500.", None),
    ],
)
def test_every_shape_of_error_is_a_sentence_and_an_exit_code(nsorch, status, body, code, first, second):
    nsorch.daemon(error=[status, body])
    result = nsorch("ask", "hi")
    assert (result.code, result.out) == (code, "")
    assert result.err.splitlines() == [f"nsorch: {first}", *([second] if second else [])]


def test_an_error_after_the_answer_began(nsorch):
    nsorch.daemon(error_after=1)
    result = nsorch("ask", "hi")
    assert (result.code, result.out) == (6, "Paris\n")
    assert result.err == "nsorch: The worker died.\nAsk again.\n"


def test_a_daemon_that_dies_in_the_middle(nsorch):
    nsorch.daemon(die_after=1)
    result = nsorch("ask", "hi")
    assert (result.code, result.out) == (5, "Paris\n")
    assert "in the middle of the answer" in result.err
    assert "journalctl --user" in result.err


def test_a_model_cannot_drive_the_terminal_but_a_file_gets_every_byte(nsorch):
    nsorch.daemon(pieces=["a\x1b[31mred\x07"])
    assert nsorch("ask", "hi").out == "a\x1b[31mred\x07\n"


@pytest.mark.parametrize(
    "arguments", [["--temperature", "9"], ["--max-tokens", "0"], ["--seed", "x"], ["--nope"], ["-m"]]
)
def test_wrong_usage_is_exit_code_2(nsorch, arguments):
    nsorch.daemon()
    result = nsorch("ask", "hi", *arguments)
    assert (result.code, result.out) == (2, "")
    assert result.err.splitlines()[-1].startswith("Error: ")
    assert not nsorch.log()


def test_a_named_socket_that_is_not_there_is_told_and_not_replaced(nsorch):
    result = nsorch("ask", "hi", env={"NSORCH_SOCKET": str(nsorch.root / "no.sock")})
    assert result.code == 5
    assert "no.sock" in result.err
    assert "nsorch doctor" in result.err


def obey_permissions():
    """Root may connect to everything: drop CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH from what exec gives it."""
    for capability in (1, 2):
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)


def test_a_socket_without_permission(nsorch):
    nsorch.daemon()
    (nsorch.run_dir / "api.sock").chmod(0)
    process = nsorch.start("ask", "hi", preexec_fn=obey_permissions)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (5, b"")
    assert b"Not allowed to connect" in err
    assert b"as the user whose service it is" in err


def test_bytes_on_the_command_line_that_are_no_text_become_question_marks(nsorch):
    nsorch.daemon()
    process = nsorch.start("ask", b"caf\xe9")
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert asked(nsorch)["messages"][-1]["content"] == "caf?"


def test_an_output_that_knows_no_umlauts_gets_question_marks(nsorch):
    nsorch.daemon(pieces=["gr\u00fc\u00dfe"])
    result = nsorch("ask", "hi", env={"PYTHONIOENCODING": "ascii"})
    assert (result.code, result.out, result.err) == (0, "gr??e\n", "")


@pytest.mark.parametrize("arguments", [["ask", "hi"], ["ps"], ["--version"]])
def test_closed_output_is_no_crash(nsorch, arguments):
    nsorch.daemon()
    process = nsorch.start(*arguments, preexec_fn=lambda: os.close(1))
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, b"")


@pytest.mark.parametrize("arguments", [["ask", "hi"], ["ps"], ["--version"]])
def test_a_full_disk_is_told(nsorch, arguments):
    nsorch.daemon()
    with Path("/dev/full").open("wb") as full:
        process = nsorch.start(*arguments, stdout=full)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (1, b"nsorch: The output cannot be written: No space left on device.\n")


def test_a_long_prompt_arrives_whole(nsorch):
    nsorch.daemon()
    text = "word " * 200_000
    assert nsorch("ask", stdin=text.encode()).code == 0
    assert asked(nsorch)["messages"][-1]["content"] == text.strip()
