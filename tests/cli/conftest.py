"""The program in a private world, for every test of the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from support_cli import World


@pytest.fixture
def nsorch(xdg: Path, monkeypatch: pytest.MonkeyPatch):
    """The program in a private world without a service."""
    for name in ("NO_COLOR", "NSORCH_SOCKET", "COLUMNS", "FORCE_COLOR", "DBUS_SESSION_BUS_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NSORCH_CONFIG_DIRS", str(xdg / "config" / "nsorch"))
    monkeypatch.setenv("TMPDIR", str(xdg / "home"))
    world = World(xdg)
    yield world
    world.end()


@pytest.fixture
def models(nsorch):
    """Two registered models."""
    folder = nsorch.config / "models.d"
    folder.mkdir(parents=True)
    for name in ("tiny", "other"):
        path = nsorch.root / f"{name}.onnx"
        path.write_bytes(b"x")
        (folder / f"{name}.conf").write_text(f"[Model]\nPath={path}\nRuntime=onnx\n")
    return nsorch
