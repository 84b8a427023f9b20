"""The choice of the convolutions that the kernel of `margin_convolution` computes, by card and by a trial on it."""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import nn

from ....graph.contract.cards import planned_card
from ...support.kernel_launch import gathering_for
from ..row_kernels.kernel_trial import disagreement
from .dense_convolution import DenseWeight, convolve, dense_weight
from .margin_convolution import convolve_margins, laid_out
from .margin_tiles import TILES

if TYPE_CHECKING:
    from torch import Tensor

CAPABILITY = 9
"""Least compute capability of cards that copy tiles by TMA."""

TRIAL = 5, 6, 9
"""Frames, rows and columns of the trial, with margins."""


def chosen(conv: nn.Conv3d, dtype: torch.dtype) -> DenseWeight:
    """The weight of a convolution, with rows for the kernel if the kernel computes it. Without rows, torch convolves.

    A plan, on the meta device, expects that the kernel works, unless the plan is for a card that cannot run it.
    """
    weight = dense_weight(conv, dtype=dtype)
    device = weight.weight.device
    if not _known(conv, dtype) or device.type not in ("cuda", "meta"):
        return weight
    built_for = gathering_for()
    if device.type == "meta" and built_for is not None and not _able(_number(built_for)):
        return weight
    planned = planned_card()
    if planned is not None and not _has_room(planned.capability[0], planned.shared_bytes):
        return weight
    channels = conv.in_channels, conv.out_channels
    if device.type == "cuda" and (not _able(_number(device)) or _problem(_number(device), dtype, channels)):
        return weight
    return laid_out(weight)


def refused(module: nn.Module, device: torch.device, dtype: torch.dtype) -> str | None:
    """The convolutions of a module that cuDNN computes though the card has the kernel, with the reasons; or None."""
    if device.type != "cuda" or not _able(_number(device)):
        return None
    sizes = {
        (each.in_channels, each.out_channels)
        for each in module.modules()
        if isinstance(each, nn.Conv3d) and _known(each, dtype)
    }
    found = {channels: _problem(_number(device), dtype, channels) for channels in sorted(sizes)}
    reasons = [f"{given} to {made} channels: {reason}" for (given, made), reason in found.items() if reason]
    return "; ".join(reasons) or None


def _known(conv: nn.Conv3d, dtype: torch.dtype) -> bool:
    """Whether the kernel has tiles for a convolution in a dtype."""
    fits = (conv.in_channels, conv.out_channels) in TILES and conv.kernel_size == (3, 3, 3)
    return fits and dtype in (torch.float16, torch.bfloat16)


def _number(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


@cache
def _able(number: int) -> bool:
    """Whether a card can run the kernel at all, with the Triton that is installed."""
    if torch.version.cuda is None or importlib.util.find_spec("triton") is None:
        return False
    card = torch.cuda.get_device_properties(number)
    if not _has_room(card.major, card.shared_memory_per_multiprocessor):
        return False
    return importlib.util.find_spec("triton.tools.tensor_descriptor") is not None


def _has_room(major: int, shared: int) -> bool:
    """Whether a card can copy tiles by TMA, and has room for them. `shared`: bytes of memory of a multiprocessor."""
    return major >= CAPABILITY and shared >= max(tile.shared for tile in TILES.values())


@cache
def _problem(number: int, dtype: torch.dtype, channels: tuple[int, int]) -> str | None:
    """The reason why the kernel cannot be used for numbers of channels; None if it agrees with cuDNN on a few rows."""
    return disagreement(lambda: _trial(torch.device("cuda", number), dtype, channels))


def _trial(device: torch.device, dtype: torch.dtype, channels: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The results of the kernel and of cuDNN."""
    given, made = channels
    generator = torch.Generator().manual_seed(0)
    padded, weight = (torch.randn(*size, generator=generator) for size in ((*TRIAL, given), (made, given, 3, 3, 3)))
    dense = weight.to(device, dtype).contiguous(memory_format=torch.channels_last_3d)
    laid = laid_out(DenseWeight(dense, torch.zeros(made, device=device)))
    padded = padded.to(device, dtype)
    with torch.cuda.device(device):
        return convolve_margins(padded, laid), convolve(padded, dense)
