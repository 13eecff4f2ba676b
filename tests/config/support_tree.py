"""For tests of the configuration: files below three folders, of which a later one wins."""

from __future__ import annotations

from neuroshell_orch.config.paths import vendor_dir

NULL = None
"""Stands for a link to /dev/null."""


def tree_below(root):
    """Builds files below a, b and c (later wins) and returns the folders, the vendor's first."""

    def build(files):
        dirs = [root / name for name in "abc"]
        for name, text in files.items():
            path = root / name
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
