"""The devices of the ranks fit together: all are GPUs, each another one, or all are CPUs.

Ranks compare them on the board before torch brings them together. Torch would wait, or fail without a reason.
"""

from __future__ import annotations

import os
from contextlib import suppress

from ...contract.device import VISIBLE
from ...contract.errors import NodeError
from ...contract.rank_start import Board

HOST = "GROUP_RANK"
"""The variable of torchrun with the number of its process on this host, which started this rank."""


def host() -> str:
    """The host of this rank as torchrun numbers it; empty under another launcher."""
    return os.environ.get(HOST, "")


def require_fitting(board: Board, rank: int, device: str) -> None:
    """Check the device of this rank against those of ranks that have told theirs before.

    Args:
        board: The board of the run. Nothing is compared if its process has gone.
        rank: The number of this process.
        device: `cpu` or `cuda`.

    Raises:
        NodeError: If another rank has another kind of device, or the same GPU.
    """
    with suppress(OSError):
        first, _, by = board.first("device", f"{device} {rank}").partition(" ")
        if first != device:
            help = "give all ranks one --device; each host needs as many GPUs as ranks, or none"
            raise NodeError(f"this process runs on {device}, and rank {by} on {first}", help=help)
        card = os.environ.get(VISIBLE, "")
        if device != "cuda" or not card or "," in card:  # `take_card` chose none
            return
        owner = board.first(f"card/{host()}/{card}", str(rank))
        if owner != str(rank):
            help = f"start a rank for each GPU; {VISIBLE} names all of them where the launcher starts, such as 0,1"
            raise NodeError(f"this process and rank {owner} take one GPU, {VISIBLE}={card}", help=help)
