"""Whole-clip forward passes through an AutoencoderKLWan, equal to the library's and much faster.

The library feeds its causal autoencoder one latent frame at a time and carries the last frames of
every convolution along, which saves memory and costs hundreds of small launches. For training, a
clip is short and a batch is large, so here all frames go through at once. A causal convolution over
the whole clip gives exactly what the pieces give; only the two time resamplers treat the first
frame apart. Tensors inside are [B, F, H, W, C]: a 3-d convolution then becomes one 2-d convolution
over three neighbouring frames side by side in the channels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_wan import patchify, unpatchify
from torch import Tensor


def _conv2d(conv: Any, x: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
    frames = x.shape[:2]
    y = F.conv2d(x.flatten(0, 1).permute(0, 3, 1, 2), conv.weight, conv.bias, stride, padding)
    return y.permute(0, 2, 3, 1).unflatten(0, frames)


def _conv3d(conv: Any, x: Tensor, padding: int | None = None) -> Tensor:
    """Causal: output frame t sees input frames t - 2 .. t, zeros before the clip."""
    batch, frames = x.shape[:2]
    taps, side = conv.weight.shape[2], conv.weight.shape[3]
    if taps > 1:
        padded = F.pad(x, (0, 0, 0, 0, 0, 0, taps - 1, 0))
        x = torch.cat([padded[:, k : k + frames] for k in range(taps)], -1)
    weight = conv.weight.transpose(1, 2).flatten(1, 2)  # [out, taps * in, side, side]
    y = F.conv2d(x.flatten(0, 1).permute(0, 3, 1, 2), weight, conv.bias, 1, side // 2)
    return y.permute(0, 2, 3, 1).unflatten(0, (batch, frames))


def _norm(norm: Any, x: Tensor) -> Tensor:
    unit = F.normalize(x.float(), dim=-1).to(x.dtype)
    return unit * (norm.scale * norm.gamma.flatten()).to(x.dtype)


def _residual(block: Any, x: Tensor) -> Tensor:
    short = x if isinstance(block.conv_shortcut, torch.nn.Identity) else _conv3d(block.conv_shortcut, x)
    h = _conv3d(block.conv1, F.silu(_norm(block.norm1, x)))
    return short + _conv3d(block.conv2, F.silu(_norm(block.norm2, h)))


def _attention(block: Any, x: Tensor) -> Tensor:
    batch, frames, height, width, channels = x.shape
    flat = _norm(block.norm, x).reshape(batch * frames, height * width, channels)
    qkv = F.linear(flat, block.to_qkv.weight.flatten(1), block.to_qkv.bias)
    q, k, v = qkv.unsqueeze(1).chunk(3, -1)
    mixed = F.scaled_dot_product_attention(q, k, v).squeeze(1)
    out = F.linear(mixed, block.proj.weight.flatten(1), block.proj.bias)
    return x + out.reshape(x.shape)


def _middle(block: Any, x: Tensor) -> Tensor:
    x = _residual(block.resnets[0], x)
    return _residual(block.resnets[1], _attention(block.attentions[0], x))


def _down(block: Any, x: Tensor) -> Tensor:
    short = block.avg_shortcut(x.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1)
    for resnet in block.resnets:
        x = _residual(resnet, x)
    sampler = block.downsampler
    if sampler is not None:
        x = _conv2d(sampler.resample[1], F.pad(x, (0, 0, 0, 1, 0, 1)), stride=2)
        if sampler.mode == "downsample3d":
            # Windows of three frames, two apart; the first frame stays as it is.
            weight = sampler.time_conv.weight[..., 0, 0]  # [out, in, 3]
            windows = torch.cat([x[:, :-2:2], x[:, 1:-1:2], x[:, 2::2]], -1)
            later = F.linear(windows, weight.transpose(1, 2).flatten(1), sampler.time_conv.bias)
            x = torch.cat([x[:, :1].to(later.dtype), later], 1)
    return x + short


def _up(block: Any, x: Tensor) -> Tensor:
    given = x
    for resnet in block.resnets:
        x = _residual(resnet, x)
    sampler = block.upsampler
    if sampler is not None:
        if sampler.mode == "upsample3d":
            later = _conv3d(sampler.time_conv, x[:, 1:])  # two new frames for each but the first
            batch, frames, height, width, channels = later.shape
            pairs = later.reshape(batch, frames, height, width, 2, channels // 2).permute(0, 1, 4, 2, 3, 5)
            x = torch.cat([x[:, :1].to(later.dtype), pairs.flatten(1, 2)], 1)
        x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        x = _conv2d(sampler.resample[1], x, padding=1)
    if block.avg_shortcut is not None:
        x = x + block.avg_shortcut(given.permute(0, 4, 1, 2, 3), first_chunk=True).permute(0, 2, 3, 4, 1)
    return x


def encode(vae: Any, video: Tensor) -> tuple[Tensor, Tensor]:
    """[B, 3, F, H, W] in [-1, 1] to the mean and log variance of the latents, [B, 16, f, h, w] each."""
    net = vae.encoder
    x = patchify(video, vae.config.patch_size).permute(0, 2, 3, 4, 1)
    x = _conv3d(net.conv_in, x)
    for block in net.down_blocks:
        x = _down(block, x)
    x = _middle(net.mid_block, x)
    x = _conv3d(net.conv_out, F.silu(_norm(net.norm_out, x)))
    x = _conv3d(vae.quant_conv, x)
    mean, log_variance = x.permute(0, 4, 1, 2, 3).chunk(2, 1)
    return mean, log_variance.clamp(-20, 10)


def decode(vae: Any, latents: Tensor) -> Tensor:
    """Raw latents [B, 16, f, h, w] to video [B, 3, F, H, W]; unlike the library's, not clamped."""
    net = vae.decoder
    x = _conv3d(vae.post_quant_conv, latents.permute(0, 2, 3, 4, 1))
    x = _conv3d(net.conv_in, x)
    x = _middle(net.mid_block, x)
    for block in net.up_blocks:
        x = _up(block, x)
    x = _conv3d(net.conv_out, F.silu(_norm(net.norm_out, x)))
    return unpatchify(x.permute(0, 4, 1, 2, 3), vae.config.patch_size)
