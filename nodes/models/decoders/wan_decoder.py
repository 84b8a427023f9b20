"""Wan's decoder, rebuilt: the same sums in another order, without copies between layouts.

diffusers decodes one latent frame at a time, and keeps the last two frames in front of each convolution for the next
one. Here two earlier frames, or zeros, stand in front of every buffer, so that chunks of any length give the same
result. Convolutions run without bias: the operation after one adds it. The convolution after a nearest upsampling acts
on the small frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .dense_convolution import DenseWeight, convolve, dense_weight, wide
from .frame_attention import attend
from .frame_values import Doubled
from .last_convolution import LastConvolution
from .norm_operations import add, interleave_norm, interleave_time, norm_silu

CHUNK = 2
"""Latent frames that are decoded together. More need more memory."""


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
        conv2 = dense_weight(block.conv2, dtype=dtype)
        shortcut, bias = None, conv2.bias
        if not isinstance(block.conv_shortcut, nn.Identity):
            conv = block.conv_shortcut
            shortcut, bias = conv.weight.detach().flatten(1).to(dtype), bias + wide(conv.bias.detach())
        norm1, norm2 = norm_weight(block.norm1), norm_weight(block.norm2)
        return Resnet(name, norm1, dense_weight(block.conv1, dtype=dtype), norm2, conv2, shortcut, bias)


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
        joined = F.linear(normed, self.weight, self.bias).view(count, height * width, 3 * channels)
        made = normed.view(count, height * width, channels)
        for frame in range(count):
            attend(*joined[frame].split(channels, -1), made[frame])
        return Pending(F.linear(made, self.out).view_as(x), self.out_bias, x)


@dataclass(frozen=True)
class Stage:
    """Residual blocks of one size, and the upsampling after them.

    Attributes:
        resnets: The blocks.
        in_time: The convolution that doubles frames, if there is one.
        in_space: The convolution after the upsampling of each frame; None for the last stage.
        doubles: Whether the stage's input is added, doubled, to its result (Wan 2.2).
    """

    resnets: tuple[Resnet, ...]
    in_time: DenseWeight | None
    in_space: DenseWeight | None
    doubles: bool

    @staticmethod
    def of(number: int, block: Any, dtype: torch.dtype) -> Stage:
        """Lay out the weights of diffusers' block.

        Raises:
            ValueError: If the block's upsampling is of another kind.
        """
        resnets = tuple(Resnet.of(f"{number}.{i}", each, dtype) for i, each in enumerate(block.resnets))
        upsamplers = getattr(block, "upsamplers", None)
        upsampler = upsamplers[0] if upsamplers else getattr(block, "upsampler", None)
        shortcut = getattr(block, "avg_shortcut", None)
        if upsampler is None:
            if shortcut is not None:
                raise ValueError("a shortcut without upsampling")
            return Stage(resnets, None, None, False)
        if upsampler.mode not in ("upsample2d", "upsample3d"):
            raise ValueError(f"upsampling `{upsampler.mode}`")
        in_time = dense_weight(upsampler.time_conv, dtype=dtype) if upsampler.mode == "upsample3d" else None
        if shortcut is not None and (shortcut.factor_s, shortcut.factor_t) != (2, 1 if in_time is None else 2):
            raise ValueError("a shortcut of another size")
        in_space = dense_weight(upsampler.resample[1], doubled=(3, 4), dtype=dtype)
        return Stage(resnets, in_time, in_space, shortcut is not None)


class WanDecoder:
    """Decodes as diffusers' `AutoencoderKLWan` does, after `post_quant_conv` and before `unpatchify`.

    Its weights are copies in another layout. It keeps up with neither later changes of the module's weights nor hooks
    of its parts.

    Args:
        decoder: The module `WanDecoder3d`, with its weights in memory.
        dtype: The dtype of convolutions and of values in memory. Sums and norms are float32 (or float64).

    Raises:
        ValueError: If the module is built in a way that this class does not know.
    """

    def __init__(self, decoder: Any, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.conv_in = dense_weight(decoder.conv_in, dtype=dtype)
        self.middle = [Resnet.of(f"m.{i}", each, dtype) for i, each in enumerate(decoder.mid_block.resnets)]
        self.attentions = [Attention.of(each, dtype) for each in decoder.mid_block.attentions]
        self.stages = [Stage.of(number, block, dtype) for number, block in enumerate(decoder.up_blocks)]
        self.norm_out, self.conv_out = norm_weight(decoder.norm_out), LastConvolution(decoder.conv_out, dtype)
        if any(stage.in_space is None for stage in self.stages[:-1]) or self.stages[-1].in_space is not None:
            raise ValueError("stages without upsampling")

    @torch.no_grad()
    def __call__(self, latents: Tensor, chunk: int | None = None) -> Tensor:
        """Decode latents of one clip.

        Args:
            latents: [c, T, h, w].
            chunk: Latent frames that are decoded together; `CHUNK` if not given.

        Returns:
            [K, T', H, W] in [-1, 1], of `dtype`.
        """
        chunk = chunk or CHUNK
        x = latents.to(self.dtype).permute(1, 2, 3, 0).contiguous()
        times, sizes = 1, 1
        for stage in self.stages:
            times *= 2 if stage.in_time is not None else 1
            sizes *= 2 if stage.in_space is not None else 1
        count, height, width = 1 + (len(x) - 1) * times, x.shape[1] * sizes, x.shape[2] * sizes
        out = x.new_empty(self.conv_out.channels, count, height, width)
        history: dict[str, Tensor] = {}
        done = 0
        for start in range(0, len(x), chunk):
            part = Chunk(self, history, first=start == 0, last=start + chunk >= len(x))
            padded = part.decoded(x[start : start + chunk])
            made = len(padded) - 2
            self.conv_out(padded, out[:, done : done + made], clamp=True)
            done += made
        return out


@dataclass(frozen=True)
class Chunk:
    """The decoding of consecutive latent frames.

    Attributes:
        decoder: The decoder.
        history: The last two frames before each convolution, by its name.
        first: Whether no frames come before.
        last: Whether no frames follow.
    """

    decoder: WanDecoder
    history: dict[str, Tensor]
    first: bool
    last: bool

    def decoded(self, x: Tensor) -> Tensor:
        """Decode to the input of the last convolution, [T + 2, H + 2, W + 2, C]."""
        decoder = self.decoder
        buffer = self._buffer("in", x.shape)
        buffer[2:] = x
        pending = Pending(self._convolved("in", buffer, decoder.conv_in), decoder.conv_in.bias)
        del buffer
        first, *others = decoder.middle
        pending = self._resnet(first, self._entered(first, pending))
        for attention, resnet in zip(decoder.attentions, others, strict=True):
            pending = self._resnet(resnet, self._entered(resnet, attention(pending)))
        entered = self._entered(decoder.stages[0].resnets[0], pending)
        del pending
        for stage, after in zip(decoder.stages, decoder.stages[1:], strict=False):
            entered = self._upsampled(stage, after.resnets[0], entered)
        pending = self._resnets(decoder.stages[-1], entered)
        del entered
        frames, height, width, channels = pending.frames.shape
        padded = self._buffer("out", (frames, height + 2, width + 2, channels))
        norm_silu(pending.frames, decoder.norm_out, padded[2:], bias=pending.bias, residual=pending.residual)
        self._remember("out", padded)
        return padded

    def _resnets(self, stage: Stage, entered: Entered) -> Pending:
        first, *others = stage.resnets
        pending = self._resnet(first, entered)
        for resnet in others:
            pending = self._resnet(resnet, self._entered(resnet, pending))
        return pending

    def _resnet(self, resnet: Resnet, entered: Entered) -> Pending:
        inner = self._convolved(f"{resnet.name}.1", entered.taken(), resnet.conv1)
        buffer = self._buffer(f"{resnet.name}.2", inner.shape)
        norm_silu(inner, resnet.norm2, buffer[2:], bias=resnet.conv1.bias)
        outer = self._convolved(f"{resnet.name}.2", buffer, resnet.conv2)
        own = entered.frames
        return Pending(outer, resnet.bias, own if resnet.shortcut is None else F.linear(own, resnet.shortcut))

    def _entered(self, resnet: Resnet, pending: Pending) -> Entered:
        """Add what is pending, and make the input of a block's first convolution."""
        buffer = self._buffer(f"{resnet.name}.1", pending.frames.shape)
        norm_silu(pending.frames, resnet.norm1, buffer[2:], bias=pending.bias, residual=pending.residual, keep=True)
        return Entered(pending.frames, buffer)

    def _upsampled(self, stage: Stage, after: Resnet, entered: Entered) -> Entered:
        """Apply a stage and its upsampling, and make the input of the next stage's first convolution."""
        assert stage.in_space is not None
        doubled = None
        if stage.doubles:
            times = 1 if stage.in_time is None else 2
            doubled = Doubled(entered.frames, times, times - 1 if self.first else 0)
        pending = self._resnets(stage, entered)
        del entered
        if stage.in_time is None:
            frames = pending.frames
            add(frames, pending.bias, pending.residual, frames)
        else:
            frames = self._doubled(stage.resnets[0].name, stage.in_time, pending)
        del pending
        phases = convolve(frames, stage.in_space.weight, 1)
        count, height, width, _ = frames.shape
        del frames
        buffer = self._buffer(f"{after.name}.1", (count, 2 * height, 2 * width, len(stage.in_space.bias)))
        kept = interleave_norm(phases, stage.in_space.bias, after.norm1, buffer[2:], doubled)
        return Entered(kept, buffer)

    def _doubled(self, name: str, conv: DenseWeight, pending: Pending) -> Tensor:
        """Frames doubled in time. The clip's first frame stays one, and is not seen by the others."""
        key = f"{name}.time"
        count, *size = pending.frames.shape
        alone = 1 if self.first else 0
        buffer = self._buffer(key, (count - alone, *size))
        made = pending.frames.new_empty(alone + 2 * (count - alone), *size)
        for source, target in ((slice(0, alone), made[:alone]), (slice(alone, None), buffer[2:])):
            frames = pending.frames[source]
            if len(frames):
                residual = None if pending.residual is None else pending.residual[source]
                add(frames, pending.bias, residual, target)
        if count > alone:
            interleave_time(convolve(buffer, conv.weight), conv.bias, made[alone:])
        self._remember(key, buffer)
        return made

    def _buffer(self, key: str, shape: tuple[int, ...] | torch.Size) -> Tensor:
        """Memory for frames with two earlier frames, or zeros, in front. The frames themselves are not set."""
        count, *size = shape
        device = self.decoder.conv_in.weight.device
        made = torch.empty(count + 2, *size, dtype=self.decoder.dtype, device=device)
        before = self.history.get(key)
        if before is None:
            made[:2].zero_()
        else:
            made[:2].copy_(before)
        return made

    def _convolved(self, key: str, buffer: Tensor, conv: DenseWeight) -> Tensor:
        self._remember(key, buffer)
        return convolve(buffer, conv.weight, 1)

    def _remember(self, key: str, buffer: Tensor) -> None:
        if not self.last:
            self.history[key] = buffer[-2:].clone()


def norm_weight(norm: Any) -> Tensor:
    """The weight of diffusers' norm over channels, [C].

    Raises:
        ValueError: If the norm adds a bias.
    """
    if isinstance(norm.bias, nn.Parameter):
        raise ValueError("a norm with a bias")
    return wide(norm.gamma.detach()).flatten().contiguous()
