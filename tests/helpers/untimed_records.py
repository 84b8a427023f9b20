"""Records without everything that differs between two runs of one plan: times, memory, counted work and folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

TIMED = ("seconds", "share", "start", "peak_bytes", "memory", "timeline", "phases", "loaded", "ceiling")
COUNTED = ("flops", "bytes", "uncounted")
"""A run counts as much work as its time allows."""


def untimed(value: Any) -> Any:
    """A record without times, memory and folders."""
    if isinstance(value, Mapping):
        left = {k: v for k, v in value.items() if k not in (*TIMED, *COUNTED) and not k.endswith("seconds")}
        return {k: untimed(v) for k, v in left.items() if k not in ("overlapped", "started")}
    if isinstance(value, list):
        return [untimed(each) for each in value if not (isinstance(each, Mapping) and each.get("name") == "(other)")]
    return Path(value).name if isinstance(value, str) and "/" in value else value
