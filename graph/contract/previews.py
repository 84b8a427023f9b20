"""Previews: small pictures of values that a loop is still making, for `sgd exec --preview N`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .diagnostics import Diagnostic
from .events import CallInfo
from .facts import NodeFacts

Picture = Callable[[], bytes]
"""Gives a picture as the bytes of a PNG file. It may wait for the device; a thread beside the run calls it."""


class Previews:
    """The previews of one run, from a node library. The base class makes none.

    Attributes:
        hears: Names of the node types whose calls it is told of.
        makes: Those of them whose calls make previews.
    """

    hears: frozenset[str] = frozenset()
    makes: frozenset[str] = frozenset()

    def problem(self, type: str, facts: NodeFacts) -> Diagnostic | None:
        """The reason why a call has no previews, as far as that is known before the run; None without one.

        Args:
            type: The node type of the call; it is in `hears`.
            facts: The facts of the call.
        """
        return None

    def started(self, call: CallInfo, arguments: Mapping[str, Any]) -> None:
        """A call is about to run with these arguments: every one in `hears`, and in `makes` if a preview is due."""

    def picture(self, call: CallInfo) -> Picture | None:
        """The preview of a call in `makes` that has run and was `started`; None if there is none.

        Called in the thread that runs the plan, after the call's time was taken. It must not wait for the device.
        """
        return None
