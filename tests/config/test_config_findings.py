"""Every error and every warning with its place; what lenient and strict each do."""

import os

import pytest

from neuroshell_orch.config.load import ConfigError, check, load
from neuroshell_orch.config.schema import ModeSettings
from tests.config.support_tree import NULL, queue

MODEL = "[Model]\nPath=/\nRuntime=genai\n"


@pytest.mark.parametrize(
    ("file", "text", "line", "message"),
    [
        (
            "nsorch.conf",
            "[Orchestrator]\nIdleExitSec=soon\n",
            2,
            "IdleExitSec='soon' is not valid here: expected a number of seconds",
        ),
        ("nsorch.conf", "[Orchestrator]\nLoadTimeoutSec=0\n", 2, "infinity; more than 0"),
        (
            "nsorch.conf",
            "[Orchestrator]\n\nMaxQueue=0\n",
            3,
            "MaxQueue='0' is not valid here: expected a whole number from 1 to 65536",
        ),
        ("nsorch.conf", "[Orchestrator]\nLogLevel=loud\n", 2, "expected one of debug, info, warning, error"),
        ("nsorch.conf", "[Orchestrator]\nWorkerLauncher=docker\n", 2, "expected one of auto, systemd, child"),
        ("nsorch.conf", "[Orchestrator]\nWorkerMemoryMax=0\n", 2, "expected more than 0 bytes"),
        ("nsorch.conf", "[Orchestrator]\nWorkerMemoryMax=2GB\n", 2, "a size such as 512K"),
        ("nsorch.conf", "[Orchestrator]\nMaxQueue=5 # few\n", 2, "; a comment needs a line of its own"),
        (
            "nsorch.conf",
            "[Orchestrator]\nMode=dynamc\n",
            2,
            "Mode=dynamc names no mode: did you mean dynamic? (there are adaptive, dummy-swap, ",
        ),
        ("nsorch.conf", "[Orchestrator]\nMode=zzz\n", 2, "Mode=zzz names no mode: there are adaptive, dummy-swap"),
        ("nsorch.conf", "[Orchestrator]\nMode=../x\n", 2, "expected 1 to 64 of a-z"),
        ("nsorch.conf.d/9.conf", "MaxQueue=1\n", 1, "stands before the first [Section]"),
        (
            "modes.d/x.conf",
            "[Mode]\nPolicy=lazy\n",
            2,
            "expected one of dynamic, persistent, timeout, dummy-swap, hibernate, adaptive",
        ),
        ("modes.d/x.conf", "[Mode]\nIdleSec=1\n", 0, "Policy= is missing in [Mode]: expected one of dynamic"),
        ("modes.d/timeout.conf", "[Mode]\nIdleSec=1\n", 0, "to change single values use timeout.conf.d/NAME.conf"),
        (
            "modes.d/x.conf",
            "[Mode]\nPolicy=dynamic\nStandby=perhaps\n",
            3,
            "Standby='perhaps' is not valid here: expected yes",
        ),
        ("modes.d/Big Mode.conf", "[Mode]\nPolicy=dynamic\n", 0, "its name is not valid: expected 1 to 64 of a-z"),
        ("models.d/m.conf", "[Model]\nRuntime=genai\n", 0, "Path= is missing in [Model]: expected an absolute path"),
        ("models.d/m.conf", "[Model]\nPath=/\nRuntime=torch\n", 3, "expected one of genai, onnx"),
        (
            "models.d/m.conf",
            "[Model]\nPath=here\nRuntime=onnx\n",
            2,
            "Path='here' is not valid here: expected an absolute path",
        ),
        ("models.d/m.conf", MODEL + "Digest=md5:1\n", 4, "expected sha256: and 64 hexadecimal digits"),
        ("models.d/m.conf", MODEL + "Threads=-1\n", 4, "expected a whole number from 0 to 4096"),
        ("models.d/m.conf", MODEL + "Threads=²\n", 4, "expected a whole number from 0 to 4096"),
        ("models.d/m.conf", MODEL + "Mode=swap\n", 4, "Mode=swap names no mode: there are "),
        ("models.d/m.conf", MODEL + "MemoryMax=200%\n", 4, "a share lies between"),
        ("models.d/m.conf.d/9.conf", "[Model]\nThreads=many\n", 2, "Threads='many' is not valid here"),
        ("models.d/M.conf", MODEL, 0, "its name is not valid"),
    ],
)
def test_every_error_is_told_once_with_its_place(tree, tmp_path, file, text, line, message):
    dirs = tree({"a/models.d/m.conf": MODEL, f"b/{file}": text})
    with pytest.raises(ConfigError) as caught:
        load(dirs)
    (finding,) = caught.value.findings
    assert (finding.severity, finding.path, finding.line) == ("error", f"{tmp_path}/b/{file}", line)
    assert message in finding.message
    assert f"{finding.where}: {finding.message}" in str(caught.value)
    assert caught.value.problem == "config-invalid"
    assert check(dirs) == load(dirs, lenient=True).warnings == [finding]


