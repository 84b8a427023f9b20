"""Layers of the VAEs of FLUX, Z-Image (`AutoencoderKL`) and HunyuanVideo, and their original names. Torch-free.

The original of `AutoencoderKL` is the code of latent diffusion: its attention is made of convolutions, and its decoder
counts blocks from the output. HunyuanVideo's own VAE has diffusers' names; ComfyUI writes both in the older names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..adapters.layer_table import LayerTable, TableBuilder

ATTENTION = {
    "group_norm": ("norm",),
    "to_q": ("q", "query"),
    "to_k": ("k", "key"),
    "to_v": ("v", "value"),
    "to_out.0": ("proj_out", "proj_attn"),
}
"""Layers of an attention here; their names in the original, and in diffusers before version 0.18."""

WIDTHS = (128, 256, 512, 512)
"""Default of `block_out_channels` of HunyuanVideo's VAE."""


@dataclass
class _Vae:
    """A table in the making, and the differences between the two classes."""

    kernel: tuple[int, ...]
    inside: str
    table: TableBuilder = field(default_factory=TableBuilder)

    def convolution(self, name: str, original: str, out: int, width: int, size: int = 3) -> None:
        """Add a convolution; a causal one holds it under a further name."""
        self.table.layer(f"{name}{self.inside}", out, width, *(size,) * len(self.kernel))
        self.table.alias(f"{original}{self.inside}", f"{name}{self.inside}")

    def norm(self, name: str, original: str, width: int) -> None:
        self.table.layer(name, width)
        self.table.alias(original, name)

    def residual(self, name: str, original: str, before: int, width: int) -> None:
        self.norm(f"{name}.norm1", f"{original}.norm1", before)
        self.convolution(f"{name}.conv1", f"{original}.conv1", width, before)
        self.norm(f"{name}.norm2", f"{original}.norm2", width)
        self.convolution(f"{name}.conv2", f"{original}.conv2", width, width)
        if before != width:
            self.convolution(f"{name}.conv_shortcut", f"{original}.nin_shortcut", width, before, 1)

    def middle(self, side: str, width: int, attention: bool) -> None:
        for number in (0, 1):
            self.residual(f"{side}.mid_block.resnets.{number}", f"{side}.mid.block_{number + 1}", width, width)
        if not attention:
            return
        here = f"{side}.mid_block.attentions.0"
        for name, originals in ATTENTION.items():
            self.table.layer(f"{here}.{name}", *((width,) if name == "group_norm" else (width, width)))
            self.table.alias(f"{side}.mid.attn_1.{originals[0]}", f"{here}.{name}")
            for older in originals[1:]:
                self.table.alias(f"{here}.{older}", f"{here}.{name}")


def kl_vae(config: Mapping[str, Any]) -> LayerTable:
    """Layers of `AutoencoderKL`."""
    vae = _Vae((3, 3), "")
    widths = list(config.get("block_out_channels", (64,)))
    scaled = [True] * (len(widths) - 1) + [False]
    latent, layers = config.get("latent_channels", 4), config.get("layers_per_block", 1)
    _halves(vae, config, widths, scaled, scaled, latent, layers)
    if config.get("use_quant_conv", True):
        vae.table.layer("quant_conv", 2 * latent, 2 * latent, 1, 1)
    if config.get("use_post_quant_conv", True):
        vae.table.layer("post_quant_conv", latent, latent, 1, 1)
    return vae.table.build()


def hunyuan_vae(config: Mapping[str, Any]) -> LayerTable:
    """Layers of `AutoencoderKLHunyuanVideo`."""
    vae = _Vae((3, 3, 3), ".conv")
    widths = list(config.get("block_out_channels", WIDTHS))
    spatial = config.get("spatial_compression_ratio", 8).bit_length() - 1
    frames = config.get("temporal_compression_ratio", 4).bit_length() - 1
    last = len(widths) - 1
    scaled = [index < spatial or last - frames <= index < last for index in range(len(widths))]
    latent, layers = config.get("latent_channels", 16), config.get("layers_per_block", 2)
    _halves(vae, config, widths, scaled, scaled, latent, layers)
    vae.table.layer("quant_conv", 2 * latent, 2 * latent, 1, 1, 1)
    vae.table.layer("post_quant_conv", latent, latent, 1, 1, 1)
    return vae.table.build()


def _halves(
    vae: _Vae,
    config: Mapping[str, Any],
    widths: list[int],
    smaller: list[bool],
    larger: list[bool],
    latent: int,
    layers: int,
) -> None:
    """Add the encoder and the decoder.

    Args:
        widths: Channels of each block of the encoder.
        smaller: Whether each block of the encoder ends in a layer that makes its input smaller.
        larger: Whether each block of the decoder ends in a layer that makes its input larger.
    """
    attention = config.get("mid_block_add_attention", True)
    vae.convolution("encoder.conv_in", "encoder.conv_in", widths[0], config.get("in_channels", 3))
    before = widths[0]
    for index, width in enumerate(widths):
        here, original = f"encoder.down_blocks.{index}", f"encoder.down.{index}"
        for number in range(layers):
            vae.residual(f"{here}.resnets.{number}", f"{original}.block.{number}", before, width)
            before = width
        if smaller[index]:
            vae.convolution(f"{here}.downsamplers.0.conv", f"{original}.downsample.conv", width, width)
    vae.middle("encoder", widths[-1], attention)
    vae.norm("encoder.conv_norm_out", "encoder.norm_out", widths[-1])
    vae.convolution("encoder.conv_out", "encoder.conv_out", 2 * latent, widths[-1])

    before = widths[-1]
    vae.convolution("decoder.conv_in", "decoder.conv_in", before, latent)
    vae.middle("decoder", before, attention)
    for index, width in enumerate(reversed(widths)):
        here, original = f"decoder.up_blocks.{index}", f"decoder.up.{len(widths) - 1 - index}"
        for number in range(layers + 1):
            vae.residual(f"{here}.resnets.{number}", f"{original}.block.{number}", before, width)
            before = width
        if larger[index]:
            vae.convolution(f"{here}.upsamplers.0.conv", f"{original}.upsample.conv", width, width)
    vae.norm("decoder.conv_norm_out", "decoder.norm_out", widths[0])
    vae.convolution("decoder.conv_out", "decoder.conv_out", config.get("out_channels", 3), widths[0])
