"""Where what may be lost is kept between processes."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_folder() -> Path | None:
    """Where caches are: `$SECATEUR_CACHE`, or `secateur` in the platform's folder for caches.

    None where there is no home. The folder need not exist.
    """
    own = os.environ.get("SECATEUR_CACHE")
    if own:
        return Path(own)
    try:
        if sys.platform == "win32":
            local = os.environ.get("LOCALAPPDATA")
            return (Path(local) if local else Path.home() / "AppData" / "Local") / "secateur"
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Caches" / "secateur"
        given = os.environ.get("XDG_CACHE_HOME")
        return (Path(given) if given else Path.home() / ".cache") / "secateur"
    except RuntimeError:
        return None


def folder_of(cache: str | Path | bool) -> Path | None:
    """What a `cache=` argument means: True for the usual place, a folder, or False for none.

    Example:
        >>> folder_of("here").name, folder_of(False)
        ('here', None)
    """
    if cache is True:
        return cache_folder()
    return None if cache is False else Path(cache)
