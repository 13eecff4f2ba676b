"""Names for the shell's completion, read from the configuration files and never from the service.

Owns the completion functions; a broken configuration completes nothing and says nothing. Must not wake the daemon.
"""

from __future__ import annotations


def models(incomplete: str) -> list[str]:
    """The registered models that begin with what was typed."""
    from neuroshell_orch.errors import OrchError

    try:
        from neuroshell_orch.cli import local

        return [name for name in local.model_names() if name.startswith(incomplete)]
    except (OrchError, OSError):
        return []


def modes(incomplete: str) -> list[str]:
    """The selectable modes that begin with what was typed."""
    from neuroshell_orch.errors import OrchError

    try:
        from neuroshell_orch.cli import local

        return [name for name in local.mode_names() if name.startswith(incomplete)]
    except (OrchError, OSError):
        return []


def catalogue(incomplete: str) -> list[str]:
    """The models of the catalogue that begin with what was typed."""
    from neuroshell_orch.errors import OrchError

    try:
        from neuroshell_orch.models.catalogue import entries

        return [name for name in entries() if name.startswith(incomplete)]
    except (OrchError, OSError):
        return []
