"""Wan's encoder, rebuilt: the same sums in another order, without copies between layouts.

As diffusers does, it computes the first frame alone, then groups of four frames, and leaves out frames at the end that
fill no group. `causal_chunks` has the parts that it shares with the decoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .causal_chunks import CausalChunk, Middle, Pending, Resnet, norm_weight
from .dense_convolution import DenseWeight, convolve, dense_weight, wide
from .norm_operations import add, norm_silu
from .strip_rows import for_halving

GROUP = 4
"""Frames of one latent frame."""

CHANNELS = 8
"""Input channels are filled with zeros to a multiple of this: the kernels of half precision need it."""


@dataclass(frozen=True)
class Averaged:
    """A shortcut that averages groups of channels, positions and frames (Wan 2.2).

    Attributes:
        times: Frames of a group.
        sizes: Rows, and columns, of a group.
        channels: Channels of the result.
    """

    times: int
    sizes: int
    channels: int

    def __call__(self, x: Tensor) -> Tensor:
        """The averages of frames, [T, H, W, C]: [⌈T / times⌉, H / sizes, W / sizes, channels]. Zeros fill in front."""
        x = F.pad(x, (0, 0, 0, 0, 0, 0, -len(x) % self.times, 0))
        count, height, width, own = x.shape
        split = x.view(
            count // self.times, self.times, height // self.sizes, self.sizes, width // self.sizes, self.sizes, own
        )
        groups = split.permute(0, 2, 4, 6, 1, 3, 5).flatten(3).unflatten(3, (self.channels, -1))
        return wide(groups).mean(-1).to(x.dtype)


@dataclass(frozen=True)
class Stage:
    """Residual blocks of one size, and the downsampling after them.

    Attributes:
        resnets: The blocks.
        in_space: The convolution that halves each frame; None for the last stage.
        in_time: The convolution that halves the number of frames, if there is one.
        bias: The bias of the last convolution, with what the one before it adds.
        averaged: The shortcut around the stage, if there is one.
    """

    resnets: tuple[Resnet, ...]
    in_space: DenseWeight | None
    in_time: DenseWeight | None
    bias: Tensor | None
    averaged: Averaged | None

    @staticmethod
    def of(number: int, resnets: Sequence[Any], sampler: Any, shortcut: Any, dtype: torch.dtype) -> Stage:
        """Lay out the weights of diffusers' blocks.

        Raises:
            ValueError: If the downsampling is of another kind.
        """
        made = tuple(Resnet.of(f"{number}.{i}", each, dtype) for i, each in enumerate(resnets))
        averaged = None
        if shortcut is not None:
            averaged = Averaged(shortcut.factor_t, shortcut.factor_s, shortcut.out_channels)
        if sampler is None:
            return Stage(made, None, None, None, averaged)
        if sampler.mode not in ("downsample2d", "downsample3d"):
            raise ValueError(f"downsampling `{sampler.mode}`")
        in_space = dense_weight(sampler.resample[1], dtype=dtype)
        if sampler.mode == "downsample2d":
            return Stage(made, in_space, None, in_space.bias, averaged)
        in_time = dense_weight(sampler.time_conv, dtype=dtype)
        taps = wide(sampler.time_conv.weight.detach()).sum((2, 3, 4))  # the bias before it, through all of its taps
        return Stage(made, in_space, in_time, in_time.bias + taps @ in_space.bias, averaged)


class WanEncoder:
    """Encodes as diffusers' `AutoencoderKLWan` does, after `patchify` and before `quant_conv`.

    Its weights are copies in another layout, as those of `WanDecoder`.

    Args:
        encoder: The module `WanEncoder3d`, with its weights in memory.
        dtype: The dtype of convolutions and of values in memory. Sums and norms are float32 (or float64).

    Raises:
        ValueError: If the module is built in a way that this class does not know.
    """

    def __init__(self, encoder: Any, dtype: torch.dtype) -> None:
        self.dtype = dtype
        conv_in = dense_weight(encoder.conv_in, dtype=dtype)
        self.filled = -conv_in.weight.shape[1] % CHANNELS
        weight = F.pad(conv_in.weight, (0, 0, 0, 0, 0, 0, 0, self.filled))
        self.conv_in = DenseWeight(weight.contiguous(memory_format=torch.channels_last_3d), conv_in.bias)
        self.stages = _stages(encoder.down_blocks, dtype)
        self.middle = Middle.of(encoder.mid_block, dtype)
        self.norm_out, self.conv_out = norm_weight(encoder.norm_out), dense_weight(encoder.conv_out, dtype=dtype)

    @torch.no_grad()
    def __call__(self, video: Tensor, chunk: int = GROUP) -> Tensor:
        """Encode one clip.

        Args:
            video: [c, T, H, W] in [-1, 1].
            chunk: Frames that are encoded together, a multiple of `GROUP`; the first frame is alone.

        Returns:
            [K, 1 + (T - 1) // 4, h, w], of `dtype`.
        """
        count = 1 + (video.shape[1] - 1) // GROUP * GROUP
        bounds = [0, *range(1, count, chunk), count]
        history: dict[str, Tensor] = {}
        made = []
        for start, stop in pairwise(bounds):
            frames = video[:, start:stop].to(self.dtype).permute(1, 2, 3, 0)
            x = F.pad(frames, (0, self.filled)) if self.filled else frames.contiguous()
            made.append(Chunk(self.dtype, history, start == 0, stop == count, self).encoded(x))
        return torch.cat(made).permute(3, 0, 1, 2)


def _stages(blocks: Any, dtype: torch.dtype) -> list[Stage]:
    """The stages of an encoder: blocks that stand one after the other (Wan 2.1), or in groups (Wan 2.2).

    Raises:
        ValueError: If a block is of another kind.
    """
    groups: list[tuple[list[Any], Any, Any]] = []
    current: list[Any] = []
    for block in blocks:
        match type(block).__name__:
            case "WanResidualBlock":
                current.append(block)
            case "WanResample":
                groups.append((current, block, None))
                current = []
            case "WanResidualDownBlock":
                groups.append((list(block.resnets), block.downsampler, block.avg_shortcut))
            case other:
                raise ValueError(f"a block `{other}`")
    if current:
        groups.append((current, None, None))
    made = [Stage.of(number, *group, dtype) for number, group in enumerate(groups)]
    if any(stage.in_space is None for stage in made[:-1]) or made[-1].in_space is not None:
        raise ValueError("stages without downsampling")
    return made


@dataclass(frozen=True)
class Chunk(CausalChunk):
    """The encoding of consecutive frames by an encoder."""

    encoder: WanEncoder

    def encoded(self, x: Tensor) -> Tensor:
        """Encode frames, [T, H, W, C]: the first frame alone, or groups of four. Returns [T', h, w, K]."""
        encoder = self.encoder
        pending = self.begin(x, encoder.conv_in)
        for stage in encoder.stages:
            given = [pending]
            del pending
            pending = self._stage(stage, given)
        pending = self.middle(encoder.middle, pending)
        frames = pending.frames
        buffer = self.buffer("out", frames.shape, x.device)
        norm_silu(frames, encoder.norm_out, buffer[2:], bias=pending.bias, residual=pending.residual)
        made = self.convolved("out", buffer, encoder.conv_out)
        add(made, encoder.conv_out.bias, None, made)
        return made

    def _stage(self, stage: Stage, given: list[Pending]) -> Pending:
        """Apply a stage to the only entry of a list, which frees its memory early."""
        entered = [self.entered(stage.resnets[0], given.pop())]
        whole = entered[0].frames if stage.averaged is not None else None
        pending = self.resnets(stage.resnets, entered)
        if stage.in_space is not None:
            given.append(pending)
            del pending
            pending = self._halved(stage.resnets[0].name, stage, given)
        if stage.averaged is None or whole is None:
            return pending
        if pending.residual is not None:
            add(pending.frames, torch.zeros_like(pending.bias), pending.residual, pending.frames)
        return Pending(pending.frames, pending.bias, stage.averaged(whole))

    def _halved(self, name: str, stage: Stage, given: list[Pending]) -> Pending:
        """Halve frames, and their number. The clip's first frame stays, and does not see the others."""
        assert stage.in_space is not None
        frames, bias, residual = given.pop()
        add(frames, bias, residual, frames)
        del residual
        padded = for_halving(frames)
        del frames
        made = convolve(padded, stage.in_space.weight, stride=(1, 2))
        del padded
        if stage.in_time is None:
            assert stage.bias is not None
            return Pending(made, stage.bias)
        key = f"{name}.time"
        if self.first:
            self.remember(key, made, 1)
            return Pending(made, stage.in_space.bias)
        buffer = self.buffer(key, made.shape, made.device, 1)
        buffer[1:] = made
        del made
        self.remember(key, buffer, 1)
        assert stage.bias is not None
        return Pending(convolve(buffer, stage.in_time.weight, stride=(2, 1)), stage.bias)
