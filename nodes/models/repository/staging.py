"""Copy tensors from host memory to a GPU through pinned buffers.

A GPU reads pinned memory by itself, at the full rate of the bus, while the processor goes on. Weight files are mapped
into memory that is not pinned. So their bytes go into one pinned buffer while the GPU reads the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

BUFFERS = 2
SIZE = 32 << 20
"""Bytes of a buffer. A bus moves them in about a millisecond, so that starting a copy costs little beside it."""


class Event(Protocol):
    """A moment in the work of a GPU, as `torch.cuda.Event`."""

    def record(self) -> None:
        """Mark the work that was given to the GPU so far."""

    def synchronize(self) -> None:
        """Wait until the GPU has done the work that was marked last."""


@dataclass
class Buffer:
    """A pinned buffer: flat bytes, and the event after the last copy from it."""

    content: torch.Tensor
    read: Event


def send(target: torch.Tensor, content: torch.Tensor) -> None:
    """Start a copy from pinned memory to the GPU, and return at once."""
    target.copy_(content, non_blocking=True)


class Staging:
    """Copies through buffers in turns. One thread uses it, in one stream.

    Args:
        device: Where tensors go.
        buffers: At least one buffer. A buffer is filled again only after the copy from it has been waited for.
        send: Starts a copy from a buffer to flat bytes on the device.
    """

    def __init__(
        self, device: str, buffers: Sequence[Buffer], send: Callable[[torch.Tensor, torch.Tensor], None] = send
    ) -> None:
        self._device, self._buffers, self._send, self._turn = device, buffers, send, 0

    def on_device(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy of a tensor in host memory on the device, with the same shape, dtype and bits.

        The copy is complete for work that follows in the same stream.
        """
        import torch

        made = torch.empty(tensor.shape, dtype=tensor.dtype, device=self._device)
        if not made.numel():
            return made
        source, target = _bytes(tensor.contiguous()), _bytes(made)
        start = 0
        while start < source.numel():
            buffer = self._buffers[self._turn % len(self._buffers)]
            self._turn += 1
            part = source[start : start + buffer.content.numel()]
            buffer.read.synchronize()
            content = buffer.content[: part.numel()]
            content.copy_(part)
            self._send(target[start : start + part.numel()], content)
            buffer.read.record()
            start += part.numel()
        return made


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    import torch

    return tensor.reshape(-1).view(torch.uint8)


def staging(device: str) -> Staging | None:
    """Buffers for a GPU; None for another device, whose tensors need no copy."""
    if not device.startswith("cuda"):
        return None
    import torch

    made = [torch.empty(SIZE, dtype=torch.uint8, pin_memory=True) for _ in range(BUFFERS)]
    return Staging(device, [Buffer(content, torch.cuda.Event()) for content in made])
