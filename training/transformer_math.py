"""A forward pass through a WanTransformer3DModel for training: same function, two liberties.

Every block is called with its weights as plain tensors, so that one compilation serves all blocks.
And the text may carry a bias per slot: the pipeline pads every prompt with zero vectors up to
`max_sequence_length`, all of them equal, so a single slot that counts M times (a bias of log M on
its attention score) stands for M of them. Training draws M at random; any padding works afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]
Block = Callable[..., Tensor]
PADDED_LENGTHS = [16, 20, 24, 32, 48, 64, 128, 226, 512]


def padding_bias(lengths: Tensor, slots: int, padded: Tensor) -> Tensor:
    """[B, slots]: 0 for words, log of the number of padding vectors in the slot after them, -inf after.

    `lengths` counts the tokens of each caption, `padded` what the pipeline would pad them to.
    """
    slot = torch.arange(slots, device=lengths.device)[None]
    many = torch.log((padded - lengths).clamp(min=0).float())[:, None]
    bias = torch.where(slot == lengths[:, None], many, torch.full_like(many, -math.inf))
    return torch.where(slot < lengths[:, None], torch.zeros_like(many), bias)


def _linear(w: Weights, x: Tensor, *names: str) -> Tensor:
    weight = torch.cat([w[f"{name}.weight"] for name in names])
    return F.linear(x, weight, torch.cat([w[f"{name}.bias"] for name in names]))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)


def block(
    w: Weights, x: Tensor, text: Tensor, bias: Tensor, temb: Tensor, cos: Tensor, sin: Tensor, heads: int, eps: float
) -> Tensor:
    """One Wan block. x [B, N, C]; text [B, L, C]; bias [B, L]; temb [B, 6, C]; cos, sin [N, 1, D/2]."""
    width = x.shape[-1]
    shift, scale, gate, shift2, scale2, gate2 = (w["scale_shift_table"] + temb.float()).unsqueeze(2).unbind(1)

    h = F.layer_norm(x, (width,), eps=eps) * (1 + scale) + shift
    q, k, v = _linear(w, h, "attn1.to_q", "attn1.to_k", "attn1.to_v").chunk(3, -1)
    dtype = v.dtype
    q = F.rms_norm(q.float(), (width,), w["attn1.norm_q.weight"], eps).unflatten(-1, (heads, -1))
    k = F.rms_norm(k.float(), (width,), w["attn1.norm_k.weight"], eps).unflatten(-1, (heads, -1))
    q, k = (_rotate(t, cos, sin).to(dtype).transpose(1, 2) for t in (q, k))
    mixed = F.scaled_dot_product_attention(q, k, v.unflatten(-1, (heads, -1)).transpose(1, 2))
    x = x + _linear(w, mixed.transpose(1, 2).flatten(2), "attn1.to_out.0") * gate

    h = F.layer_norm(x, (width,), w["norm2.weight"], w["norm2.bias"], eps)
    k, v = _linear(w, text, "attn2.to_k", "attn2.to_v").chunk(2, -1)
    q = F.rms_norm(_linear(w, h, "attn2.to_q").float(), (width,), w["attn2.norm_q.weight"], eps)
    k = F.rms_norm(k.float(), (width,), w["attn2.norm_k.weight"], eps)
    q, k, v = (t.to(dtype).unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    score = (q @ k.mT).float() * q.shape[-1] ** -0.5 + bias[:, None, None]
    mixed = score.softmax(-1).to(dtype) @ v
    x = x + _linear(w, mixed.transpose(1, 2).flatten(2), "attn2.to_out.0")

    h = F.layer_norm(x, (width,), eps=eps) * (1 + scale2) + shift2
    h = F.gelu(_linear(w, h, "ffn.net.0.proj"), approximate="tanh")
    return x + _linear(w, h, "ffn.net.2") * gate2


def forward(model: Any, latents: Tensor, time: Tensor, text: Tensor, bias: Tensor, block: Block = block) -> Tensor:
    """Velocity [B, 16, f, h, w] at `time` (0..1000, [B]); `text` [B, L, 128] is zero where padded."""
    config = model.config
    _, _, frames, height, width = latents.shape
    _, down, across = config.patch_size
    cos, sin = (t[0, :, :, ::2].float() for t in model.rope(latents))
    x = model.patch_embedding(latents).flatten(2).transpose(1, 2).float()
    temb, projected, text, _ = model.condition_embedder(time, text)
    projected = projected.unflatten(1, (6, -1))
    for part in model.blocks:
        weights = dict(part.named_parameters())
        x = block(weights, x, text, bias, projected, cos, sin, config.num_attention_heads, config.eps)
    shift, scale = (model.scale_shift_table + temb.float().unsqueeze(1)).chunk(2, 1)
    x = F.layer_norm(x, x.shape[-1:], eps=config.eps) * (1 + scale) + shift
    x = model.proj_out(x)
    x = x.unflatten(1, (frames, height // down, width // across)).unflatten(-1, (1, down, across, -1))
    # [B, f, h, w, 1, 2, 2, C] -> [B, C, f, 1, h, 2, w, 2]
    return x.permute(0, 7, 1, 4, 2, 5, 3, 6).reshape(latents.shape)
