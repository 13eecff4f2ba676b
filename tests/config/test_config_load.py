"""Precedence, masks, resets and merges: which file decides, and that any content gives something."""

# ruff: noqa: E501 - in the tables one case is one line

import math
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuroshell_orch.config.load import ConfigError, load
from neuroshell_orch.config.paths import vendor_dir
from neuroshell_orch.config.schema import POLICIES, SECTIONS, ModelSettings, Settings, describe_keys
from neuroshell_orch.config.values import UNLIMITED, Percent
from neuroshell_orch.core.modes import POLICIES as CORE_POLICIES
from tests.config.support_tree import NULL, queue


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


def test_folders_that_do_not_exist_are_nothing(tmp_path):
    config = load([vendor_dir(), tmp_path / "none"])
    assert config.warnings == []


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
