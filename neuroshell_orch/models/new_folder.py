"""A folder that appears whole or not at all: what every converter writes into.

Owns the private folder beside the wanted one, the renaming at the end and the sentences for a disk that does not want
it. Must not know what is written.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from neuroshell_orch.errors import OrchError


def require_free(out: Path) -> None:
    """Raises ``model-exists`` where something is at ``out`` already."""
    if out.exists():
        raise OrchError(
            "model-exists", f"{out}: there is already something there.", "Remove it or choose another name."
        )


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A private folder beside ``out`` that takes its name at the end; on any failure it is removed."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise _cannot_write(out, error) from None
    try:
        yield folder
        folder.chmod(0o755)
        folder.rename(out)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            raise OrchError("model-exists", f"{out}: something appeared there.", "Choose another name.") from None
        raise _cannot_write(out, error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _cannot_write(out: Path, error: OSError) -> OrchError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OrchError("no-space", f"{out}: the disk is full.", "Free some space and try again.")
    return OrchError("not-allowed", f"{out}: cannot be written: {error.strerror}.", "Check the folder's permissions.")
