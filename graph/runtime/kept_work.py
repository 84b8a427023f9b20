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

MOST = 5_000
"""Names that are kept. The oldest go first."""
MOST_KINDS = 200
"""Kinds of calls that are kept for one name."""

_TABLE = CacheTable("work.sqlite", "CREATE TABLE IF NOT EXISTS work (name TEXT PRIMARY KEY, kinds TEXT, made REAL)")


def remembered(name: str) -> dict[str, Work]:
    """The work of each kind of call; empty if it is not known."""
    rows = _TABLE.ask("SELECT kinds FROM work WHERE name = ?", (name,))
    try:
        kinds = json.loads(str(rows[0][0])) if rows else {}
        return {str(kind): Work(_flops(flops), int(moved)) for kind, (flops, moved) in kinds.items()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        return {}


def remember(works: Mapping[str, Mapping[str, Work]], most: int = MOST_KINDS) -> None:
    """Keep the work of calls, by name and kind; of each name, the last `most` kinds."""
    insert = "INSERT OR REPLACE INTO work VALUES (?, ?, ?)"
    rows = []
    for name, kinds in works.items():
        few = list(kinds.items())[-most:]
        rows.append((name, json.dumps({kind: (dict(work.flops), work.bytes) for kind, work in few}), time.time()))
    oldest = "SELECT name FROM work ORDER BY made DESC LIMIT -1 OFFSET ?"
    _TABLE.change([*((insert, row) for row in rows), (f"DELETE FROM work WHERE name IN ({oldest})", (MOST,))])


def _flops(value: Mapping[str, int]) -> dict[str, int]:
    return {str(dtype): int(count) for dtype, count in value.items()}
