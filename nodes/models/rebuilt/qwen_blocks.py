"""Qwen-Image's block, rebuilt. Sequences are [text | image]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import Linear
from torch.nn import functional as F

from .block_parts import Once, of_complex, together
from .flux_blocks import Streams
from .joint_blocks import TwoStreams, image_layers, text_layers


class QwenBlock:
    """The forward of a `QwenImageTransformerBlock`."""

    def __init__(self, block: Any, once: Once) -> None:
        attention, self.own, self.block, self.once = block.attn, block.forward, block, once
        text = text_layers(attention, block.txt_mod[1], block.txt_mlp)
        image = image_layers(attention, block.img_mod[1], block.img_mlp)
        self.streams = TwoStreams(attention, (text, image), once)

    def fits(self) -> bool:
        return not self.block.zero_cond_t and self.streams.fits()

    def joins(self) -> Sequence[Sequence[Linear]]:
        return self.streams.joins()

    def __call__(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        encoder_hidden_states_mask: torch.Tensor | None,
        temb: torch.Tensor,
        image_rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
        joint_attention_kwargs: dict[str, Any] | None = None,
        modulate_index: list[int] | None = None,
    ) -> Streams:
        if image_rotary_emb is None or joint_attention_kwargs or modulate_index is not None:
            made: Streams = self.own(
                hidden_states,
                encoder_hidden_states,
                encoder_hidden_states_mask,
                temb,
                image_rotary_emb,
                joint_attention_kwargs,
                modulate_index,
            )
            return made
        text = encoder_hidden_states.shape[1]
        mask = None
        if encoder_hidden_states_mask is not None:
            known = F.pad(encoder_hidden_states_mask.bool(), (0, hidden_states.shape[1]), value=True)
            mask = known[:, None, None, :]  # [B, 1, 1, S]
        image_table, text_table = image_rotary_emb  # complex [S, D / 2]
        positions = self.once.of(
            "positions", image_table, lambda: of_complex(torch.cat([text_table, image_table])[None])
        )
        x = self.streams(together(encoder_hidden_states, hidden_states), text, temb, positions, mask)
        return x[:, :text], x[:, text:]
