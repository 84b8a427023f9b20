"""The stored results of a plan that does not run: hashes that are remembered, or quick to make."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..compiler.plan import Plan
from ..contract.errors import NodeError
from ..contract.processes import ONE_PROCESS, Mesh
from ..store.entries import FolderStore
from ..store.fingerprints import Files
from ..store.forecast import Forecast, forecast
from ..store.keys import keys_of
from .file_hashes import remembered_sha256, sha256_of

QUICK = 256 << 20
"""Bytes that are hashed for a plan, at most; less than a second of work."""


class Unhashed(ValueError):
    """A file is too large to be hashed for a plan."""


class QuickHashes:
    """SHA-256 of files, as long as they are remembered or small.

    Attributes:
        unhashed: The first file that was too large; None if there was none.
    """

    def __init__(self, most: int = QUICK) -> None:
        self.left = most
        self.unhashed: Path | None = None

    def __call__(self, path: Path) -> str:
        known = remembered_sha256(path)
        if known is not None:
            return known
        size = path.stat().st_size
        if size > self.left:
            self.unhashed = self.unhashed or path
            raise Unhashed(f"{path} was never hashed")
        self.left -= size
        return sha256_of(path)


def stored_forecast(
    plan: Plan, folder: Path | None, device: str, options: Mapping[str, Any], mesh: Mesh = ONE_PROCESS.mesh
) -> Forecast | None:
    """What a run of a plan would take from a folder of stored results; None if the folder holds none.

    Args:
        plan: The plan.
        folder: The folder. It is not made.
        device: The device of the run.
        options: Values of the options of node libraries.
        mesh: How the processes of the run are arranged.

    Raises:
        NodeError: If the folder cannot be a store.
    """
    if folder is None or not folder.is_dir():
        return None
    store, hashes = FolderStore(folder), QuickHashes()
    try:
        if not store.listed():
            return None
    except OSError as error:
        raise NodeError(f"{folder} cannot be read: {error.strerror or error}") from error
    keys = keys_of(plan, device, options, Files(plan.loaded, hashes), mesh)
    return forecast(keys, store, str(hashes.unhashed) if hashes.unhashed is not None else None)
