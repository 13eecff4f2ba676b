"""Lists what a package carries besides our own code: ``bundled.py SITE_PACKAGES`` prints name, version, licence, home.

Owns the form of that list; the facts are those that each distribution declares about itself. Must not know how they
came there.
"""

from __future__ import annotations

import sys
from importlib.metadata import Distribution, distributions

OURS = "neuroshell-orch"


def main() -> None:
    """The program."""
    found = sorted(distributions(path=[sys.argv[1]]), key=lambda one: one.metadata["Name"].lower())
    for one in found:
        if one.metadata["Name"] != OURS:
            sys.stdout.write(f"{one.metadata['Name']} {one.version}\n    {licence(one)}\n    {home(one)}\n")


def licence(one: Distribution) -> str:
    """The licence as an expression, else in one line, else as its classifier says."""
    meta = one.metadata
    if meta.get("License-Expression"):
        return str(meta["License-Expression"])
    kinds = [line.rpartition(" :: ")[2] for line in meta.get_all("Classifier", []) if line.startswith("License :: ")]
    text = str(meta.get("License") or "").strip()
    if text and "\n" not in text and len(text) < 100:
        return text
    return ", ".join(kinds) or "see its .dist-info folder"


def home(one: Distribution) -> str:
    """Where it comes from."""
    if one.metadata.get("Home-page"):
        return str(one.metadata["Home-page"])
    urls = dict(line.split(", ", 1) for line in one.metadata.get_all("Project-URL", []))
    for label in ("Homepage", "Source", "Repository"):
        for name, url in urls.items():
            if name.lower() == label.lower():
                return url
    return next(iter(urls.values()), f"https://pypi.org/project/{one.metadata['Name']}/")


if __name__ == "__main__":
    main()
