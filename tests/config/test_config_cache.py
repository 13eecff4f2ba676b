"""The kept configuration: the same as the files', and never older than they are."""

from __future__ import annotations

import os
import time

import pytest

from neuroshell_orch.config import cache
from neuroshell_orch.config.load import load

KEYS = "MemoryMax=40%\nThreads=2\nLoadTimeoutSec=5min\nMode=dynamic\n"


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("NSORCH_CONFIG_DIRS", str(tmp_path / "etc"))
    monkeypatch.setattr(cache, "WORTH", 2)
    models = tmp_path / "etc" / "models.d"
    (models / "m1.conf.d").mkdir(parents=True)
    (models / "m1.conf.d" / "more.conf").write_text("[Model]\nParallel=2\n")
    for number in range(3):
        (models / f"m{number}.conf").write_text(f"[Model]\nPath={tmp_path}\nRuntime=onnx\n{KEYS if number else ''}")
    (tmp_path / "etc" / "nsorch.conf").write_text("[Orchestrator]\nMemoryBudget=50%\nIdleExitSec=7s\nDefaultModel=m1\n")
    settle(tmp_path)
    return tmp_path


def settle(folder):
    """As if nobody had touched it for an hour."""
    then = time.time() - 3600
    for path, _folders, files in os.walk(folder):
        for name in (".", *files):
            os.utime(os.path.join(path, name), (then, then))  # noqa: PTH118


def kept(place):
    return cache.load_kept(place / "cache" / "configuration")


def without_origins(found):
    return (found.settings, found.modes, found.models, found.warnings)


def refuse(*_, **__):
    raise AssertionError("the files were read")


def test_it_is_what_the_files_say(place, monkeypatch):
    first = kept(place)
    monkeypatch.setattr(cache, "load", refuse)
    assert without_origins(kept(place)) == without_origins(first) == without_origins(load(lenient=True))
    assert first.models["m1"].parallel == 2


def edit(place):
    (place / "etc" / "models.d" / "m0.conf").write_text(f"[Model]\nPath={place}\nRuntime=genai\n")


def add(place):
    (place / "etc" / "models.d" / "new.conf").write_text(f"[Model]\nPath={place}\nRuntime=genai\n")


def remove(place):
    (place / "etc" / "models.d" / "m0.conf").unlink()


def add_main_drop_in(place):
    (place / "etc" / "nsorch.conf.d").mkdir()
    (place / "etc" / "nsorch.conf.d" / "x.conf").write_text("[Orchestrator]\nIdleExitSec=9s\n")


def edit_drop_in(place):
    (place / "etc" / "models.d" / "m1.conf.d" / "more.conf").write_text("[Model]\nParallel=3\n")


def add_drop_in(place):
    (place / "etc" / "models.d" / "m1.conf.d" / "also.conf").write_text("[Model]\nParallel=3\n")


def add_mode(place):
    (place / "etc" / "modes.d").mkdir()
    (place / "etc" / "modes.d" / "mine.conf").write_text("[Mode]\nPolicy=timeout\n")


def break_it(place):
    (place / "etc" / "models.d" / "m2.conf").write_text("[Model]\nPath=/x\nRuntime=abacus\n")


def damage(place):
    file = place / "cache" / "configuration"
    file.write_bytes(file.read_bytes()[:-20])


@pytest.mark.parametrize(
    "change", [edit, add, remove, add_main_drop_in, edit_drop_in, add_drop_in, add_mode, break_it, damage]
)
def test_a_change_is_seen(place, change):
    kept(place)
    assert (place / "cache" / "configuration").exists()
    change(place)
    assert without_origins(kept(place)) == without_origins(load(lenient=True))
    assert bool(kept(place).warnings) is (change is break_it)


def test_a_model_whose_files_are_gone_is_told(place):
    gone = place / "gone"
    gone.mkdir()
    (place / "etc" / "models.d" / "m0.conf").write_text(f"[Model]\nPath={gone}\nRuntime=genai\n")
    settle(place)
    assert not kept(place).warnings
    gone.rmdir()
    assert "does not exist" in str(kept(place).warnings[0])


def test_few_models_and_fresh_files_are_not_kept(place, monkeypatch):
    edit(place)
    kept(place)
    assert not (place / "cache" / "configuration").exists()
    settle(place)
    monkeypatch.setattr(cache, "WORTH", 4)
    kept(place)
    assert not (place / "cache" / "configuration").exists()
