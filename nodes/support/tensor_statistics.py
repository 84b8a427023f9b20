"""Mean, deviation and largest value of the tensors of a value, in float64, a part of a tensor at a time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ...graph.contract.value_statistics import ValueStatistics
from .value_tensors import tensors_of

if TYPE_CHECKING:
    import torch

PART = 1 << 22
"""Numbers that are looked at together: 32 MiB in float64."""


def statistics_of(value: Any) -> list[ValueStatistics]:
    """The statistics of each tensor of a value. Waits for the device that computes the tensors."""
    return [statistics(path, tensor) for path, tensor, _ in tensors_of(value)]


def statistics(path: str, tensor: torch.Tensor) -> ValueStatistics:
    """The statistics of one tensor. A complex number counts as two numbers.

    The parts of a tensor are combined as in Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for
    computing sample variances" (1979), formula 2.1: a sum of squares would lose digits.
    """
    import torch

    shape, dtype = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
    numbers = tensor.detach()
    if numbers.layout != torch.strided:
        numbers = numbers.to_dense()
    if numbers.is_complex():
        numbers = torch.view_as_real(numbers.resolve_conj())
    count, mean, squares, largest, not_finite = 0, 0.0, 0.0, 0.0, 0
    for part in numbers.reshape(-1).split(PART):
        wide = part.to(torch.float64)
        finite = wide[wide.isfinite()]
        here = finite.numel()
        not_finite += wide.numel() - here
        if not here:
            continue
        own = float(finite.mean())
        difference, total = own - mean, count + here
        squares += float((finite - own).square().sum())
        if count:
            squares += difference * difference * count * here / total
        mean += difference * here / total
        largest = max(largest, float(finite.abs().max()))
        count = total
    if not count:
        return ValueStatistics(path, shape, dtype, None, None, None, not_finite)
    return ValueStatistics(path, shape, dtype, mean, math.sqrt(squares / count), largest, not_finite)
