"""What we write: it is whole, it counts, and it says so when it does not."""

import errno
import os

import pytest

from neuroshell_orch.config import write
from neuroshell_orch.config.load import load
from neuroshell_orch.errors import OrchError

MODEL = {"path": "/", "runtime": "genai"}


@pytest.fixture
def home(xdg, monkeypatch):
    """This user's configuration folder, which does not exist yet; the system's are not looked at."""
    monkeypatch.setenv("NSORCH_CONFIG_DIRS", f"{xdg}/etc:{xdg}/config/nsorch")
    return xdg / "config" / "nsorch"


def put(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def hidden(folder):
    return [path for path in folder.rglob("*") if path.name.startswith(".")]


def test_selecting_a_mode(home):
    old = os.umask(0o077)
    try:
        path = write.set_mode("dynamic")
    finally:
        os.umask(old)
    assert path == home / "nsorch.conf.d" / "50-mode.conf"
    assert path.stat().st_mode & 0o777 == 0o644
    assert load().settings.mode == "dynamic"
    write.set_mode("hibernate")
    assert load().settings.mode == "hibernate"
    assert hidden(home) == []
    assert write.reset_mode() == path
    assert load().settings.mode == "timeout"
    write.reset_mode()


def test_selecting_the_mode_of_one_model(home):
    write.add_model("m", MODEL | {"mode": "persistent"})
    path = write.set_mode("dummy-swap", "m")
    assert path == home / "models.d" / "m.conf.d" / "50-mode.conf"
    config = load()
    assert (config.settings.mode, config.mode_of("m").name) == ("timeout", "dummy-swap")
    write.reset_mode("m")
    assert load().mode_of("m").name == "persistent"


def test_another_folder_can_be_written_to(home, tmp_path):
    other = tmp_path / "other"
    assert write.set_mode("dynamic", config_home=other).is_relative_to(other)
    assert not home.exists()


@pytest.mark.parametrize(
    ("call", "problem", "message"),
    [
        (
            lambda: write.set_mode("dynamik"),
            "mode-unknown",
            "there is no mode 'dynamik'. Did you mean dynamic? Modes: a",
        ),
        (lambda: write.set_mode("zzz"), "mode-unknown", "there is no mode 'zzz'. Modes: adaptive, dummy-swap, dynamic"),
        (lambda: write.set_mode("../x"), "mode-unknown", "there is no mode"),
        (lambda: write.set_mode("dynamic", "smol"), "model-unknown", "there is no model 'smol'. Models: none yet."),
        (lambda: write.set_default_model("smol"), "model-unknown", "there is no model 'smol'"),
        (lambda: write.remove_model("smol"), "model-unknown", "there is no model 'smol'"),
        (lambda: write.remove_model("../x"), "bad-request", "'../x' cannot name a model. Use 1 to 64 of a-z"),
        (lambda: write.add_model("A", MODEL), "bad-request", "'A' cannot name a model"),
        (lambda: write.add_model("m", MODEL | {"runtime": "torch"}), "bad-request", "expected one of genai, onnx"),
        (lambda: write.add_model("m", MODEL | {"digest": "1"}), "bad-request", "Digest='1' is not valid here"),
        (lambda: write.add_model("m", MODEL | {"path": "/a\nRuntime=onnx"}), "bad-request", "cannot be written"),
        (lambda: write.add_model("m", MODEL | {"path": "/a "}), "bad-request", "cannot be written"),
        (lambda: write.add_model("m", MODEL | {"description": "a\\"}), "bad-request", "cannot be written"),
        (lambda: write.add_model("m", MODEL | {"path": "/\udcff"}), "bad-request", "byte 0xff is not UTF-8 text"),
        (lambda: write.reset_mode("../../x"), "bad-request", "cannot name a model"),
    ],
)
def test_refusals_name_what_there_is_and_write_nothing(home, call, problem, message):
    with pytest.raises(OrchError) as caught:
        call()
    assert caught.value.problem == problem
    assert message in str(caught.value)
    assert not home.exists()


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("nsorch.conf.d/90-mine.conf", "[Orchestrator]\n# mine\nMode=persistent\n"),
        ("../../etc/nsorch.conf.d/90-admin.conf", "[Orchestrator]\n\nMode=persistent\n"),
    ],
)
def test_a_later_drop_in_that_overrides_is_named(home, file, text):
    put(home / file, text)
    with pytest.raises(
        OrchError, match=r"was written, but .*/90-\w+\.conf:3 overrides it with Mode=persistent"
    ) as caught:
        write.set_mode("dynamic")
    assert caught.value.problem == "config-invalid"
    write.set_mode("persistent")


def test_a_later_drop_in_that_resets_is_told(home):
    put(home / "nsorch.conf.d/90-mine.conf", "[Orchestrator]\nMode=\n")
    with pytest.raises(OrchError, match="was written but does not count"):
        write.set_mode("dynamic")


def test_the_default_mode_can_be_selected_against_an_administrator(home, xdg):
    put(xdg / "etc/nsorch.conf", "[Orchestrator]\nMode=persistent\n")
    write.set_mode("timeout")
    assert load().settings.mode == "timeout"


