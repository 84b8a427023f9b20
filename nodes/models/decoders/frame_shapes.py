"""The operations of decoders on the meta device, for plans: results without values, in the memory that kernels take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .frame_values import Affine, Margin, Sums

if TYPE_CHECKING:
    from torch import Tensor


def pad(x: Tensor, margin: Margin) -> Tensor:
    """See `frame_operations.pad`."""
    count, height, width, channels = x.shape
    return x.new_empty(count + margin.frames, height + 2 * margin.rows, width + 2 * margin.columns, channels)


def sums(x: Tensor) -> Sums:
    """See `frame_operations.sums`; the sums of parts take little memory."""
    return Sums(x.new_empty(1, 2, x.shape[-1]), x.numel() // x.shape[-1])


def group_norm(found: Sums) -> Affine:
    """See `frame_operations.group_norm`."""
    channels = found.partial.shape[-1]
    return Affine(found.partial.new_empty(channels), found.partial.new_empty(channels))


def interleave(phases: Tensor, in_time: bool) -> tuple[Tensor, Sums]:
    """See `frame_operations.interleave`."""
    count, rows, columns, together = phases.shape
    frames, channels = (2 * count - 1, together // 8) if in_time else (count, together // 4)
    made = phases.new_empty(frames, 2 * (rows - 1), 2 * (columns - 1), channels)
    return made, sums(made)
