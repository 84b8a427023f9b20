"""Layers of the VAEs of Wan and Qwen-Image, and their names in Wan's own repository. Torch-free.

Qwen-Image's VAE is Wan 2.1's with other numbers. The VAE of Wan 2.2 TI2V has residual blocks of another layout.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from ..adapters.layer_table import LayerTable, TableBuilder

RESIDUAL = {"residual.0": "norm1", "residual.2": "conv1", "residual.3": "norm2", "residual.6": "conv2"}
"""Layers of a residual block: their names in the original, and here."""


def wan_vae(config: Mapping[str, Any]) -> LayerTable:
    table = TableBuilder()
    latent, blocks = config.get("z_dim", 16), config.get("num_res_blocks", 2)
    factors, scales = list(config.get("dim_mult", (1, 2, 4, 4))), list(config.get("attn_scales", ()))
    temporal, residual = list(config.get("temperal_downsample", (False, True, True))), config.get("is_residual", False)
    base = config.get("base_dim", 96)
    channels = config.get("in_channels", config.get("input_channels", 3))
    _encoder(table, channels, latent, base, factors, blocks, scales, temporal, residual)
    table.layer("quant_conv", 2 * latent, 2 * latent, 1, 1, 1)
    table.layer("post_quant_conv", latent, latent, 1, 1, 1)
    table.alias("conv1", "quant_conv")
    table.alias("conv2", "post_quant_conv")
    decoder = config.get("decoder_base_dim") or base
    channels = config.get("out_channels", config.get("input_channels", 3))
    _decoder(table, channels, latent, decoder, factors, blocks, temporal[::-1], residual)
    return table.build()


def _encoder(
    table: TableBuilder,
    channels: int,
    latent: int,
    base: int,
    factors: list[int],
    blocks: int,
    scales: list[float],
    temporal: list[bool],
    residual: bool,
) -> None:
    widths = [base, *(base * factor for factor in factors)]
    table.layer("encoder.conv_in", widths[0], channels, 3, 3, 3)
    table.alias("encoder.conv1", "encoder.conv_in")
    number, scale = 0, 1.0
    for index, (before, width) in enumerate(pairwise(widths)):
        last = index == len(factors) - 1
        if residual:
            here, original = f"encoder.down_blocks.{index}", f"encoder.downsamples.{index}.downsamples"
            for block in range(blocks):
                _residual(table, f"{here}.resnets.{block}", f"{original}.{block}", before, width)
                before = width
            if not last:
                _resample(table, f"{here}.downsampler", f"{original}.{blocks}", width, width, temporal[index], 1)
            continue
        for _ in range(blocks):
            _residual(table, f"encoder.down_blocks.{number}", f"encoder.downsamples.{number}", before, width)
            before, number = width, number + 1
            if scale in scales:
                _attention(table, f"encoder.down_blocks.{number}", f"encoder.downsamples.{number}", width)
                number += 1
        if not last:
            here, original = f"encoder.down_blocks.{number}", f"encoder.downsamples.{number}"
            _resample(table, here, original, width, width, temporal[index], 1)
            number, scale = number + 1, scale / 2
    _middle(table, "encoder", widths[-1])
    _head(table, "encoder", 2 * latent, widths[-1])


def _decoder(
    table: TableBuilder,
    channels: int,
    latent: int,
    base: int,
    factors: list[int],
    blocks: int,
    temporal: list[bool],
    residual: bool,
) -> None:
    widths = [base * factor for factor in (factors[-1], *reversed(factors))]
    table.layer("decoder.conv_in", widths[0], latent, 3, 3, 3)
    table.alias("decoder.conv1", "decoder.conv_in")
    _middle(table, "decoder", widths[0])
    number = 0
    for index, (before, width) in enumerate(pairwise(widths)):
        last, here = index == len(factors) - 1, f"decoder.up_blocks.{index}"
        if index and not residual:
            before //= 2  # the upsampling layer before it halved the channels
        for block in range(blocks + 1):
            original = f"decoder.upsamples.{index}.upsamples.{block}" if residual else f"decoder.upsamples.{number}"
            _residual(table, f"{here}.resnets.{block}", original, before, width)
            before, number = width, number + 1
        if not last:
            name, original = ("upsampler", f"decoder.upsamples.{index}.upsamples.{blocks + 1}")
            if not residual:
                name, original = ("upsamplers.0", f"decoder.upsamples.{number}")
            out = width if residual else width // 2
            _resample(table, f"{here}.{name}", original, out, width, temporal[index], 2)
            number += 1
    _head(table, "decoder", channels, widths[-1])


def _residual(table: TableBuilder, name: str, original: str, before: int, width: int) -> None:
    table.parameter(f"{name}.norm1.gamma", before, 1, 1, 1)
    table.layer(f"{name}.conv1", width, before, 3, 3, 3)
    table.parameter(f"{name}.norm2.gamma", width, 1, 1, 1)
    table.layer(f"{name}.conv2", width, width, 3, 3, 3)
    if before != width:
        table.layer(f"{name}.conv_shortcut", width, before, 1, 1, 1)
        table.alias(f"{original}.shortcut", f"{name}.conv_shortcut")
    for there, here in RESIDUAL.items():
        suffix = ".gamma" if here.startswith("norm") else ""
        table.alias(f"{original}.{there}{suffix}", f"{name}.{here}{suffix}")


def _attention(table: TableBuilder, name: str, original: str, width: int) -> None:
    table.parameter(f"{name}.norm.gamma", width, 1, 1)
    table.layer(f"{name}.to_qkv", 3 * width, width, 1, 1)
    table.layer(f"{name}.proj", width, width, 1, 1)
    for layer in ("norm.gamma", "to_qkv", "proj"):
        table.alias(f"{original}.{layer}", f"{name}.{layer}")


def _resample(table: TableBuilder, name: str, original: str, out: int, width: int, temporal: bool, times: int) -> None:
    table.layer(f"{name}.resample.1", out, width, 3, 3)
    table.alias(f"{original}.resample.1", f"{name}.resample.1")
    if temporal:
        table.layer(f"{name}.time_conv", times * width, width, 3, 1, 1)
        table.alias(f"{original}.time_conv", f"{name}.time_conv")


def _middle(table: TableBuilder, side: str, width: int) -> None:
    _attention(table, f"{side}.mid_block.attentions.0", f"{side}.middle.1", width)
    for number, original in enumerate(("0", "2")):
        _residual(table, f"{side}.mid_block.resnets.{number}", f"{side}.middle.{original}", width, width)


def _head(table: TableBuilder, side: str, out: int, width: int) -> None:
    table.parameter(f"{side}.norm_out.gamma", width, 1, 1, 1)
    table.layer(f"{side}.conv_out", out, width, 3, 3, 3)
    table.alias(f"{side}.head.0.gamma", f"{side}.norm_out.gamma")
    table.alias(f"{side}.head.2", f"{side}.conv_out")