def test_a_broken_file_elsewhere_does_not_stop_a_change(home):
    put(home / "models.d/bad.conf", "!\n")
    put(home / "nsorch.conf", "[Orchestrator]\nMaxQueue=x\n")
    write.set_mode("dynamic")
    assert load(lenient=True).settings.mode == "dynamic"


def test_a_link_in_place_of_our_file_is_replaced_not_followed(home, tmp_path):
    put(tmp_path / "precious", "text")
    (home / "nsorch.conf.d").mkdir(parents=True)
    (home / "nsorch.conf.d/50-mode.conf").symlink_to(tmp_path / "precious")
    write.set_mode("dynamic")
    assert (tmp_path / "precious").read_text() == "text"
    assert not (home / "nsorch.conf.d/50-mode.conf").is_symlink()


def test_a_folder_that_cannot_be_written_is_a_sentence(home):
    put(home, "a file where the folder belongs")
    with pytest.raises(OrchError, match=r"50-mode\.conf cannot be written: Not a directory") as caught:
        write.set_mode("dynamic")
    assert caught.value.problem == "write-failed"


@pytest.mark.parametrize(
    ("number", "problem"),
    [
        (errno.ENOSPC, "write-failed"),
        (errno.EIO, "write-failed"),
        (errno.EROFS, "not-allowed"),
        (errno.EACCES, "not-allowed"),
    ],
)
def test_a_failed_write_leaves_the_old_file_and_nothing_else(home, monkeypatch, number, problem):
    path = write.set_mode("dynamic")
    before = path.read_text()

    def fail(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OrchError, match=os.strerror(number)) as caught:
        write.set_mode("persistent")
    assert caught.value.problem == problem
    assert path.read_text() == before
    assert hidden(home) == []


def race(workers):
    """Run every function in a process of its own, all at once; the exit codes. A child reports only by its code."""
    reader, writer = os.pipe()
    pids = []
    for work in workers:
        pid = os.fork()
        if not pid:
            code = 99
            try:
                os.close(writer)
                os.read(reader, 1)  # returns when the parent lets everybody go
                code = work()
            finally:
                os._exit(code)
        pids.append(pid)
    os.close(reader)
    os.close(writer)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def test_fifty_at_once_leave_one_valid_file(home):
    modes = ["dynamic", "persistent", "timeout", "dummy-swap", "hibernate"]
    write.set_mode("timeout")

    def setter(mode):
        return lambda: int(not write.set_mode(mode).exists())

    def reader():
        return int(any(load().settings.mode not in modes for _ in range(50)))

    codes = race([setter(modes[number % 5]) for number in range(50)] + [reader] * 2)
    assert codes == [0] * 52
    assert load().settings.mode in modes
    assert load().warnings == []
    assert [path.name for path in (home / "nsorch.conf.d").iterdir()] == ["50-mode.conf"]


def test_of_many_that_add_one_model_at_once_one_wins(home):
    def adder(number):
        def add():
            try:
                write.add_model("m", MODEL | {"threads": number})
            except OrchError as error:
                return 1 if error.problem == "model-exists" else 2
            return 0

        return add

    codes = race([adder(number) for number in range(1, 13)])
    assert sorted(codes) == [0] + [1] * 11
    assert load().models["m"].threads == codes.index(0) + 1
    assert hidden(home) == []


def test_a_model_is_added_once_and_can_be_replaced(home):
    path = write.add_model("m", MODEL)
    assert path == home / "models.d/m.conf"
    with pytest.raises(OrchError, match="there is a model 'm' already") as caught:
        write.add_model("m", MODEL)
    assert caught.value.problem == "model-exists"
    write.add_model("m", MODEL | {"threads": 2}, replace=True)
    assert load().models["m"].threads == 2


@pytest.mark.parametrize("link", [True, False])
def test_a_mask_does_not_stop_an_addition(home, link):
    put(home / "models.d/m.conf", "")
    if link:
        (home / "models.d/m.conf").unlink()
        (home / "models.d/m.conf").symlink_to("/dev/null")
    write.add_model("m", MODEL)
    assert "m" in load().models


def test_removing_takes_the_drop_ins_with_it_but_not_what_is_no_drop_in(home):
    write.add_model("m", MODEL)
    write.set_mode("dynamic", "m")
    put(home / "models.d/m.conf.d/notes.txt", "mine")
    changed = write.remove_model("m")
    assert [path.name for path in changed] == ["m.conf", "50-mode.conf"]
    assert load().warnings == []
    assert [path.name for path in (home / "models.d").rglob("*")] == ["m.conf.d", "notes.txt"]
    with pytest.raises(OrchError, match="there is no model 'm'"):
        write.remove_model("m")


def test_removing_a_broken_model(home):
    put(home / "models.d/m.conf", "!\n")
    write.remove_model("m")
    assert load().warnings == []


def test_removing_what_the_administrator_registered_masks_it(home, xdg):
    put(xdg / "etc/models.d/m.conf", "[Model]\nPath=/\nRuntime=genai\n")
    write.remove_model("m")
    assert os.readlink(home / "models.d/m.conf") == "/dev/null"
    assert "m" not in load().models
    assert (xdg / "etc/models.d/m.conf").exists()
    with pytest.raises(OrchError, match="there is no model 'm'"):
        write.remove_model("m")
    write.add_model("m", MODEL)
    assert load().models["m"].source == f"{home}/models.d/m.conf"
