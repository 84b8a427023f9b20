"""FLUX.1's blocks, rebuilt. Sequences are [text | image]."""

from __future__ import annotations

from typing import Any

import torch

from .block_parts import Once, of_doubled, together
from .joint_blocks import JointBlock, OneStream, Streams, TwoStreams, image_layers, text_layers


class FluxBlock(JointBlock):
    """The forward of a block of FLUX.1: the part that both kinds share."""

    def __call__(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        temb: torch.Tensor,
        image_rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
        joint_attention_kwargs: dict[str, Any] | None = None,
    ) -> Streams:
        if image_rotary_emb is None or joint_attention_kwargs:
            made: Streams = self.own(
                hidden_states, encoder_hidden_states, temb, image_rotary_emb, joint_attention_kwargs
            )
            return made
        text = encoder_hidden_states.shape[1]
        cos, sin = image_rotary_emb
        positions = self.once.positions(cos, lambda: of_doubled(cos, sin))
        x = self.streams(together(encoder_hidden_states, hidden_states), text, temb, positions)
        return x[:, :text], x[:, text:]


class FluxDouble(FluxBlock):
    """The forward of a `FluxTransformerBlock`."""

    def __init__(self, block: Any, once: Once) -> None:
        attention = block.attn
        text = text_layers(attention, block.norm1_context.linear, block.ff_context)
        image = image_layers(attention, block.norm1.linear, block.ff)
        super().__init__(block, once, TwoStreams(attention, (text, image), once))


class FluxSingle(FluxBlock):
    """The forward of a `FluxSingleTransformerBlock`."""

    def __init__(self, block: Any, once: Once) -> None:
        super().__init__(block, once, OneStream(block.attn, block.norm.linear, block.proj_mlp, block.proj_out, once))
