"""The place where a gate works, and a check that a gate can work there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

from ...graph.contract.errors import NodeError
from ..families.base import Family
from .calibration.filled_gate import Use
from .published.checkpoints import S, by_size


@dataclass(frozen=True)
class Place:
    """The place where a gate works.

    Attributes:
        family: The model's family.
        configs: Configurations of the model's components. Some may be missing before the configurations are read.
        source: The model's repository or folder, None if it is not known.
        steps: Number of steps of the component, None if it is not known.
        component: The component's name in the repository.
        size: Width and height of the clip in pixels; None if they are not known.
        image: Whether the model is given an image.
        use: The facts that a calibration table is compared with.
        group: Number of blocks in an offload group; 1 if the component is not offloaded, or the number is not known.
    """

    family: Family
    configs: Mapping[str, Mapping[str, Any]]
    source: str | None = None
    steps: int | None = None
    component: str = "transformer"
    size: tuple[int, int] | None = None
    image: bool = False
    use: Use = Use()
    group: int = 1

    @property
    def identified(self) -> bool:
        """Whether the model is identified well enough to look it up in the published tables.

        If True, a missing entry means that nothing was published for the model.
        """
        return "transformer" in self.configs

    def sized(self, entries: tuple[S, ...]) -> tuple[S, ...]:
        """The entries for the nearest size, if entries were published for several sizes."""
        return entries if self.size is None else by_size(entries, *self.size)

    @property
    def counts(self) -> tuple[int, ...] | None:
        """Blocks in each of the transformer's lists; None if its configuration is not known."""
        config = self.configs.get("transformer", {})
        keys = self.family.blocks.lists.values()
        return tuple(config[key] for key in keys) if all(key in config for key in keys) else None


def whole_groups(counts: Sequence[int], front: int, back: int, separate: bool, group: int) -> None:
    """Check that the gate skips no part of an offload group.

    The first block of a group loads the group, and the last block releases it.

    Args:
        counts: Blocks in each of the transformer's lists.
        front: Number of first blocks that are always computed.
        back: Number of last blocks that are always computed.
        separate: Whether `front` and `back` count in each list, not in all lists together.
        group: Number of blocks in a group. A group ends at the end of a list.

    Raises:
        NodeError: If the gate may skip a part of a group.
    """
    begins = list(accumulate(counts, initial=0))
    spans = list(pairwise(begins)) if separate else [(0, begins[-1])]
    edges = {edge for first, last in spans for edge in (first + front, last - back)} - set(begins)
    for edge in edges:
        within = edge - max(begin for begin in begins if begin < edge)
        if within % group:
            message = (
                f"blocks are offloaded in groups of {group}, and the gate would skip a part of a group: "
                f"{front} first and {back} last blocks always run"
            )
            help = "set `blocks: 1` of model.offload, or numbers of first and last blocks that do not split a group"
            raise NodeError(message, help=help, code="unsupported")
