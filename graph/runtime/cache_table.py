"""Rows in SQLite files of the user's cache folder, which several processes share.

The rows can be made again, so no fault of a file is an error: without it there are no rows.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing, suppress
from dataclasses import dataclass

from ..contract.user_cache import user_cache

PATIENCE = 2.0
"""Seconds to wait for another process."""

Row = tuple[object, ...]


@dataclass(frozen=True)
class CacheTable:
    """One table in one file.

    Attributes:
        file: Name of the file in the cache folder.
        table: The SQL that makes the table if there is none.
    """

    file: str
    table: str

    def ask(self, statement: str, values: Row) -> list[Row]:
        """The rows of a statement; none if there is no memory. A damaged file is removed."""
        return self.change([(statement, values)])

    def change(self, statements: Iterable[tuple[str, Row]]) -> list[Row]:
        """Execute statements together. The rows of the last."""
        folder = user_cache()
        if folder is None:
            return []
        path, rows = folder / self.file, []
        try:
            with closing(sqlite3.connect(path, timeout=PATIENCE)) as memory, memory:
                memory.execute(self.table)
                for statement, values in statements:
                    rows = memory.execute(statement, values).fetchall()
                return rows
        except sqlite3.OperationalError:
            return []  # locked for too long, read-only, or the disk is full
        except (sqlite3.DatabaseError, UnicodeError):
            with suppress(OSError):
                path.unlink()
            return []
