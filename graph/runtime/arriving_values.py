"""The values of a loop variable while another thread still makes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Arriving(list[Any]):
    """A list whose entries are None until another thread sets them.

    Args:
        length: The number of entries.
        wait: Waits until the entry with a number is there.
    """

    def __init__(self, length: int, wait: Callable[[int], None]) -> None:
        super().__init__([None] * length)
        self.wait = wait
