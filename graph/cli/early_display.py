"""The progress display of a command that takes long: it starts before the arguments are parsed.

Parsing imports the module of the command, and that takes half a second. This module and the display need a fifth of
one, most of it for rich.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..runtime.observers.live_display import LiveDisplay

WATCHED = ("exec",)
"""Commands that show their progress."""

SILENT = {"--quiet", "-h", "--help"}


def display_for(argv: Sequence[str]) -> LiveDisplay | None:
    """Start the display for a command line; None if the command shows none, or stderr is not a terminal."""
    called = next((word for word in argv if not word.startswith("-")), "")
    if called not in WATCHED or not SILENT.isdisjoint(argv) or sys.stderr is None or not sys.stderr.isatty():
        return None
    if os.environ.get("RANK", "0") != "0" and "TORCHELASTIC_RUN_ID" in os.environ:
        return None  # rank 0 shows the progress
    from ..runtime.observers.live_display import LiveDisplay

    display = LiveDisplay(sys.stderr)
    display.start()
    return display
