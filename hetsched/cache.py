"""The user cache folder: built models and measured profiles live here."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_folder(*parts: str) -> Path:
    """Folder `parts` under the user cache folder, created if absent.

    `HETSCHED_CACHE` overrides the place (default: the platform's user cache folder, `~/.cache/hetsched` on Linux).
    """
    root = os.environ.get("HETSCHED_CACHE")
    base = Path(root).expanduser() if root else platformdirs.user_cache_path("hetsched")
    folder = base.joinpath(*parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
