"""Text for the terminal. `sgd --help` loads this module, so it imports little."""

from __future__ import annotations

import re

MOVING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Text without characters that move the cursor or colour the screen: a file must not control the terminal."""
    return MOVING.sub("\ufffd", text)
