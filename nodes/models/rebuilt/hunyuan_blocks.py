"""HunyuanVideo's blocks, rebuilt. Sequences are [image | text]; the text is not rotated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import Linear

from .block_parts import Once, of_doubled, together
from .flux_blocks import Streams
from .joint_blocks import OneStream, TwoStreams, image_layers, text_layers


def effective_mask(attention: Any, mask: torch.Tensor | None) -> torch.Tensor | None:
    """The mask that the attention's processor uses.

    The family exchanges processors for some that drop a mask which hides nothing (`Unmasked` of its module).
    """
    return None if getattr(attention.processor, "drops_mask", False) else mask


class HunyuanDouble:
    """The forward of a `HunyuanVideoTransformerBlock`."""

    def __init__(self, block: Any, once: Once) -> None:
        attention, self.own, self.once = block.attn, block.forward, once
        image = image_layers(attention, block.norm1.linear, block.ff)
        text = text_layers(attention, block.norm1_context.linear, block.ff_context)
        self.streams = TwoStreams(attention, (image, text), once)

    def fits(self) -> bool:
        return self.streams.fits()

    def joins(self) -> Sequence[Sequence[Linear]]:
        return self.streams.joins()

    def __call__(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        temb: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        freqs_cis: tuple[torch.Tensor, torch.Tensor] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Streams:
        if freqs_cis is None:
            made: Streams = self.own(
                hidden_states, encoder_hidden_states, temb, attention_mask, freqs_cis, *args, **kwargs
            )
            return made
        image = hidden_states.shape[1]
        x = together(hidden_states, encoder_hidden_states)
        mask = effective_mask(self.streams.attention, attention_mask)
        cos, sin = freqs_cis
        positions = self.once.positions(cos, lambda: of_doubled(cos, sin))
        x = self.streams(x, image, temb, positions, mask)
        return x[:, :image], x[:, image:]


class HunyuanSingle:
    """The forward of a `HunyuanVideoSingleTransformerBlock`."""

    def __init__(self, block: Any, once: Once) -> None:
        self.own, self.once = block.forward, once
        self.stream = OneStream(block.attn, block.norm.linear, block.proj_mlp, block.proj_out, once)

    def fits(self) -> bool:
        return self.stream.fits()

    def joins(self) -> Sequence[Sequence[Linear]]:
        return self.stream.joins()

    def __call__(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        temb: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Streams:
        if image_rotary_emb is None:
            made: Streams = self.own(
                hidden_states, encoder_hidden_states, temb, attention_mask, image_rotary_emb, *args, **kwargs
            )
            return made
        image = hidden_states.shape[1]
        x = together(hidden_states, encoder_hidden_states)
        mask = effective_mask(self.stream.attention, attention_mask)
        cos, sin = image_rotary_emb
        positions = self.once.positions(cos, lambda: of_doubled(cos, sin))
        x = self.stream(x, temb, positions, mask)
        return x[:, :image], x[:, image:]
