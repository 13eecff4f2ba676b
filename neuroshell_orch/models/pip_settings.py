"""Where this machine's pip would look for packages: its index, its certificates, its proxy.

Owns the reading of pip's environment variables and configuration files, in pip's own order, so that a download of ours
works wherever ``pip install`` does. Fetches nothing. Values may hold a password: ``public`` is what may be shown.
"""

from __future__ import annotations

import configparser
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

DEFAULT_INDEX: Final = "https://pypi.org/simple"
_SECTIONS: Final = ("global", "install", "download")
_TIMEOUT: Final = 30.0


@dataclass(frozen=True)
class PipSettings:
    """The settings that matter for one file: ``indexes`` and ``links`` in the order in which they are tried."""

    indexes: tuple[str, ...] = (DEFAULT_INDEX,)
    links: tuple[str, ...] = ()
    certificates: str = ""
    proxy: str = ""
    timeout: float = _TIMEOUT


def read_pip_settings(environ: Mapping[str, str] = os.environ, prefix: str = sys.prefix) -> PipSettings:
    """The settings as pip would find them: a later file wins over an earlier one, a variable over all files."""
    values: dict[str, str] = {}
    for path in _files(environ, prefix):
        values |= _read(path)
    for name in ("index-url", "extra-index-url", "find-links", "no-index", "cert", "proxy", "timeout"):
        given = environ.get("PIP_" + name.upper().replace("-", "_"))
        if given:
            values[name] = given
    indexes = (values.get("index-url", DEFAULT_INDEX), *values.get("extra-index-url", "").split())
    if values.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        indexes = ()
    return PipSettings(
        indexes=tuple(indexes),
        links=tuple(values.get("find-links", "").split()),
        certificates=values.get("cert", ""),
        proxy=values.get("proxy", ""),
        timeout=_seconds(values.get("timeout", "")),
    )


def public(url: str) -> str:
    """``url`` without a user name and a password."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _files(environ: Mapping[str, str], prefix: str) -> list[Path]:
    only = environ.get("PIP_CONFIG_FILE", "")
    if only == os.devnull:
        return []
    home = Path(environ.get("HOME") or "/")
    systems = [
        Path(folder) / "pip/pip.conf" for folder in environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":") if folder
    ]
    personal = Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip/pip.conf"
    found = [*reversed(systems), Path("/etc/pip.conf"), home / ".pip/pip.conf", personal, Path(prefix) / "pip.conf"]
    return [*found, Path(only)] if only else found


def _read(path: Path) -> dict[str, str]:
    """One file's settings; a file that is missing or broken says nothing, as its owner learns from pip itself."""
    parser = configparser.RawConfigParser()
    try:
        parser.read(path, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError, OSError):
        return {}
    values: dict[str, str] = {}
    for section in _SECTIONS:
        if parser.has_section(section):
            values |= {key.replace("_", "-"): value for key, value in parser.items(section) if value}
    return values


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return _TIMEOUT
    return value if 0 < value <= 3600 else _TIMEOUT
