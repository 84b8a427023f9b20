"""Wan's decoder, rebuilt: the same sums in another order, without copies between layouts.

The convolution after a nearest upsampling acts on the small frames. `causal_chunks` has the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .causal_chunks import CausalChunk, Entered, Middle, Pending, Resnet, norm_weight
from .dense_convolution import DenseWeight, convolve, dense_weight
from .frame_values import Doubled
from .last_convolution import LastConvolution
from .norm_operations import add, interleave_norm, interleave_time, norm_silu
from .strip_rows import everywhere, fill_margins

CHUNK, WIDE_CHUNK = 4, 2
"""Latent frames that are decoded together, by the decoders of Wan 2.1 and of Wan 2.2 TI2V. More take less time and more
memory; these take less than diffusers' decoder."""


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

    Attributes:
        chunk: Latent frames that are decoded together.

    Raises:
        ValueError: If the module is built in a way that this class does not know.
    """

    def __init__(self, decoder: Any, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.conv_in = dense_weight(decoder.conv_in, dtype=dtype)
        self.middle = Middle.of(decoder.mid_block, dtype)
        self.stages = [Stage.of(number, block, dtype) for number, block in enumerate(decoder.up_blocks)]
        self.norm_out, self.conv_out = norm_weight(decoder.norm_out), LastConvolution(decoder.conv_out, dtype)
        if any(stage.in_space is None for stage in self.stages[:-1]) or self.stages[-1].in_space is not None:
            raise ValueError("stages without upsampling")
        self.chunk = WIDE_CHUNK if any(stage.doubles for stage in self.stages) else CHUNK

    @property
    def factors(self) -> tuple[int, int]:
        """Frames of one latent frame after the first, and rows or columns of one latent."""
        times = sum(stage.in_time is not None for stage in self.stages)
        return 2**times, 2 ** (len(self.stages) - 1)

    @torch.no_grad()
    def __call__(self, latents: Tensor, chunk: int | None = None) -> Tensor:
        """Decode latents of one clip, [c, T, h, w]. Returns [K, T', H, W]; the rest is as in `chunks`."""
        return torch.cat(list(self.chunks(latents, chunk)), dim=1)

    @torch.no_grad()
    def chunks(self, latents: Tensor, chunk: int | None = None, again: WanDecoder | None = None) -> Iterator[Tensor]:
        """Decode latents of one clip, a few frames at a time.

        Args:
            latents: [c, T, h, w].
            chunk: Latent frames that are decoded together; the attribute `chunk` if not given.
            again: Decodes chunks again whose values are not finite; None leaves them. With it the host waits for each
                chunk.

        Yields:
            [K, T', H, W] in [-1, 1], of `dtype`, or of the dtype of `again`.
        """
        chunk = chunk or self.chunk
        x = latents.permute(1, 2, 3, 0)
        history: dict[str, Tensor] = {}
        for start in range(0, len(x), chunk):
            before = dict(history) if again is not None else {}  # which keeps the memory of both
            bounds = x[start : start + chunk], start == 0, start + chunk >= len(x)
            made = self._chunk(history, *bounds)
            if again is not None and not everywhere(torch.isfinite(made).all()):
                del made
                history.clear()
                history |= before
                made = again._chunk(history, *bounds)
            yield made

    def _chunk(self, history: dict[str, Tensor], x: Tensor, first: bool, last: bool) -> Tensor:
        """Decode consecutive latent frames [T, h, w, c]. The history may be of another dtype, with other margins."""
        padded = Chunk(self.dtype, history, first, last, self).decoded(x.to(self.dtype).contiguous())
        count, height, width, _ = padded.shape
        out = padded.new_empty(self.conv_out.channels, count - 2, height - 2, width - 2)
        self.conv_out(padded, out, clamp=True)
        return out


@dataclass(frozen=True)
class Chunk(CausalChunk):
    """The decoding of consecutive latent frames by a decoder."""

    decoder: WanDecoder

    def decoded(self, x: Tensor) -> Tensor:
        """Decode to the input of the last convolution, [T + 2, H + 2, W + 2, C]."""
        decoder = self.decoder
        pending = self.middle(decoder.middle, self.begin(x, decoder.conv_in))
        entered = self.entered(decoder.stages[0].resnets[0], pending)
        del pending
        for stage, after in zip(decoder.stages, decoder.stages[1:], strict=False):
            given = [entered]
            del entered
            entered = self._upsampled(stage, after.resnets[0], given)
        given = [entered]
        del entered
        pending = self.resnets(decoder.stages[-1].resnets, given)
        padded = self.buffer("out", pending.frames.shape, x.device, margin=1)
        norm_silu(pending.frames, decoder.norm_out, padded[2:], bias=pending.bias, residual=pending.residual)
        self.remember("out", padded)
        return fill_margins(padded)

    def _upsampled(self, stage: Stage, after: Resnet, given: list[Entered]) -> Entered:
        """Apply a stage and its upsampling, and make the input of the next stage's first convolution.

        As in `resnets`, the input is the only entry of a list.
        """
        assert stage.in_space is not None
        doubled = None
        if stage.doubles:
            times = 1 if stage.in_time is None else 2
            doubled = Doubled(given[0].frames, times, times - 1 if self.first else 0)
        pending = self.resnets(stage.resnets, given)
        if stage.in_time is None:
            frames = pending.frames
            add(frames, pending.bias, pending.residual, frames)
        else:
            frames = self._doubled(stage.resnets[0].name, stage.in_time, pending)
        del pending
        phases = convolve(frames, stage.in_space.weight, 1)
        count, height, width, _ = frames.shape
        del frames
        size = count, 2 * height, 2 * width, len(stage.in_space.bias)
        buffer = self.buffer(f"{after.name}.1", size, phases.device, margin=after.conv1.margin)
        kept = interleave_norm(phases, stage.in_space.bias, after.norm1, buffer[2:], doubled)
        return Entered(kept, buffer)

    def _doubled(self, name: str, conv: DenseWeight, pending: Pending) -> Tensor:
        """Frames doubled in time. The clip's first frame stays one, and is not seen by the others."""
        key = f"{name}.time"
        count, *size = pending.frames.shape
        alone = 1 if self.first else 0
        buffer = self.buffer(key, (count - alone, *size), pending.frames.device)
        made = pending.frames.new_empty(alone + 2 * (count - alone), *size)
        for source, target in ((slice(0, alone), made[:alone]), (slice(alone, None), buffer[2:])):
            frames = pending.frames[source]
            if len(frames):
                residual = None if pending.residual is None else pending.residual[source]
                add(frames, pending.bias, residual, target)
        if count > alone:
            interleave_time(convolve(buffer, conv.weight), conv.bias, made[alone:])
        self.remember(key, buffer)
        return made
