"""Rows of a batch: taking some of them, and putting parts together. Nothing here waits for the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .lazy import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


def take(tensor: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
    """Some rows of a tensor [B, ...], as [len(rows), ...].

    All rows are the tensor itself, and neighbouring rows are a view of it; only other rows are copied. The numbers of
    the rows stay on the host: an index on the device would make the host wait.

    Args:
        tensor: The batch.
        rows: Numbers of rows, ascending, at least one.
    """
    first, count = rows[0], len(rows)
    if count == len(tensor):
        return tensor
    if rows[-1] - first + 1 == count:
        return tensor[first : first + count]
    return gather(tensor, rows)


def gather(tensor: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
    """As `take`, but a copy of neighbouring rows too: torch compiles a block anew for an input that is a view."""
    return tensor if len(rows) == len(tensor) else torch.cat([tensor[row : row + 1] for row in rows])


def put_together(parts: Sequence[tuple[Sequence[int], torch.Tensor]]) -> torch.Tensor:
    """The batch [B, ...] that consists of parts, each with the numbers of its rows; one part is returned as it is."""
    if len(parts) == 1:
        return parts[0][1]
    placed = {row: tensor[at : at + 1] for rows, tensor in parts for at, row in enumerate(rows)}
    return torch.cat([placed[row] for row in sorted(placed)])


def others(rows: Sequence[int], count: int) -> list[int]:
    """The numbers of a batch of `count` rows that are not among `rows`."""
    return [] if len(rows) == count else [row for row in range(count) if row not in rows]
