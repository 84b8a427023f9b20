"""HunyuanVideo's decoder, rebuilt: the same sums in another order, without copies between layouts.

Convolutions run without padding and bias: the operation before a convolution writes its padded input, and the one after
it adds the bias. The two convolutions of a nearest upsampling by two act on the small frames, with a phase for each
position of the large ones. The last convolution, of three channels, is one matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .dense_convolution import DenseWeight, convolve, dense_weight, wide
from .frame_attention import attend
from .frame_operations import add_with_sums, group_norm, interleave, pad, sums
from .frame_values import Affine, Margin, Sums
from .last_convolution import LastConvolution
from .strip_rows import all_rows

AROUND = Margin(2, 1, 1)
"""The margin of a causal convolution of 3 x 3 x 3 taps."""


class Pending(NamedTuple):
    """Frames of which a bias and a residual are not added yet."""

    frames: Tensor
    bias: Tensor
    residual: Tensor


@dataclass(frozen=True)
class Resnet:
    """A residual block: two norms, each followed by SiLU and a convolution."""

    norm1: nn.GroupNorm
    conv1: DenseWeight
    norm2: nn.GroupNorm
    conv2: DenseWeight
    shortcut: Tensor | None
    bias: Tensor

    @staticmethod
    def of(block: Any) -> Resnet:
        """Lay out the weights of diffusers' block."""
        conv2 = dense_weight(block.conv2.conv)
        shortcut, bias = None, conv2.bias
        if block.conv_shortcut is not None:
            conv = block.conv_shortcut.conv
            shortcut, bias = conv.weight.detach().flatten(1), bias + wide(conv.bias.detach())
        return Resnet(block.norm1, dense_weight(block.conv1.conv), block.norm2, conv2, shortcut, bias)

    def __call__(self, x: Tensor, found: Sums) -> Pending:
        """Apply the block to frames, [T, H, W, C], with their sums."""
        inner = convolve(pad(x, AROUND, affine=group_norm(found, self.norm1), silu=True), self.conv1.weight)
        affine = group_norm(sums(inner), self.norm2, self.conv1.bias)
        outer = convolve(pad(inner, AROUND, affine=affine, silu=True), self.conv2.weight)
        return Pending(outer, self.bias, x if self.shortcut is None else F.linear(x, self.shortcut))


@dataclass(frozen=True)
class FrameAttention:
    """Attention of each frame to itself and the frames before it."""

    norm: nn.GroupNorm
    weight: Tensor
    bias: Tensor
    out: Tensor
    out_bias: Tensor

    @staticmethod
    def of(attention: Any) -> FrameAttention:
        """Join the weights of diffusers' module."""
        parts = (attention.to_q, attention.to_k, attention.to_v)
        weight, bias = (torch.cat([getattr(p, name).detach() for p in parts]) for name in ("weight", "bias"))
        out = attention.to_out[0]
        return FrameAttention(attention.group_norm, weight, bias, out.weight.detach(), wide(out.bias.detach()))

    def __call__(self, x: Tensor, found: Sums) -> Pending:
        """Apply attention to frames, [T, H, W, C], with their sums."""
        count, height, width, channels = x.shape
        normed = pad(x, Margin(0, 0, 0), affine=group_norm(found, self.norm)).view(-1, channels)
        joined = F.linear(normed, self.weight, self.bias).view(*x.shape[:3], -1)
        query, others = joined.split((channels, 2 * channels), -1)
        query, others = query.flatten(0, 2), all_rows(others, 1).flatten(0, 2)
        key, value = others.split(channels, -1)
        made, size, whole = torch.empty_like(normed), height * width, len(key) // count
        for frame in range(count):
            own, before = slice(frame * size, (frame + 1) * size), slice(0, (frame + 1) * whole)
            attend(query[own], key[before], value[before], made[own])
        return Pending(F.linear(made, self.out).view_as(x), self.out_bias, x)


