"""Qwen-Image's block, rebuilt. Sequences are [text | image]."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from .block_parts import Once, Positions, of_complex, together
from .joint_blocks import JointBlock, Streams, TwoStreams, image_layers, text_layers
from .packed_streams import Layout, PackedStreams


class QwenBlock(JointBlock):
    """The forward of a `QwenImageTransformerBlock`."""

    def __init__(self, block: Any, once: Once) -> None:
        attention, self.block = block.attn, block
        text = text_layers(attention, block.txt_mod[1], block.txt_mlp)
        image = image_layers(attention, block.img_mod[1], block.img_mlp)
        streams = TwoStreams(attention, (text, image), once)
        super().__init__(block, once, streams)
        self.packed = PackedStreams(streams)

    def fits(self) -> bool:
        return not self.block.zero_cond_t and super().fits()

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
        layout = self._layout(hidden_states, encoder_hidden_states, encoder_hidden_states_mask)
        if layout is not None:
            return self._packed(layout, hidden_states, encoder_hidden_states, temb, image_rotary_emb)
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

    def _layout(self, hidden: torch.Tensor, text: torch.Tensor, mask: torch.Tensor | None) -> Layout | None:
        """The sequences without their padding; None if they are computed as a batch, one row each."""
        (count, longest, _), call = text.shape, self.once.call
        if call is None or self.once.cut or (count == 1 and mask is None):
            return None  # without a caller's word, rows may have different timesteps; a cut sequence has no end
        lengths: tuple[int, ...] | None = (longest,) * count
        if mask is not None:
            lengths = self.once.of(
                "lengths", mask, lambda: self.once.kept("lengths", count, lambda: prompt_lengths(mask))
            )
        return None if lengths is None else Layout(lengths, hidden.shape[1])

    def _packed(
        self,
        layout: Layout,
        hidden: torch.Tensor,
        text: torch.Tensor,
        temb: torch.Tensor,
        tables: tuple[torch.Tensor, torch.Tensor],
    ) -> Streams:
        once, (image_table, text_table) = self.once, tables
        positions = once.of(f"positions of {layout}", image_table, lambda: _positions(layout, image_table, text_table))
        x = once.last[1] if once.last is not None and once.last[0][1] is hidden and once.last[0][0] is text else None
        x = layout.pack(text, hidden) if x is None else x
        x = self.packed(x, layout, once.of("row", temb, lambda: once.first_row(temb)), positions)
        name, count = f"padding of {layout}", len(text)
        padding = once.of(name, image_table, lambda: once.kept(name, count, lambda: _padding(layout, text)))
        made = layout.unpack(x, padding)
        once.last = made, x
        return made


def prompt_lengths(mask: torch.Tensor) -> tuple[int, ...] | None:
    """Lengths of prompts from a mask [B, length]; None if it hides other tokens than those at the ends.

    On a GPU this waits for the device.
    """
    if mask.is_meta:
        return (mask.shape[1],) * len(mask)  # a plan counts with the longest
    known = mask.bool().cpu()
    lengths = known.sum(1)
    if not bool((known == (torch.arange(known.shape[1]) < lengths[:, None])).all()):
        return None
    return tuple(lengths.tolist())


def _padding(layout: Layout, text: torch.Tensor) -> torch.Tensor | None:
    found = layout.padding(text.shape[1])
    return None if found is None else torch.tensor(found, device=text.device)


def _positions(layout: Layout, image: torch.Tensor, text: torch.Tensor) -> list[Positions]:
    """Rotary tables of each sequence, from the complex tables [S, D / 2] of the image and of the longest text."""
    found = []
    for place, length in zip(layout.places(), layout.texts, strict=True):
        parts = [image, text[:length]] if place.image_first else [text[:length], image]
        found.append(of_complex(torch.cat(parts)[None]))
    return found
