"""The arrows: who may import what, and what must stay cheap to import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import neuroshell_orch

PACKAGE = Path(neuroshell_orch.__file__).parent
NAME = "neuroshell_orch"

# Part of the package → what of ours it may import besides itself. Anything not listed here may import all.
ALLOWED = {
    "errors": set(),
    "regular": set(),
    "sd": {"errors"},
    "core": {"errors"},
    "desktop": set(),
    "config": {"errors", "regular"},
    "api.schema": set(),
    "workers": {"errors", "marks", "api.schema", "core", "planning", "sd"},
    "encoders": {"errors", "regular"},
    "marks": set(),
    "runtimes": {"errors", "marks", "encoders", "workers.protocol"},
    "models": {"errors", "regular", "encoders", "config"},
    "models.pulling": {"errors", "config", "models", "planning", "workers.preparing", "workers.readying"},
    "exchange": set(),
    "client": {"errors", "exchange", "api.schema", "config.paths"},
    "cli": {
        "api.tokens",
        "costs",
        "planning",
        "core.budget",
        "encoders",
        "errors",
        "client",
        "exchange",
        "marks",
        "api.schema",
        "config",
        "models",
        "sd.units",
        "sd.activation",
        "daemon",
        "start",
        "workers.prepared",
        "workers.preparing",
        "workers.copies",
        "workers.benching",
        "workers.readying",
        "core.figures",
    },
    "foresee": set(),
    "planning": {"errors", "config", "core", "desktop", "workers.protocol"},
    "engine": {"errors", "core", "api.schema"},
    "freeing": {"errors", "core", "api.schema", "desktop", "engine", "sd", "workers"},
    "listeners": {"api.schema"},
    "outlooks": {"core"},
    "costs": {"errors", "encoders", "config", "core"},
    "history_store": {"config", "core"},
    "habits": {"errors", "core", "engine", "history_store", "sd"},
    "failing": set(),
    "accounts": {"errors", "config", "core", "costs", "desktop", "planning", "sd"},
    "desk": {"errors", "core", "engine", "workers"},
    "pulls": {"errors", "config.paths", "models.pulling", "sd.journal", "workers.errand"},
    "service": {
        "errors",
        "core",
        "config",
        "accounts",
        "failing",
        "freeing",
        "habits",
        "listeners",
        "outlooks",
        "planning",
        "engine",
        "desk",
        "workers",
        "sd",
        "api.schema",
    },
    "api": {
        "errors",
        "marks",
        "sd.journal",
        "config",
        "core",
        "service",
        "models",
        "pulls",
        "workers.protocol",
        "api.schema",
    },
}
# Single exceptions, each with its reason.
EXCEPTIONS = {
    ("workers.child", "runtimes"): "the child is where runtimes live",
    ("workers.boot", "runtimes"): "it is the child's beginning",
}


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(parts).removesuffix(".__init__"), path


def imports(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(NAME):
            base = node.module.removeprefix(NAME).lstrip(".")
            for alias in node.names:
                full = f"{base}.{alias.name}".lstrip(".")
                yield full if module_exists(full) else base
        elif isinstance(node, ast.Import):
            yield from (a.name.removeprefix(f"{NAME}.") for a in node.names if a.name.startswith(f"{NAME}."))


def module_exists(dotted: str) -> bool:
    path = PACKAGE.joinpath(*dotted.split("."))
    return path.with_suffix(".py").exists() or path.is_dir()


def within(module: str, part: str) -> bool:
    return module == part or module.startswith(f"{part}.")


@pytest.mark.parametrize(("module", "path"), list(modules()))
def test_arrows(module, path):
    part = max((part for part in ALLOWED if within(module, part)), key=len, default=None)
    for imported in imports(path):
        if imported == "":
            continue  # the package itself: its version
        if any(within(module, m) and within(imported, i) for m, i in EXCEPTIONS):
            continue
        if part is not None and not within(imported, part):
            assert any(within(imported, allowed) for allowed in ALLOWED[part]), f"{module} imports {imported}"
        if within(imported, "runtimes") and not within(module, "runtimes"):
            pytest.fail(f"{module} imports {imported}: runtimes are imported only inside a worker")
        if within(imported, "daemon"):
            assert module == "start", f"{module} imports the daemon"
        if within(imported, "start"):
            assert module in {"cli.serve", "cli.once", "daemon"}, f"{module} imports the daemon's start"


def loaded_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print('\\n'.join(sys.modules))"
    result = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


def test_the_daemon_never_imports_a_runtime_nor_numpy():
    loaded = loaded_after("import neuroshell_orch.daemon")
    assert not loaded & {"onnxruntime", "onnxruntime_genai", "numpy", "onnx", "gguf", "tokenizers", "typer", "rich"}


def test_the_way_of_an_ask_through_the_command_line_needs_little():
    loaded = loaded_after("from neuroshell_orch.cli import main, early, quick, asking, answer, output, private")
    assert not loaded & {"msgspec", "numpy", "typer", "starlette", "uvicorn", "asyncio", "rich", "dbus_fast", "inspect"}


def test_every_module_says_what_it_owns():
    for module, path in modules():
        doc = ast.get_docstring(ast.parse(path.read_text()))
        assert doc, f"{module} does not open with a paragraph"
        assert len(path.read_text().splitlines()) <= 400, f"{module} is longer than 400 lines"
