"""The user's cache folder: what can be measured or computed again, kept between runs."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def user_cache() -> Path | None:
    """The folder of sgd in the user's cache (`$XDG_CACHE_HOME/sgd` or `~/.cache/sgd`), made for this user alone.

    None if there can be no such folder. The cause, such as a read-only home, is no problem of the run.
    """
    named = os.environ.get("XDG_CACHE_HOME", "")
    with suppress(OSError, RuntimeError, ValueError):
        folder = (Path(named) if os.path.isabs(named) else Path.home() / ".cache") / "sgd"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder
    return None
