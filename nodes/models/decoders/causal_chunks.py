"""Layers of Wan's VAE, rebuilt, which its decoder and its encoder share: residual blocks, attention, and their memory.

diffusers computes a few frames at a time, and keeps the last two frames in front of each convolution for the next ones.
Here two earlier frames, or zeros, stand in front of every buffer, so that chunks of any length give the same result.
Convolutions run without bias: the operation after one adds it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .convolution_choice import chosen
from .dense_convolution import DenseWeight, convolve, wide
from .frame_attention import attend
from .margin_convolution import convolve_margins
from .norm_operations import norm_silu
from .strip_rows import all_rows, fill_margins


class Pending(NamedTuple):
    """Frames, [T, H, W, C], of which a bias and a residual are not added yet."""

    frames: Tensor
    bias: Tensor
    residual: Tensor | None = None


class Entered:
    """Frames, and the input of the convolution that follows: their norm with SiLU, with two earlier frames in front."""

    def __init__(self, frames: Tensor, normed: Tensor) -> None:
        self.frames = frames
        self._normed = [normed]

    def taken(self) -> Tensor:
        """The input of the convolution. It is taken once, so that its memory is free after the convolution."""
        return self._normed.pop()


@dataclass(frozen=True)
class Resnet:
    """A residual block; `norm1` and `norm2` are the weights of its norms."""

    name: str
    norm1: Tensor
    conv1: DenseWeight
    norm2: Tensor
    conv2: DenseWeight
    shortcut: Tensor | None
    bias: Tensor

    @staticmethod
    def of(name: str, block: Any, dtype: torch.dtype) -> Resnet:
        """Lay out the weights of diffusers' block."""
        conv1, conv2 = chosen(block.conv1, dtype), chosen(block.conv2, dtype)
        shortcut, bias = None, conv2.bias
        if not isinstance(block.conv_shortcut, nn.Identity):
            conv = block.conv_shortcut
            shortcut, bias = conv.weight.detach().flatten(1).to(dtype), bias + wide(conv.bias.detach())
        norm1, norm2 = norm_weight(block.norm1), norm_weight(block.norm2)
        return Resnet(name, norm1, conv1, norm2, conv2, shortcut, bias)


@dataclass(frozen=True)
class Attention:
    """Attention within each frame."""

    norm: Tensor
    weight: Tensor
    bias: Tensor
    out: Tensor
    out_bias: Tensor

    @staticmethod
    def of(block: Any, dtype: torch.dtype) -> Attention:
        """Lay out the weights of diffusers' block."""
        weight, out = (each.weight.detach().flatten(1).to(dtype) for each in (block.to_qkv, block.proj))
        bias = block.to_qkv.bias.detach().to(dtype)
        return Attention(norm_weight(block.norm), weight, bias, out, wide(block.proj.bias.detach()))

    def __call__(self, pending: Pending) -> Pending:
        """Apply attention to frames."""
        x = pending.frames
        normed = torch.empty_like(x)
        norm_silu(x, self.norm, normed, bias=pending.bias, residual=pending.residual, keep=True, silu=False)
        count, height, width, channels = x.shape
        queries, others = F.linear(normed, self.weight, self.bias).split((channels, 2 * channels), -1)
        queries, others = queries.flatten(1, 2), all_rows(others, 1).flatten(1, 2)
        made = normed.view(count, height * width, channels)
        for frame in range(count):
            key, value = others[frame].split(channels, -1)
            attend(queries[frame], key, value, made[frame])
        return Pending(F.linear(made, self.out).view_as(x), self.out_bias, x)


@dataclass(frozen=True)
class Middle:
    """The blocks of the smallest frames: a residual block, then attention and a residual block in turns."""

    first: Resnet
    others: tuple[tuple[Attention, Resnet], ...]

    @staticmethod
    def of(block: Any, dtype: torch.dtype) -> Middle:
        """Lay out the weights of diffusers' block."""
        first, *resnets = (Resnet.of(f"m.{i}", each, dtype) for i, each in enumerate(block.resnets))
        attentions = [Attention.of(each, dtype) for each in block.attentions]
        return Middle(first, tuple(zip(attentions, resnets, strict=True)))


