"""What a library measures for `sgd calibrate`: it defines `calibrate(order)`, which returns a `Calibration`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from .events import Observer


class Calibration(Observer):
    """What a library measures, over several runs, and the table that it makes of it. It hears every run.

    Attributes:
        nodes: The node types that measure; what they do not need is not run.
        options: Options of the run that make them measure.
    """

    nodes: frozenset[str] = frozenset()
    options: Mapping[str, Any] = {}

    def compiling(self) -> AbstractContextManager[None]:
        """Surrounds the check of the workflow."""
        return nullcontext()

    def check(self) -> None:
        """See after a run that a table can be made of what was heard.

        Raises:
            NodeError: If not.
        """

    def table(self, prompts: Sequence[str], made: Mapping[str, Any]) -> dict[str, Any]:
        """The table, as JSON has it.

        Args:
            prompts: The texts that were run.
            made: Facts about the runs to keep in it.
        """
        raise NotImplementedError

    def summary(self, table: Mapping[str, Any]) -> str:
        """The table in words."""
        return ""
