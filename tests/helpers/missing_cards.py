"""Properties of cards that are not there, and a way to send tensors to the kernels that sgd has for them."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from sgd.nodes.models.decoders import (
    causal_chunks,
    convolution_choice,
    frame_operations,
    margin_convolution,
    norm_operations,
)
from sgd.nodes.models.decoders.dense_convolution import DenseWeight, dense_weight
from sgd.nodes.models.row_kernels import heads, rows
from torch import nn

COLUMNS = 512
"""Columns of tensor memory of a multiprocessor, of cards that have it (PTX ISA, "Tensor Memory")."""


@dataclass(frozen=True)
class Card:
    """A kind of cards.

    Attributes:
        name: Names of cards of this kind.
        major: First number of the compute capability.
        minor: The second one.
        shared: KiB of shared memory of one multiprocessor.
        block: KiB of shared memory that one block may have.
    """

    name: str
    major: int
    minor: int
    shared: int
    block: int

    @property
    def capability(self) -> int:
        """The compute capability without its dot."""
        return 10 * self.major + self.minor

    @property
    def properties(self) -> Any:
        """The properties that torch tells of such a card, as far as sgd reads them."""
        return SimpleNamespace(
            major=self.major,
            minor=self.minor,
            shared_memory_per_multiprocessor=1024 * self.shared,
            shared_memory_per_block_optin=1024 * self.block,
            multi_processor_count=100,
        )

    def refuses(self, shared: int, columns: int) -> str | None:
        """The reason why such a card does not start a kernel; None if it starts it.

        Args:
            shared: Bytes of the kernel's shared memory.
            columns: Columns of its tensor memory.
        """
        if shared > 1024 * self.block:
            return f"{shared} bytes of shared memory are more than {self.block} KiB"
        return f"{columns} columns of tensor memory are more than {COLUMNS}" if columns > COLUMNS else None


CARDS = (
    Card("A100", 8, 0, 164, 163),
    Card("RTX 3090, A10", 8, 6, 100, 99),
    Card("RTX 4090, L40S", 8, 9, 100, 99),
    Card("H100, H200", 9, 0, 228, 227),
    Card("B200", 10, 0, 228, 227),
    Card("RTX 5090", 12, 0, 100, 99),
)
"""Cards, with the numbers of the table "Technical Specifications per Compute Capability" in NVIDIA's CUDA C++
Programming Guide, chapter "Compute Capabilities"."""


def through_kernels(monkeypatch: Any, card: Card) -> None:
    """Send tensors without values to the kernels, as sgd sends the tensors of a card.

    Args:
        monkeypatch: The fixture of the test.
        card: The card. sgd's own rules choose its kernels from its properties.
    """
    from sgd.nodes.models.row_kernels import row_triton

    writes = rows.writes_e4m3
    number = card.capability  # no card of this machine has it

    def takes(x: torch.Tensor) -> bool:
        return x.dtype in (torch.bfloat16, torch.float16, torch.float32)

    def writes_e4m3(device: torch.device) -> bool:
        return writes(torch.device("cuda", number))

    def chosen(conv: nn.Conv3d, dtype: torch.dtype) -> DenseWeight:
        made = convolution_choice.chosen(conv, dtype)
        return made if convolution_choice._able(number) else dense_weight(conv, dtype=dtype)

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (card.major, card.minor))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card.properties)
    monkeypatch.setattr(rows, "row_shapes", row_triton)
    monkeypatch.setattr(rows, "on_kernels", lambda x: True)
    for module in (rows, heads):
        monkeypatch.setattr(module, "writes_e4m3", writes_e4m3)
    for operations in (frame_operations, norm_operations, margin_convolution):
        monkeypatch.setattr(operations, "on_kernels", takes)
    monkeypatch.setattr(causal_chunks, "chosen", chosen)
