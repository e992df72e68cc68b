"""Zip files that somebody else may have made."""

from __future__ import annotations

import zipfile
from pathlib import Path


def compressed_entry(path: str | Path) -> str | None:
    """The first compressed entry of a zip file; None where all are stored as they are, and for what is no zip file.

    ``torch.save`` compresses nothing, but ``torch.load`` would unpack what is: a small file could fill the memory.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return next((e.filename for e in archive.infolist() if e.compress_type != zipfile.ZIP_STORED), None)
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return None
