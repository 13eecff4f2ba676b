"""Precedence, masks, resets and merges; every error with its place; what lenient and strict each do."""

# ruff: noqa: E501 - in the tables one case is one line

import math
import os
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuroshell_orch.config.load import ConfigError, check, load
from neuroshell_orch.config.paths import vendor_dir
from neuroshell_orch.config.schema import POLICIES, SECTIONS, ModelSettings, ModeSettings, Settings, describe_keys
from neuroshell_orch.config.values import UNLIMITED, Percent
from neuroshell_orch.core.modes import POLICIES as CORE_POLICIES

NULL = None
"""Stands for a link to /dev/null."""


@pytest.fixture
def tree(tmp_path):
    """Builds files below a, b and c (later wins) and returns the folders, the vendor's first."""

    def build(files):
        dirs = [tmp_path / name for name in "abc"]
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            if text is NULL:
                path.symlink_to("/dev/null")
            else:
                path.write_text(text)
        return [vendor_dir(), *dirs]

    return build


def queue(value):
    return f"[Orchestrator]\nMaxQueue={value}\n"


def idle(value):
    return f"[Mode]\nIdleSec={value}\n"


def test_what_the_vendor_ships(tree):
    config = load(tree({}))
    assert config.warnings == []
    assert config.settings == Settings()
    assert set(config.modes) == set(POLICIES) == set(CORE_POLICIES)
    for name, mode in config.modes.items():
        assert mode.policy == name == mode.name
        assert len(mode.description) > 30
        assert mode.source.endswith(f"modes.d/{name}.conf")
    assert [config.modes[name].idle_sec for name in ("timeout", "dummy-swap", "hibernate")] == [300, 60, 60]
    assert config.modes["hibernate"].forget_sec == 3600


def test_the_vendors_settings_name_every_key_with_its_default():
    text = (vendor_dir() / "nsorch.conf").read_text()
    for info in describe_keys():
        if info.section == "Orchestrator":
            assert f"\n#{info.key}={info.default}\n" in text


def test_every_key_can_be_described_and_read_back():
    for info in describe_keys():
        assert info.help.endswith(".")
        assert info.allowed
        field = SECTIONS[info.section][info.key]
        if info.default not in ("", "(required)"):
            assert field.spec.kind.parse(info.default) == field.default


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"a/nsorch.conf": queue(1)}, 1),
        ({"a/nsorch.conf": queue(1), "c/nsorch.conf": queue(3)}, 3),
        ({"a/nsorch.conf": queue(1), "c/nsorch.conf": "[Orchestrator]\nLogLevel=info\n"}, 64),  # masked whole
        ({"a/nsorch.conf": queue(1), "c/nsorch.conf": ""}, 64),
        ({"a/nsorch.conf": queue(1), "c/nsorch.conf": NULL}, 64),
        ({"c/nsorch.conf": queue(3), "a/nsorch.conf.d/1.conf": queue(1)}, 1),  # a drop-in beats every main file
        ({"a/nsorch.conf.d/20.conf": queue(1), "c/nsorch.conf.d/10.conf": queue(3)}, 1),  # names order, not folders
        ({"a/nsorch.conf.d/10.conf": queue(1), "c/nsorch.conf.d/20.conf": queue(3)}, 3),
        ({"a/nsorch.conf.d/10.conf": queue(1), "b/nsorch.conf.d/10.conf": queue(2)}, 2),  # same name masks
        ({"a/nsorch.conf.d/10.conf": queue(1), "b/nsorch.conf.d/10.conf": NULL}, 64),
        ({"a/nsorch.conf.d/10.conf": queue(1), "b/nsorch.conf.d/10.conf": ""}, 64),
        ({"a/nsorch.conf.d/10.conf": NULL, "b/nsorch.conf.d/10.conf": queue(2)}, 2),  # a later file undoes a mask
        ({"a/nsorch.conf": queue(1), "b/nsorch.conf.d/10.conf": queue("")}, 64),  # reset
        ({"a/nsorch.conf": queue(1), "b/nsorch.conf.d/10.conf": queue("") + "MaxQueue=5\n"}, 5),
        ({"a/nsorch.conf": queue(1) + "MaxQueue=2\n"}, 2),
        ({"a/nsorch.conf.d/10.txt": queue(1), "a/nsorch.conf.d/.10.conf": queue(2)}, 64),  # not drop-ins
    ],
)
def test_settings(tree, files, expected):
    config = load(tree(files))
    assert config.settings.max_queue == expected
    assert config.warnings == []


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"a/modes.d/timeout.conf": "[Mode]\nPolicy=timeout\nIdleSec=9s\n"}, 9),
        ({"a/modes.d/timeout.conf": "[Mode]\nPolicy=timeout\n"}, 300),  # replaced, not merged: the default
        ({"c/modes.d/timeout.conf.d/x.conf": idle("7s")}, 7),
        ({"c/modes.d/timeout.conf.d/x.conf": idle("")}, 300),
        (
            {
                "a/modes.d/timeout.conf.d/x.conf": idle("7s"),
                "c/modes.d/timeout.conf": "[Mode]\nPolicy=timeout\nIdleSec=9s\n",
            },
            7,
        ),
        ({"a/modes.d/timeout.conf.d/x.conf": idle("7s"), "b/modes.d/timeout.conf.d/x.conf": NULL}, 300),
        ({"a/modes.d/timeout.conf.d/2.conf": idle("2s"), "b/modes.d/timeout.conf.d/1.conf": idle("1s")}, 2),
        ({"a/modes.d/timeout.conf.d/2.conf": idle("infinity")}, math.inf),
    ],
)
def test_modes_are_replaced_by_files_and_changed_by_drop_ins(tree, files, expected):
    config = load(tree(files))
    assert config.modes["timeout"].idle_sec == expected
    assert config.warnings == []


