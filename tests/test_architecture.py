"""The drawing in section 3 of ARCHITECTURE.md: it names every module of the package, and nothing that does not exist.

How it is read: ``name.py`` is a module of the package itself. ``folder/`` is followed by the names of its modules,
with commas, semicolons or "and" between them: ``prefix*`` stands for all that begin so, ``inner/*`` for a folder within
and all that it holds, ``*`` alone for the whole folder. What they are is said in parentheses behind a name or before a
colon; what a line imports stands two spaces or more to the right of it.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from tests.test_imports import modules

DOCUMENT = Path(__file__).parents[1] / "docs" / "ARCHITECTURE.md"
MODULES = {module for module, _ in modules()} - {"__init__"}


def read(drawing: str) -> set[str]:
    """The names and patterns, each with its folder in front: ``errors``, ``api``, ``api.server``, ``api.oip_*``."""
    found = set()
    drawing = re.sub(r"\([^)]*\)", "", re.sub(r" {2,}imports .*", "", drawing))
    for entry in re.split(r"\n  (?=\w)", drawing)[1:]:
        folder, slash, names = entry.partition("/")
        if not slash or not folder.isidentifier():
            found.update(re.findall(r"\b(\w+)\.py\b", entry))
            continue
        found.add(folder)
        names = re.sub(r"[^:;]*:", "", names)
        for name in map(str.strip, re.split(r"[,;]|\band\b", names)):
            if name.endswith("/*"):
                found.add(f"{folder}.{name.removesuffix('/*')}")
            found.add(f"{folder}.{name.replace('/', '.')}")
    return found


@pytest.fixture(scope="module")
def named() -> set[str]:
    section = DOCUMENT.read_text(encoding="utf-8").partition("\n## 3. ")[2].partition("\n## ")[0]
    return read(section.split("```")[1])


def test_every_module_is_named(named):
    missing = sorted(module for module in MODULES if not any(fnmatchcase(module, pattern) for pattern in named))
    assert not missing, f"section 3 of {DOCUMENT.name} does not name {', '.join(missing)}"


def test_what_is_named_exists(named):
    unknown = sorted(pattern for pattern in named if not any(fnmatchcase(module, pattern) for module in MODULES))
    assert not unknown, f"section 3 of {DOCUMENT.name} names {', '.join(map(repr, unknown))}, which do not exist"


def test_how_the_drawing_is_read():
    drawing = """
our_package/
  one.py        a sentence, with words; two.py: more/less of it      imports nothing
  three/        PURE, small: four, five (not six, which
                is no name) and seven_*;   imports one, eight
                inner/*
  nine/         all of it: *
"""
    assert read(drawing) == {
        *("one", "two", "three", "three.four", "three.five", "three.seven_*", "three.inner", "three.inner.*"),
        *("nine", "nine.*"),
    }
