"""HunyuanVideo's blocks, rebuilt. Sequences are [image | text]; the text is not rotated."""

from __future__ import annotations

from typing import Any

import torch

from .block_parts import Once, of_doubled, together
from .joint_blocks import JointBlock, OneStream, Streams, TwoStreams, image_layers, text_layers


def effective_mask(attention: Any, mask: torch.Tensor | None) -> torch.Tensor | None:
    """The mask that the attention's processor uses.

    The family exchanges processors for some that drop a mask which hides nothing (`Unmasked` of its module).
    """
    return None if getattr(attention.processor, "drops_mask", False) else mask


class HunyuanBlock(JointBlock):
    """The forward of a block of HunyuanVideo: the part that both kinds share."""

    def through(
        self,
        hidden: torch.Tensor,
        text: torch.Tensor,
        temb: torch.Tensor,
        mask: torch.Tensor | None,
        rotary: tuple[torch.Tensor, torch.Tensor],
    ) -> Streams:
        """Compute the block.

        Args:
            hidden: Tokens of the image.
            text: Tokens of the text.
            temb: The embedding of the time.
            mask: The mask of attention.
            rotary: Cosines and sines of the image's tokens.
        """
        image = hidden.shape[1]
        x = together(hidden, text)
        mask = effective_mask(self.streams.attention, mask)
        cos, sin = rotary
        positions = self.once.positions(cos, lambda: of_doubled(cos, sin))
        x = self.streams(x, image, temb, positions, mask)
        return x[:, :image], x[:, image:]


class HunyuanDouble(HunyuanBlock):
    """The forward of a `HunyuanVideoTransformerBlock`."""

    def __init__(self, block: Any, once: Once) -> None:
        attention = block.attn
        image = image_layers(attention, block.norm1.linear, block.ff)
        text = text_layers(attention, block.norm1_context.linear, block.ff_context)
        super().__init__(block, once, TwoStreams(attention, (image, text), once))

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
        given = hidden_states, encoder_hidden_states, temb, attention_mask
        if freqs_cis is None:
            made: Streams = self.own(*given, freqs_cis, *args, **kwargs)
            return made
        return self.through(*given, freqs_cis)


class HunyuanSingle(HunyuanBlock):
    """The forward of a `HunyuanVideoSingleTransformerBlock`."""

    def __init__(self, block: Any, once: Once) -> None:
        super().__init__(block, once, OneStream(block.attn, block.norm.linear, block.proj_mlp, block.proj_out, once))

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
        given = hidden_states, encoder_hidden_states, temb, attention_mask
        if image_rotary_emb is None:
            made: Streams = self.own(*given, image_rotary_emb, *args, **kwargs)
            return made
        return self.through(*given, image_rotary_emb)
