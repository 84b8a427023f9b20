"""The part of `sgd plan` about several processes: operations, memory and sent bytes of each rank."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..contract.processes import Mesh
from ..contract.text_tables import count
from ..runtime.ranks.roles import MOST_TRACED
from .fitted_tables import fitted, wrapped

DROPPED = ("sent", "branch", "FLOP")
"""Columns of the table in the order in which a narrow terminal loses them."""

CHOSEN = {
    "choice": "chosen by sgd; `--parallel` sets another",
    "file": "from `run` of the file",
    "command line": "from --parallel",
}
"""The origins of an arrangement: as `parallel_from` of the estimate, and in words."""


def role_lines(estimate: Mapping[str, Any], width: int | None = None) -> Iterator[str]:
    """The lines below the table of nodes, which are those of rank 0. `estimate`: one with `roles`."""
    rows = [["rank", "branch", "FLOP", "peak", "sent", "sent in a turn"]]
    for role in estimate["roles"]:
        first, last = role["ranks"][0], role["ranks"][-1]
        ranks = str(first) if first == last else f"{first} to {last}"
        steps = [f"{count(step['sent_bytes'], 'B', 1024)} of {loop}" for loop, step in role["steps"].items()]
        branch = "all" if role["branch"] is None else f"{role['branch'] + 1} of 2"
        peak, sent = (count(role[name], "B", 1024) for name in ("peak_bytes", "sent_bytes"))
        rows.append([ranks, branch, count(role["flops"]), peak, sent, ", ".join(steps) or "-"])
    yield from fitted(rows, width, flexible="sent in a turn", drop=DROPPED, right=(2, 3, 4))
    mesh = Mesh(**estimate["parallel"])
    if mesh.size > MOST_TRACED:
        note = "The numbers of several ranks are those of the first; others differ by at most one token, row or head."
        yield from wrapped(note, width)
    chosen = CHOSEN[estimate["parallel_from"]]
    yield from wrapped(f"processes: {mesh.size} ({mesh}), {chosen}", width, "  ")
