"""A listener that keeps every position of a run."""

from __future__ import annotations

from pathlib import Path

from sgd.graph.resume.position import FinishedEffect, Position
from sgd.graph.resume.snapshot_content import Kept


class Listener:
    """Keeps every position of a run, with the effects that follow it and the places that cannot be kept."""

    def __init__(self) -> None:
        self.kept: list[Kept] = []
        self.lost: list[tuple[str, int, str]] = []
        self.files: list[Path] = []

    def reached(self, position: Position) -> None:
        self.kept.append(Kept(position, dict, tuple(self.files)))

    def unkept(self, loop: str, turn: int, reason: str) -> None:
        self.lost.append((loop, turn, reason))

    def effect_finished(self, effect: FinishedEffect) -> None:
        self.files += effect.files
        if self.kept:
            self.kept.append(self.kept[-1].after(effect))
