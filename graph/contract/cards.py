"""Graphics cards by name, for plans of another machine: memory, compute capability and rates of matrix products."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from .errors import NodeError
from .suggestions import did_you_mean

MIB = 1 << 20

UNITS = {"KiB": 1 << 10, "MiB": MIB, "GiB": 1 << 30, "MB": 10**6, "GB": 10**9, "M": MIB, "G": 1 << 30}
"""Bytes of the units of `--memory`."""


@dataclass(frozen=True)
class Card:
    """A graphics card.

    Attributes:
        title: Its name.
        mib: Memory in MiB, as `nvidia-smi` reports it.
        tflops: Peak of dense matrix products in bfloat16 that add up in float32, in 10^12 FLOP per second; None if the
            maker gives no number.
        eight_bit_tflops: Peak of dense matrix products of 8-bit numbers, the higher one of fp8 and int8; None if the
            maker gives no number.
        source: The document that gives the rates.
        capability: Its compute capability, as in NVIDIA's table of CUDA GPUs (developer.nvidia.com/cuda-gpus).
    """

    title: str
    mib: int
    tflops: float | None
    eight_bit_tflops: float | None
    source: str
    capability: tuple[int, int]

    @property
    def memory_bytes(self) -> int:
        return self.mib * MIB

    @property
    def shared_bytes(self) -> int:
        """Bytes of shared memory of a multiprocessor."""
        return SHARED_KIB[self.capability] << 10


SHARED_KIB = {(8, 0): 164, (8, 6): 100, (8, 9): 100, (9, 0): 228, (10, 0): 228, (12, 0): 100}
"""KiB of shared memory of a multiprocessor by compute capability (NVIDIA, CUDA C++ Programming Guide, "Technical
Specifications per Compute Capability")."""

_AMPERE = "NVIDIA Ampere GA102 whitepaper, appendix A"
_ADA = "NVIDIA Ada GPU architecture whitepaper, appendix A"
_BLACKWELL = "NVIDIA RTX Blackwell GPU architecture whitepaper, appendix A"

CARDS = {
    "rtx3060": Card("GeForce RTX 3060", 12288, None, None, "", (8, 6)),
    "rtx3090": Card("GeForce RTX 3090", 24576, 71, 284, _AMPERE, (8, 6)),
    "rtx4070ti": Card("GeForce RTX 4070 Ti", 12282, 80.2, 320.7, _ADA + " (there the RTX 4080 12GB)", (8, 9)),
    "rtx4080": Card("GeForce RTX 4080", 16376, 97.5, 389.9, _ADA, (8, 9)),
    "rtx4090": Card("GeForce RTX 4090", 24564, 165.2, 660.6, _ADA, (8, 9)),
    "rtx5080": Card("GeForce RTX 5080", 16303, 112.6, 450.2, _BLACKWELL, (12, 0)),
    "rtx5090": Card("GeForce RTX 5090", 32607, 209.5, 838, _BLACKWELL, (12, 0)),
    "a10": Card("A10", 23028, 125, 250, "NVIDIA A10 data sheet", (8, 6)),
    "a100": Card("A100 40 GB", 40960, 312, 624, "NVIDIA A100 data sheet", (8, 0)),
    "a100-80": Card("A100 80 GB", 81920, 312, 624, "NVIDIA A100 data sheet", (8, 0)),
    "l4": Card("L4", 23034, 121, 242.5, "NVIDIA L4 data sheet (half of the rates with sparsity)", (8, 9)),
    "l40s": Card("L40S", 46068, 362.05, 733, "NVIDIA L40S data sheet", (8, 9)),
    "h100": Card("H100 80 GB SXM", 81559, 989.4, 1978.9, "NVIDIA H100 Tensor Core GPU architecture whitepaper", (9, 0)),
    "h200": Card("H200", 143771, 989.4, 1979, "NVIDIA H200 data sheet (half of the rates with sparsity)", (9, 0)),
    "b200": Card("B200", 183359, 2250, 4500, "NVIDIA DGX B200 data sheet (an eighth, without sparsity)", (10, 0)),
}
"""Cards by the name that `--card` takes."""

_PLANNED: ContextVar[Card | None] = ContextVar("planned card", default=None)


@contextmanager
def planning_for(card: Card | None) -> Iterator[None]:
    """Check and plan for a card inside `with`, as if Triton were installed. None means the card of this machine."""
    token = _PLANNED.set(card)
    try:
        yield
    finally:
        _PLANNED.reset(token)


def planned_card() -> Card | None:
    """The card for which this thread plans; None for the card of this machine."""
    return _PLANNED.get()


def card(name: str) -> Card:
    """Find a card. Case, spaces, hyphens, `nvidia` and `geforce` do not matter.

    Raises:
        NodeError: If no card has this name.
    """
    wanted = _key(name)
    for known, found in CARDS.items():
        if wanted in (_key(known), f"{_key(known)}gb", _key(found.title)):
            return found
    help = did_you_mean(wanted, CARDS) or f"known cards: {', '.join(CARDS)}; `--memory 24GiB` stands for any other"
    raise NodeError(f"--card {name}: no such card is known", help=help)


def _key(name: str) -> str:
    return re.sub(r"nvidia|geforce|[\s_-]", "", name.lower())


def memory_size(text: str, option: str = "--memory") -> int:
    """Read an amount of memory such as `24GiB`, `24 GB` or `512MiB`, in bytes. `option`: who asks for it.

    Raises:
        NodeError: If the text is not a positive number with a unit.
    """
    units = {unit.lower(): size for unit, size in UNITS.items()}
    match = re.fullmatch(r"(\d+(?:\.\d*)?)\s*([A-Za-z]+)", text.strip(), re.ASCII)
    size = int(float(match[1]) * units.get(match[2].lower(), 0)) if match is not None else 0
    if not size or size > 1 << 60:
        number = re.fullmatch(r"\d+(\.\d+)?", text.strip(), re.ASCII)
        help = f"write {option} {text.strip()}GiB" if number else "write a number and a unit, such as 24GiB or 512MiB"
        raise NodeError(f"{option} {text}: this is not an amount of memory", help=help)
    return size