@pytest.mark.parametrize("mask", [NULL, ""])
def test_a_masked_mode_is_gone_and_can_come_back(tree, mask):
    assert "dynamic" not in load(tree({"a/modes.d/dynamic.conf": mask})).modes
    assert load(tree({"b/modes.d/dynamic.conf": "[Mode]\nPolicy=dynamic\n"})).modes["dynamic"].description == ""


def test_a_mode_of_ones_own(tree):
    config = load(
        tree(
            {
                "c/modes.d/quick.conf": "[Mode]\nPolicy=timeout\nIdleSec=10\n",
                "c/nsorch.conf": "[Orchestrator]\nMode=quick\n",
            }
        )
    )
    assert config.modes[config.settings.mode].idle_sec == 10
    assert config.warnings == []


def test_a_model_with_everything(tree, tmp_path):
    (tmp_path / "m.onnx").touch()
    text = f"""[Model]
Path={tmp_path}/m.onnx
Runtime=onnx
Digest=sha256:{"AB" * 32}
Mode=persistent
Threads=3
ContextLength=4096
LoadTimeoutSec=1min 5s
MemoryMax=50%
Description=Reads \\
    letters
Source=https://example.org/m
"""
    config = load(
        tree({"b/models.d/m-1.conf": text, "b/nsorch.conf": "[Orchestrator]\nDefaultModel=m-1\nWorkerMemoryMax=2G\n"})
    )
    assert config.warnings == []
    assert config.models["m-1"] == ModelSettings(
        name="m-1",
        source=f"{tmp_path}/b/models.d/m-1.conf",
        path=f"{tmp_path}/m.onnx",
        runtime="onnx",
        digest=f"sha256:{'ab' * 32}",
        mode="persistent",
        threads=3,
        context_length=4096,
        load_timeout_sec=65.0,
        memory_max=Percent(5000),
        description="Reads letters",
        origin="https://example.org/m",
    )
    assert config.settings.worker_memory_max == 2 << 30
    assert config.mode_of("m-1").name == "persistent"
    assert Settings().worker_memory_max == UNLIMITED


def test_a_path_in_the_home_folder(tree, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "m").mkdir()
    config = load(tree({"a/models.d/m.conf": "[Model]\nPath=~/m\nRuntime=genai\n"}))
    assert config.models["m"].path == f"{tmp_path}/m"
    assert config.mode_of("m").name == "timeout"


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


def test_folders_that_do_not_exist_are_nothing(tmp_path):
    config = load([vendor_dir(), tmp_path / "none"])
    assert config.warnings == []


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


TEXTS = st.text(max_size=200) | st.lists(
    st.sampled_from(
        [
            "[Orchestrator]",
            "[Mode]",
            "[Model]",
            "Mode=x",
            "Policy=timeout",
            "Path=/",
            "Runtime=onnx",
            "MaxQueue=0",
            "IdleSec=",
        ]
    )
    | st.text(max_size=20)
).map("\n".join)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["a/nsorch.conf", "b/nsorch.conf.d/x.conf", "a/modes.d/timeout.conf", "b/models.d/m.conf"]),
        TEXTS,
    )
)
def test_any_content_gives_a_configuration_or_findings(tree, tmp_path, files):
    dirs = tree({name: text.encode("utf-8", "replace").decode() for name, text in files.items()})
    config = load(dirs, lenient=True)
    assert config.settings.mode in config.modes
    for model in config.models.values():
        assert config.mode_of(model.name)
    if any(finding.severity == "error" for finding in config.warnings):
        with pytest.raises(ConfigError):
            load(dirs)
    else:
        assert load(dirs) == config


def test_importing_the_loader_brings_in_nothing_heavy():
    code = "import sys, msgspec, pathlib; before = set(sys.modules); import neuroshell_orch.config.load, neuroshell_orch.config.write;"
    code += "print(*(set(sys.modules) - before))"
    new = set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())
    assert not new & {
        "difflib",
        "dataclasses",
        "configparser",
        "tempfile",
        "secrets",
        "hashlib",
        "random",
        "shutil",
        "asyncio",
    }
    assert len([name for name in new if not name.startswith("neuroshell_orch")]) < 8
