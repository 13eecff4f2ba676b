"""The syntax of one file, and every way in which a file can be no file at all."""

import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroshell_orch.config.parse import MAX_FILE, parse_bytes, parse_file, parse_text
from neuroshell_orch.config.schema import SECTIONS, resolve


def parsed(text):
    result = parse_text(text, "f.conf")
    return (
        [(item.section, item.key, item.value, item.line) for item in result.assignments],
        [(finding.line, finding.message) for finding in result.findings],
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[A]\nX=1\n", [("A", "X", "1", 2)]),
        ("[A]\r\nX=1\r\n", [("A", "X", "1", 2)]),
        ("[A]\nX=1", [("A", "X", "1", 2)]),
        ("  [A]  \n  X  =  1  2  \n", [("A", "X", "1  2", 2)]),
        ("[A]\nX=\n", [("A", "X", "", 2)]),
        ("[A]\nX=a=b\n", [("A", "X", "a=b", 2)]),
        ("# c\n; c\n\n[A]\n #c\nX=1 # kept\n", [("A", "X", "1 # kept", 6)]),
        ("[A]\nX=1\\\n  2\\\n3\nY=4\n", [("A", "X", "1 2 3", 2), ("A", "Y", "4", 5)]),
        ("[A]\nX=1 \\\n# between\n2\n", [("A", "X", "1 2", 2)]),
        ("[A]\nX=1\\", [("A", "X", "1", 2)]),
        ("[A]\nX=1\\\n\nY=2\n", [("A", "X", "1", 2), ("A", "Y", "2", 4)]),
        ("[A]\nX=1\n[B]\nX=2\n[A]\nX=3\n", [("A", "X", "1", 2), ("B", "X", "2", 4), ("A", "X", "3", 6)]),
        ("[A]\nX=ä\tö\u2028\n", [("A", "X", "ä\tö", 2)]),
        ("\\\n\\\n", []),
        ("", []),
    ],
)
def test_syntax(text, expected):
    assert parsed(text) == (expected, [])


def test_a_byte_order_mark_is_skipped():
    assert parse_bytes(b"\xef\xbb\xbf[A]\nX=1\n", "f").assignments[0].key == "X"


def test_every_syntax_error_is_told_with_its_line_and_the_rest_still_counts():
    text = "Early=1\n[A]\nnonsense\n=5\n[B\n[]\n[C][D]\nX=1\nY=a\x00b\nZ=\x1b[31m\nW=\x9b\nV=2\n"
    assignments, findings = parsed(text)
    assert assignments == [("A", "X", "1", 8), ("A", "V", "2", 12)]
    assert findings == [
        (1, "'Early'= stands before the first [Section]"),
        (3, "'nonsense' is not an assignment: expected Key=Value"),
        (4, "'=5' is not an assignment: expected Key=Value"),
        (5, "'[B' is not a section: expected [Name] on a line of its own"),
        (6, "'[]' is not a section: expected [Name] on a line of its own"),
        (7, "'[C][D]' is not a section: expected [Name] on a line of its own"),
        (9, "the line holds a control character"),
        (10, "the line holds a control character"),
        (11, "the line holds a control character"),
    ]


def test_a_byte_that_is_not_text_is_told_with_its_line():
    result = parse_bytes(b"[A]\nX=1\nY=\xff\n", "f.conf")
    assert str(result.findings[0]) == "f.conf:3: error: byte 0xff is not UTF-8 text"
    assert result.assignments == []


def only_finding(path):
    result = parse_file(str(path))
    assert result.assignments == []
    assert not result.masked
    (finding,) = result.findings
    assert (finding.severity, finding.path, finding.line) == ("error", str(path), 0)
    return finding.message


def test_a_link_that_leads_in_a_circle(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert only_finding(tmp_path / "a") == "it is a link that leads in a circle"


def test_a_link_to_nothing(tmp_path):
    (tmp_path / "a").symlink_to("nothing")
    assert only_finding(tmp_path / "a") == "it is a link to a file that does not exist"


def test_a_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "a")
    assert only_finding(tmp_path / "a") == "it is not a regular file"


def test_a_socket(tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "a"))
        assert only_finding(tmp_path / "a") == "it is not a regular file"


def test_a_folder(tmp_path):
    assert only_finding(tmp_path) == "it is a folder, not a file"


def test_a_device_other_than_null(tmp_path):
    (tmp_path / "a").symlink_to("/dev/zero")
    assert only_finding(tmp_path / "a") == "it is not a regular file"


def test_a_huge_file_is_not_read_whole(tmp_path):
    with (tmp_path / "a").open("wb") as file:
        file.truncate(1 << 40)
    assert only_finding(tmp_path / "a").startswith("it is larger than 1 MiB")


def test_a_file_of_the_greatest_size_is_read(tmp_path):
    (tmp_path / "a").write_bytes(b"[A]\nX=1\n".ljust(MAX_FILE, b"#"))
    assert parse_file(str(tmp_path / "a")).findings == []


def test_a_file_without_permission(tmp_path):
    path = tmp_path / "a"
    path.write_text("[A]\n")
    path.chmod(0)
    if os.geteuid() != 0:
        assert only_finding(path) == "it cannot be read: Permission denied"
        return
    pid = os.fork()  # root may read everything: look with the eyes of somebody else
    if not pid:
        code = 1
        try:
            tmp_path.chmod(0o755)
            os.chdir(tmp_path)
            os.setgid(65534)
            os.setuid(65534)
            code = 0 if parse_file("a").findings[0].message == "it cannot be read: Permission denied" else 2
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.parametrize("make", [lambda p: p.write_text(""), lambda p: p.symlink_to("/dev/null")])
def test_masks(tmp_path, make):
    make(tmp_path / "a")
    assert parse_file(str(tmp_path / "a")).masked


def test_a_file_that_has_just_vanished_counts_as_empty(tmp_path):
    assert parse_file(str(tmp_path / "a")) == parse_file("/dev/null")


def test_a_finding_can_be_printed_whatever_the_name_holds(tmp_path):
    path = os.fsdecode(b"/nowhere/\xff\n.conf")
    finding = parse_bytes(b"x\n", path).findings[0]
    assert finding.where == "/nowhere/\\\\xff\\n.conf:1"
    str(finding).encode()


LINES = st.sampled_from(
    [
        "[Orchestrator]",
        "[Mode]",
        "[Model]",
        "[",
        "Mode=timeout",
        "IdleSec=5min",
        "Path=/x",
        "=",
        "\\",
        "# c",
        "Threads=\\",
        "X-Y=1",
    ]
)
TEXTS = st.one_of(st.text(), st.lists(LINES | st.text(max_size=12)).map("\n".join))


@given(TEXTS)
def test_any_text_gives_findings_and_nothing_else(text):
    result = parse_text(text, "f")
    for section in SECTIONS:
        found = resolve(section, result.assignments)
        for finding in (*result.findings, *found.findings):
            assert finding.line > 0
            assert finding.message


@given(st.binary())
def test_any_bytes_give_findings_and_nothing_else(content):
    for finding in parse_bytes(content, "f").findings:
        assert 0 < finding.line <= content.count(b"\n") + 1