@dataclass(frozen=True)
class CausalChunk:
    """The computation of consecutive frames.

    Attributes:
        dtype: The dtype of values in memory.
        history: The last two frames before each convolution, by its name.
        first: Whether no frames come before.
        last: Whether no frames follow.
    """

    dtype: torch.dtype
    history: dict[str, Tensor]
    first: bool
    last: bool

    def begin(self, x: Tensor, conv: DenseWeight) -> Pending:
        """Apply the first convolution to frames [T, H, W, C]."""
        buffer = self.buffer("in", x.shape, x.device)
        buffer[2:] = x
        return Pending(self.convolved("in", buffer, conv), conv.bias)

    def middle(self, middle: Middle, pending: Pending) -> Pending:
        """Apply the blocks of the smallest frames."""
        pending = self.resnet(middle.first, self.entered(middle.first, pending))
        for attention, resnet in middle.others:
            pending = self.resnet(resnet, self.entered(resnet, attention(pending)))
        return pending

    def resnets(self, resnets: tuple[Resnet, ...], given: list[Entered]) -> Pending:
        """Apply residual blocks to the only entry of a list, which no variable of a caller may keep in memory."""
        first, *others = resnets
        pending = self.resnet(first, given.pop())
        for resnet in others:
            entered = self.entered(resnet, pending)
            del pending  # with the residual, which was added
            pending = self.resnet(resnet, entered)
            del entered
        return pending

    def resnet(self, resnet: Resnet, entered: Entered) -> Pending:
        """Apply a residual block."""
        inner = self.convolved(f"{resnet.name}.1", entered.taken(), resnet.conv1)
        buffer = self.buffer(f"{resnet.name}.2", inner.shape, inner.device, margin=resnet.conv2.margin)
        norm_silu(inner, resnet.norm2, buffer[2:], bias=resnet.conv1.bias)
        del inner
        outer = self.convolved(f"{resnet.name}.2", buffer, resnet.conv2)
        del buffer
        own = entered.frames
        return Pending(outer, resnet.bias, own if resnet.shortcut is None else F.linear(own, resnet.shortcut))

    def entered(self, resnet: Resnet, pending: Pending) -> Entered:
        """Add what is pending, and make the input of a block's first convolution."""
        frames, margin = pending.frames, resnet.conv1.margin
        buffer = self.buffer(f"{resnet.name}.1", frames.shape, frames.device, margin=margin)
        norm_silu(frames, resnet.norm1, buffer[2:], bias=pending.bias, residual=pending.residual, keep=True)
        return Entered(frames, buffer)

    def buffer(
        self, key: str, shape: tuple[int, ...] | torch.Size, device: torch.device, frames: int = 2, margin: int = 0
    ) -> Tensor:
        """Memory for frames with earlier frames, or zeros, in front. The frames themselves are not set.

        Args:
            key: The name of the convolution.
            shape: The shape of the frames, [T, H, W, C].
            device: Their device.
            frames: Number of earlier frames.
            margin: Positions around each frame, which are zeros in earlier frames.
        """
        count, height, width, channels = shape
        size = height + 2 * margin, width + 2 * margin, channels
        made = torch.empty(count + frames, *size, dtype=self.dtype, device=device)
        before = self.history.get(key)
        if before is None:
            made[:frames].zero_()
        else:
            around = (size[0] - before.shape[1]) // 2  # not 0 after a chunk of another dtype
            made[:frames].copy_(F.pad(before, (0, 0, around, around, around, around)) if around else before)
        return made

    def convolved(self, key: str, buffer: Tensor, conv: DenseWeight) -> Tensor:
        """Convolve a buffer with zeros around each frame. If the weight wants a margin, the buffer has it."""
        self.remember(key, buffer)
        return convolve_margins(fill_margins(buffer), conv) if conv.margin else convolve(buffer, conv.weight, 1)

    def remember(self, key: str, buffer: Tensor, frames: int = 2) -> None:
        """Keep the last frames of a buffer for the next chunk."""
        if not self.last:
            self.history[key] = buffer[-frames:].clone()


def norm_weight(norm: Any) -> Tensor:
    """The weight of diffusers' norm over channels, [C].

    Raises:
        ValueError: If the norm adds a bias.
    """
    if isinstance(norm.bias, nn.Parameter):
        raise ValueError("a norm with a bias")
    return wide(norm.gamma.detach()).flatten().contiguous()
