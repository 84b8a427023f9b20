"""Statistics of one tensor of a value, as a node library reports them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ValueStatistics:
    """Statistics of one tensor.

    Attributes:
        path: The place of the tensor in the value, such as `positive.embeddings`; empty if the value is the tensor.
        shape: Its sizes.
        dtype: Name of its dtype, such as `bfloat16`.
        mean: Mean of its finite numbers; None without any.
        deviation: Standard deviation of its finite numbers, with the divisor n; None without any.
        largest: Largest absolute value of its finite numbers; None without any.
        not_finite: Count of its numbers that are NaN or infinite.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    mean: float | None
    deviation: float | None
    largest: float | None
    not_finite: int
