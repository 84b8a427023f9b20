"""Offloading: a component stays in host memory, and only a few of its blocks are on the device at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ....graph.contract.diagnostics import Diagnostic
from ....graph.contract.node import Run
from . import block_groups


@dataclass(frozen=True)
class Offload:
    """The transform that keeps a component in host memory.

    Offloading changes no results, so `model.offload` may come before or after the other transforms. Its hooks are
    added after adapters and the choice of attention, and before compiling. Model values without offloading, or with
    other settings, hold a separate copy of the component.

    Attributes:
        component: Name in the repository.
        granularity: `blocks` or `leaf`.
        blocks: Number of blocks in a group.
        stream: Transfer the next group while the current group computes.
        low_memory: Pin host memory only for each transfer.
    """

    kind: ClassVar[str] = "offload"

    component: str
    granularity: str = "blocks"
    blocks: int = 1
    stream: bool = False
    low_memory: bool = False

    def apply(self, module: Any, run: Run) -> None:
        block_groups.attach(
            module, self.granularity, self.blocks, run.device, stream=self.stream, low_memory=self.low_memory
        )

    def undo(self, module: Any) -> None:
        """Remove the hooks when the view is dropped."""
        block_groups.detach(module)

    def resident(self, module: Any) -> int:
        """Largest number of bytes of the component on the device at a time.

        Args:
            module: The component, without hooks.
        """
        return block_groups.resident(module, self.granularity, self.blocks, stream=self.stream)

    def __str__(self) -> str:
        words = [
            "leaf by leaf" if self.granularity == "leaf" else f"{self.blocks} block{'s' * (self.blocks > 1)} a time"
        ]
        words += ["with a stream"] if self.stream else []
        words += ["low memory"] if self.low_memory else []
        return ", ".join(words)


def offload_problem(class_name: str) -> Diagnostic | None:
    """The reason why components of a class cannot be offloaded in groups; None if they can."""
    if class_name in block_groups.COPIED_CACHES:
        message = f"{class_name} passes caches between its layers, and group offloading would break them"
        return Diagnostic("unsupported", message, "component", help="this component is small; leave it on the device")
    return None
