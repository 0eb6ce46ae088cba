"""The user cache folder: built models and measured profiles live here."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import platformdirs

from .errors import InputError


def cache_place(*parts: str) -> Path:
    """Where folder `parts` of the user cache is or would be; nothing is created, for those who only look.

    `HETSCHED_CACHE` overrides the place (default: the platform's user cache folder, `~/.cache/hetsched` on Linux).
    """
    root = os.environ.get("HETSCHED_CACHE")
    try:
        base = Path(root).expanduser() if root else platformdirs.user_cache_path("hetsched")
    except RuntimeError as error:  # ~ of a user that is not there
        raise InputError(f"HETSCHED_CACHE {root!r} names no folder: {error}; name another") from error
    return base.joinpath(*parts)


def cache_folder(*parts: str) -> Path:
    """Folder `parts` of the user cache, created if absent, in which files can be written: that is tried.

    Raises InputError where it cannot be, so that nobody works for minutes on what cannot be kept.
    """
    folder = cache_place(*parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"the cache folder {folder} cannot be written: {reason}; set HETSCHED_CACHE to a folder that can"
        ) from error
    return folder
