"""Rows of tensors that are kept from step to step, such as residuals. Rows of one batch share a tensor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...support.lazy import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


@dataclass
class Together:
    """A tensor [n, tokens, ...] of several kept rows. `keep` replaces it, and nothing writes into it."""

    tensor: torch.Tensor


@dataclass(frozen=True)
class KeptRow:
    """One row of a tensor that is kept.

    Attributes:
        home: The tensor of this row and others.
        at: Number of this row.
        length: Number of its tokens without padding; None if the whole row counts, whatever its length.
    """

    home: Together
    at: int
    length: int | None = None

    @property
    def shared(self) -> torch.Tensor:
        """The tensor [n, tokens, ...] of this row and others."""
        return self.home.tensor

    @property
    def own(self) -> torch.Tensor:
        """The row without padding, [1, length, ...]."""
        return own(self.shared, self.at, self.length)


def own(tensor: torch.Tensor, row: int, length: int | None) -> torch.Tensor:
    """A row of a batch [B, tokens, ...] without its padding, [1, length, ...]."""
    found = tensor if len(tensor) == 1 else tensor[row : row + 1]
    return found if length is None or length == found.shape[1] else found[:, :length]


def keep(before: Sequence[KeptRow | None], tensor: torch.Tensor, lengths: Sequence[int | None]) -> list[KeptRow]:
    """Keep a tensor [n, tokens, ...] in place of earlier rows.

    If these rows share a tensor with rows that stay as they are, a new tensor with all of them takes its place. So a
    batch keeps one row for each of its rows, however they were computed, and rows that are read together lie together.

    Args:
        before: The rows that are replaced; None where nothing was kept.
        tensor: The new rows. Nothing writes into this tensor.
        lengths: Their numbers of tokens without padding.
    """
    old = [row for row in before if row is not None]
    users = Counter(id(row.home) for row in old)
    shares = any(users[id(row.home)] < len(row.shared) for row in old)
    if shares and len(old) == len(before) and all(row.shared.shape[1:] == tensor.shape[1:] for row in old):
        # A snapshot may hold the tensors that are replaced, so they stay as they are.
        new = {id(row.home): row.shared.clone() for row in old}
        for at, row in enumerate(old):
            new[id(row.home)][row.at].copy_(tensor[at])
        for row in old:
            row.home.tensor = new[id(row.home)]
        return [KeptRow(row.home, row.at, length) for row, length in zip(old, lengths, strict=True)]
    home = Together(tensor)
    return [KeptRow(home, at, length) for at, length in enumerate(lengths)]


def together(rows: Sequence[KeptRow], tokens: int) -> torch.Tensor:
    """Rows as one batch [len(rows), tokens, ...]; no copy is made of rows that lie together.

    Padding is cut, or filled with zeros, where the batch of another step was padded to another length.
    """
    first = rows[0]
    neighbours = all(row.home is first.home and row.at == first.at + at for at, row in enumerate(rows))
    if neighbours and first.shared.shape[1] == tokens:
        whole = len(rows) == len(first.shared)
        return first.shared if whole else first.shared[first.at : first.at + len(rows)]
    return torch.cat([_padded(row.shared[row.at : row.at + 1], tokens) for row in rows])


def _padded(row: torch.Tensor, tokens: int) -> torch.Tensor:
    missing = tokens - row.shape[1]
    if missing <= 0:
        return row[:, :tokens]
    return torch.nn.functional.pad(row, [*[0, 0] * (row.ndim - 2), 0, missing])