@pytest.mark.parametrize(
    ("file", "text", "line", "message"),
    [
        (
            "nsorch.conf",
            "[Orchestrator]\nMaxQeue=1\n",
            2,
            "MaxQeue= is not a key of [Orchestrator] and is ignored: did you mean MaxQueue=?",
        ),
        ("nsorch.conf", "[Orchestrator]\nmaxqueue=1\n", 2, "did you mean MaxQueue=?"),
        ("nsorch.conf", "[Orchestrator]\nForgetSec=1\n", 2, "it belongs in [Mode], in modes.d/NAME.conf"),
        ("nsorch.conf", "[Orchestrator]\nZzz=1\n", 2, "there are Mode, DefaultModel, IdleExitSec"),
        (
            "nsorch.conf",
            "[Orchestra]\nMode=dynamic\nMode=x\n",
            2,
            "[Orchestra] is not known here and is ignored: expected [Orchestrator]",
        ),
        (
            "nsorch.conf",
            "[Orchestrator]\nDefaultModel=gone\n",
            2,
            "DefaultModel=gone names no registered model: there are m",
        ),
        ("models.d/n.conf", "[Model]\nPath=/none\nRuntime=onnx\n", 2, "Path=/none does not exist"),
        ("models.d/o.conf.d/x.conf", "[Model]\nThreads=1\n", 0, "it changes nothing: there is no models.d/o.conf"),
        ("modes.d/x.conf", "[Mode]\nPolicy=hibernate\nIdleSec=1h\n", 2, "it never hibernates"),
    ],
)
def test_every_warning_is_told_once_with_its_place(tree, tmp_path, file, text, line, message):
    (finding,) = load(tree({"a/models.d/m.conf": MODEL, f"b/{file}": text})).warnings
    assert (finding.severity, finding.path, finding.line) == ("warning", f"{tmp_path}/b/{file}", line)
    assert message in finding.message


def test_sections_of_others_are_left_alone(tree):
    assert load(tree({"a/nsorch.conf": "[X-Tool]\nAnything=1\n"})).warnings == []


def test_a_default_mode_that_is_masked_is_an_error_of_nobody(tree):
    dirs = tree({"a/modes.d/timeout.conf": NULL})
    with pytest.raises(ConfigError, match=r"\(built in\): Mode=timeout names no mode"):
        load(dirs)
    config = load(dirs, lenient=True)
    assert config.modes[config.settings.mode] == ModeSettings(name="timeout", source="(built in)", policy="timeout")


def test_lenient_keeps_everything_that_is_whole(tree):
    dirs = tree(
        {
            "a/models.d/good.conf": MODEL,
            "a/models.d/half.conf": MODEL + "Threads=many\nMode=nope\nContextLength=9\n",
            "a/models.d/bad.conf": "[Model]\nPath=relative\n",
            "a/models.d/noise.conf": "!!!\n",
            "a/modes.d/bad.conf": "[Mode]\nPolicy=bad\n",
            "a/nsorch.conf": "[Orchestrator]\nMode=bad\nMaxQueue=7\nIdleExitSec=9s\n",
            "b/nsorch.conf.d/1.conf": "[Orchestrator]\nMaxQueue=lots\n",
        }
    )
    (dirs[1] / "models.d/loop.conf").symlink_to("loop.conf")
    os.mkfifo(dirs[1] / "models.d/pipe.conf")
    (dirs[1] / "models.d/binary.conf").write_bytes(b"\xff")
    (dirs[1] / "models.d/folder.conf").mkdir()
    (dirs[2] / "modes.d").write_text("a file where a folder belongs")
    config = load(dirs, lenient=True)
    assert set(config.models) == {"good", "half"}
    half = config.models["half"]
    assert (half.threads, half.mode, half.context_length) == (0, "", 9)
    assert (config.settings.mode, config.settings.max_queue, config.settings.idle_exit_sec) == ("timeout", 7, 9.0)
    assert config.mode_of("half").policy == "timeout"
    places = [finding.where.removeprefix(f"{dirs[0].parent}") for finding in config.warnings]
    assert len(places) == len(config.warnings) >= 12
    assert all(finding.severity == "error" for finding in config.warnings)
    with pytest.raises(ConfigError) as caught:
        load(dirs)
    assert caught.value.findings == config.warnings
    assert len(caught.value.message.splitlines()) == 7
    assert caught.value.message.endswith(f"and {len(config.warnings) - 5} more")


def test_the_order_of_the_findings_is_the_order_of_reading(tree):
    dirs = tree(
        {"a/nsorch.conf.d/2.conf": queue("x"), "c/nsorch.conf.d/1.conf": queue("y"), "a/models.d/b.conf": "x\n"}
    )
    assert [finding.path.rsplit("/", 1)[1] for finding in check(dirs)] == [
        "1.conf",
        "2.conf",
        "b.conf",
        "b.conf",
        "b.conf",
    ]
