"""The work that calls of nodes were found to have, remembered between processes in the user's cache folder.

A name stands for a node's type, the shapes and values of its arguments, and the versions of what computes
(`WorkMeter.lasting`). A process that finds a name here counts nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping

from ..contract.machine_limits import Work
from .cache_table import CacheTable

MOST = 2_000
"""Names that are kept. The oldest go first."""
MOST_KINDS = 2_000
"""Kinds of calls, or of parts of a call, that are kept for one name."""

_TABLE = CacheTable("work.sqlite", "CREATE TABLE IF NOT EXISTS work (name TEXT PRIMARY KEY, kinds TEXT, made REAL)")


class KeptWork:
    """What the folder holds. It is read once, when the first name is asked for."""

    def __init__(self) -> None:
        self._rows: dict[str, str] | None = None

    def of(self, name: str) -> dict[str, Work]:
        """The work of each kind of call; empty if it is not known."""
        if self._rows is None:
            self._rows = {str(key): str(kinds) for key, kinds in _TABLE.ask("SELECT name, kinds FROM work", ())}
        try:
            kinds = json.loads(self._rows.get(name, "{}"))
            return {str(kind): Work(_flops(flops), int(moved)) for kind, (flops, moved) in kinds.items()}
        except (ValueError, TypeError, AttributeError, RecursionError):
            return {}


def remember(works: Mapping[str, Mapping[str, Work]]) -> None:
    """Keep the work of calls, by name and kind."""
    insert = "INSERT OR REPLACE INTO work VALUES (?, ?, ?)"
    rows = []
    for name, kinds in works.items():
        few = list(kinds.items())[-MOST_KINDS:]
        rows.append((name, json.dumps({kind: (dict(work.flops), work.bytes) for kind, work in few}), time.time()))
    oldest = "SELECT name FROM work ORDER BY made DESC LIMIT -1 OFFSET ?"
    _TABLE.change([*((insert, row) for row in rows), (f"DELETE FROM work WHERE name IN ({oldest})", (MOST,))])


def _flops(value: Mapping[str, int]) -> dict[str, int]:
    return {str(dtype): int(count) for dtype, count in value.items()}
