"""The file `run.json`, made in two goes: its times hold the time in which most of its own text was made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..contract.output_files import replace_text


class RecordFile:
    """A record that becomes a file.

    Args:
        record: The record.
        path: Its file.
        temporary: The file that is written first; see `replace_text`.
    """

    def __init__(self, record: Mapping[str, Any], path: Path, temporary: Path | None = None) -> None:
        self.path, self._temporary = path, temporary
        self._texts: dict[str, str] = {}
        self.prepare(record)

    def prepare(self, changed: Mapping[str, Any]) -> None:
        """Make the text of keys that are new or have changed."""
        for key, value in changed.items():
            self._texts[key] = f"{json.dumps(key)}: {json.dumps(value, indent=1)}"

    def write(self, changed: Mapping[str, Any]) -> None:
        """Write the file in one step, so that a reader never sees half of it.

        Args:
            changed: The keys whose values have changed since `prepare`.

        Raises:
            OSError: If it cannot be written.
        """
        self.prepare(changed)
        text = ",\n".join(self._texts.values()).replace("\n", "\n ")
        replace_text(self.path, f"{{\n {text}\n}}\n", self._temporary)
