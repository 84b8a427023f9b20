"""The calls that `--profile-nodes` and `--profile-steps` choose."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from ...contract.errors import NodeError
from ...contract.events import CallInfo, LoopInfo
from ...contract.text_tables import shortened

EVERY = "*"
"""The pattern of all paths."""

_PART = re.compile(r"(?P<only>\d{1,9})|(?P<first>\d{1,9})?:(?P<stop>\d{1,9})?(?::(?P<by>\d{1,9}))?", re.ASCII)


@dataclass(frozen=True)
class Steps:
    """Turns of a loop, as Python's slices write them: `5`, `0:3` for 0, 1 and 2, `2:10:2`, `40:`, or several: `0,5:8`.

    Attributes:
        parts: First turn, the turn after the last one (None for no end), and distance.
    """

    parts: tuple[tuple[int, int | None, int], ...]

    @classmethod
    def of(cls, text: str) -> Steps:
        """Read the text of `--profile-steps`.

        Raises:
            NodeError: If the text is not of this form, or no turn is in it.
        """
        return cls(tuple(_part(part.strip(), text) for part in text.split(",")))

    def __contains__(self, turn: int) -> bool:
        return any(
            first <= turn and (stop is None or turn < stop) and not (turn - first) % by
            for first, stop, by in self.parts
        )


def _part(part: str, text: str) -> tuple[int, int | None, int]:
    found = _PART.fullmatch(part)
    if found is None:
        message = f"--profile-steps {shortened(text)!r} is not a range of steps"
        raise NodeError(message, help="write one step (`5`), a range (`0:3` is 0, 1, 2), or several (`0,5:8`)")
    if found["only"] is not None:
        return int(found["only"]), int(found["only"]) + 1, 1
    first, by = int(found["first"] or 0), int(found["by"] or 1)
    stop = int(found["stop"]) if found["stop"] is not None else None
    if not by or (stop is not None and stop <= first):
        message = f"--profile-steps {shortened(text)!r} chooses no step"
        raise NodeError(message, help="the second number is the step after the last one, and the third is above 0")
    return first, stop, by


def paths_of(call: Any) -> Iterable[str]:
    """The path of a call, the paths of nodes that were merged into it, and of loops and composites around them."""
    for name in getattr(call, "names", ()) or (call.id,):
        words = name.split(".")
        for end in range(len(words), 0, -1):
            yield ".".join(words[:end])


def matches(pattern: str, call: Any) -> bool:
    """Whether a pattern chooses a call: its own path, or a loop or composite around it. `*` also matches dots."""
    return any(fnmatchcase(path, pattern) for path in paths_of(call))


class ChosenCalls:
    """Follows the loops of a run, and says which calls are chosen.

    A call inside a loop is chosen by the turn of the innermost loop around it. A call outside of all loops is in no
    step, and is chosen by its path alone.

    Args:
        pattern: The pattern of paths.
        steps: The steps; None for all.
    """

    def __init__(self, pattern: str, steps: Steps | None) -> None:
        self.pattern, self.steps = pattern, steps
        self._turns: list[tuple[str, int]] = []
        self._last = -1
        self._chose_turn = False
        self._known: dict[str, bool] = {}

    @property
    def turns(self) -> Sequence[tuple[str, int]]:
        """The loops around the present moment, outermost first, with their turns."""
        return self._turns

    def loop_started(self, loop: LoopInfo) -> None:
        self._turns.append((loop.id, -1))

    def turn_started(self, loop: LoopInfo, index: int) -> None:
        self._turns[-1] = (loop.id, index)
        self._last = max(self._last, index)
        self._chose_turn = self._chose_turn or self.turn_is_chosen()

    def loop_finished(self) -> None:
        self._turns.pop()

    def problem(self) -> str:
        """A warning after a run whose turns were all left out by the steps; empty if there is nothing to say."""
        if self.steps is None or self._chose_turn or self._last < 0:
            return ""
        return f"--profile-steps chooses no turn: the loops have turns from 0 to {self._last}"

    def turn_is_chosen(self) -> bool:
        """Whether the turn of the innermost loop is chosen; true outside of loops."""
        return self.steps is None or not self._turns or self._turns[-1][1] in self.steps

    def holds(self, call: CallInfo) -> bool:
        """Whether a call that begins now is chosen."""
        known = self._known.get(call.id)
        if known is None:
            known = self._known[call.id] = matches(self.pattern, call)
        return known and self.turn_is_chosen()
