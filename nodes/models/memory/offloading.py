"""Where an offloaded component is held: in the host's memory, a few blocks at a time on the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ....graph.contract.diagnostics import Diagnostic
from ....graph.contract.node import Run
from . import block_groups


@dataclass(frozen=True)
class Offload:
    """The transform, and where its component is held: in the host's memory.

    It changes no result, so it may be given anywhere among the others; its hooks go on after adapters and the choice
    of attention and before compiling. Values of one source without it, or with it in another way, have the component
    apart from this one.

    Attributes:
        component: Name in the repository.
        granularity: `blocks` or `leaf`.
        blocks: Blocks of a group.
        stream: Bring the next group while this one computes.
        low_memory: Pin the host's memory for each transfer only.
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
        """Called when the view is dropped."""
        block_groups.detach(module)

    def resident(self, module: Any) -> int:
        """The most bytes of the component that are on the device at a time.

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


def misfit(class_name: str) -> Diagnostic | None:
    """The problem of components of a class that cannot be offloaded in groups, None if they can."""
    if class_name in block_groups.COPIED_CACHES:
        message = f"{class_name} hands caches from layer to layer in a way that group offloading does not carry"
        return Diagnostic("unsupported", message, "component", help="it is small; leave it on the device")
    return None