@dataclass(frozen=True)
class Stage:
    """Residual blocks of one size, and the upsampling after them."""

    resnets: tuple[Resnet, ...]
    upsampling: DenseWeight | None
    in_time: bool

    @staticmethod
    def of(block: Any) -> Stage:
        """Lay out the weights of diffusers' block.

        Raises:
            ValueError: If the block's upsampling is not by two in both directions of a frame.
        """
        resnets = tuple(Resnet.of(each) for each in block.resnets)
        if block.upsamplers is None:
            return Stage(resnets, None, False)
        upsampler = block.upsamplers[0]
        time, *space = upsampler.upsample_factor
        if space != [2, 2] or time not in (1, 2):
            raise ValueError(f"upsampling by {tuple(upsampler.upsample_factor)}")
        doubled = (2, 3, 4) if time == 2 else (3, 4)
        return Stage(resnets, dense_weight(upsampler.conv.conv, doubled), time == 2)


class HunyuanVideoDecoder:
    """Stands in for the `forward` of diffusers' `HunyuanVideoDecoder3D`.

    Its weights are copies in another layout, apart from norms and products. It keeps up with neither later changes of
    the module's weights nor hooks of its parts.

    Args:
        decoder: The module, with its weights in memory.

    Raises:
        ValueError: If the module is built in a way that this class does not know.
    """

    def __init__(self, decoder: Any) -> None:
        self.conv_in = dense_weight(decoder.conv_in.conv)
        first, *others = decoder.mid_block.resnets
        self.first = Resnet.of(first)
        self.middle = [
            (FrameAttention.of(attention) if attention is not None else None, Resnet.of(resnet))
            for attention, resnet in zip(decoder.mid_block.attentions, others, strict=True)
        ]
        self.stages = [Stage.of(block) for block in decoder.up_blocks]
        self.norm_out = decoder.conv_norm_out
        self.conv_out = LastConvolution(decoder.conv_out.conv)

    @torch.no_grad()
    def __call__(self, hidden_states: Tensor) -> Tensor:
        """Decode latents, [B, c, T, h, w], into frames, [B, 3, T', 8 h, 8 w]."""
        return torch.stack([self.decoded(clip) for clip in hidden_states])

    def decoded(self, latents: Tensor) -> Tensor:
        """Decode the latents of one clip, [c, T, h, w]."""
        x = convolve(pad(latents.permute(1, 2, 3, 0).contiguous(), AROUND), self.conv_in.weight)
        found = add_with_sums(x, self.conv_in.bias)
        pending = self.first(x, found)
        del x
        for attention, resnet in self.middle:
            x, found = _added(pending)
            if attention is not None:
                x, found = _added(attention(x, found))
            pending = resnet(x, found)
            del x
        x, found = _added(pending)
        del pending
        for stage in self.stages:
            x, found = _stage(stage, x, found)
        padded = pad(x, AROUND, affine=group_norm(found, self.norm_out), silu=True)
        del x
        frames, rows, columns, _ = padded.shape
        out = padded.new_empty(self.conv_out.channels, frames - 2, rows - 2, columns - 2)
        self.conv_out(padded, out)
        return out


def _added(pending: Pending) -> tuple[Tensor, Sums]:
    found = add_with_sums(pending.frames, pending.bias, pending.residual)
    return pending.frames, found


def _stage(stage: Stage, x: Tensor, found: Sums) -> tuple[Tensor, Sums]:
    """Apply a stage to frames with their sums. Returns the next stage's frames with theirs."""
    for resnet in stage.resnets[:-1]:
        x, found = _added(resnet(x, found))
    pending = stage.resnets[-1](x, found)
    del x
    if stage.upsampling is None:
        return _added(pending)
    margin = Margin(1 if stage.in_time else 2, 1, 1)
    shift = Affine(torch.ones_like(pending.bias), pending.bias)
    padded = pad(pending.frames, margin, residual=pending.residual, affine=shift)
    del pending
    phases = convolve(padded, stage.upsampling.weight)
    del padded
    return interleave(phases, stage.upsampling.bias, stage.in_time)
