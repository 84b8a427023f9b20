"""Matrix products of sequences: with bias and GELU inside cuBLASLt, from joined weights, for parts of a sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import Linear
from torch.nn import functional as F


@dataclass(frozen=True)
class Part:
    """Rows `start` to `stop` of each sequence, and the layers whose results stand side by side."""

    start: int
    stop: int
    layers: tuple[Linear, ...]


def join(layers: Sequence[Linear]) -> None:
    """Move the weights of layers with one input into one buffer, of which the layers keep views.

    The weights' values and the memory stay as they are. Every module that shares the parameters sees the new buffer.
    """
    weights = [layer.weight for layer in layers]
    biases = [layer.bias for layer in layers if layer.bias is not None]
    if len({(w.device, w.dtype, w.shape[1]) for w in weights}) > 1 or len(biases) not in (0, len(layers)):
        return
    if joined(layers) is not None:
        return
    for tensors in (weights, biases):
        if tensors:
            buffer = torch.cat([tensor.detach() for tensor in tensors])
            for tensor, own in zip(tensors, buffer.split([len(t) for t in tensors]), strict=True):
                tensor.data = own


def joined(layers: Sequence[Linear]) -> tuple[torch.Tensor, torch.Tensor | None] | None:
    """Weight [sum of outputs, inputs] and bias of layers that stand in one buffer; None if they do not.

    Offloading moves each weight alone, so that the weights may be in one buffer at one call and not at another.
    """
    weight = _whole([layer.weight for layer in layers])
    if weight is None:
        return None
    if layers[0].bias is None:
        return weight, None
    bias = _whole([layer.bias for layer in layers])
    return None if bias is None else (weight, bias)


def _whole(parts: Sequence[torch.Tensor]) -> torch.Tensor | None:
    first = parts[0].detach()
    if len(parts) == 1:
        return first
    storage, place = first.untyped_storage().data_ptr(), first.storage_offset()
    for part in parts:
        if part.untyped_storage().data_ptr() != storage or part.storage_offset() != place or not part.is_contiguous():
            return None
        place += part.numel()
    count = sum(len(part) for part in parts)
    return first.as_strided((count, *first.shape[1:]), first.stride())


def product_(out: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, gelu: bool) -> None:
    """Write x · weightᵀ + bias into `out`; with `gelu`, its GELU by the tanh formula.

    Args:
        out: [rows, outputs], contiguous.
        x: [rows, inputs].
        weight: [outputs, inputs].
        bias: [outputs].
        gelu: Whether to apply the activation. On a GPU it is part of the product (`torch._addmm_activation`).
    """
    if out.is_meta:  # a plan counts no temporary memory
        torch.mm(x, weight.t(), out=out)
    elif not out.is_cuda or out.dtype == torch.float32:
        made = F.linear(x, weight, bias)
        out.copy_(F.gelu(made, approximate="tanh") if gelu else made)
    elif bias is None:
        torch.mm(x, weight.t(), out=out)
        if gelu:
            out.copy_(F.gelu(out, approximate="tanh"))
    elif gelu:
        torch._addmm_activation(bias, x, weight.t(), use_gelu=True, out=out)
    else:
        torch.addmm(bias, x, weight.t(), out=out)


def into(out: torch.Tensor, x: torch.Tensor, layers: Sequence[Linear], gelu: bool = False) -> None:
    """Write rows [S, inputs] through layers whose results stand side by side into `out`, [S, outputs], contiguous."""
    whole = joined(layers)
    if whole is not None:
        product_(out, x, *whole, gelu)
        return
    at = 0
    for layer in layers:
        made = F.linear(x, layer.weight, layer.bias)
        out[:, at : at + made.shape[1]] = F.gelu(made, approximate="tanh") if gelu else made
        at += made.shape[1]


def through(x: torch.Tensor, parts: Sequence[Part], *, gelu: bool = False) -> torch.Tensor:
    """Each part of a sequence through its layers.

    Args:
        x: [B, S, inputs].
        parts: Parts that cover the sequence; the results of all have one width.
        gelu: Whether to apply GELU by the tanh formula.

    Returns:
        [B, S, outputs].
    """
    batch, rows, _ = x.shape
    width = sum(layer.weight.shape[0] for layer in parts[0].layers)
    out = torch.empty((batch, rows, width), device=x.device, dtype=x.dtype)
    if len(parts) == 1:
        into(out.flatten(0, 1), x.reshape(batch * rows, -1), parts[0].layers, gelu)
        return out
    for sequence in range(batch):
        for part in parts:
            into(out[sequence, part.start : part.stop], x[sequence, part.start : part.stop], part.layers, gelu)
    return out


def linear(x: torch.Tensor, *layers: Linear, gelu: bool = False) -> torch.Tensor:
    """A sequence [B, S, inputs] through layers whose results stand side by side: [B, S, outputs]."""
    return through(x, [Part(0, x.shape[1], layers)], gelu=gelu)


def linear_of_two(a: torch.Tensor, b: torch.Tensor, layer: Linear) -> torch.Tensor:
    """A layer's result for the concatenation of `a` [B, S, m] and `b` [B, S, n], without a concatenation.

    The second product adds to the first one's result.
    """
    if a.is_cpu or a.dtype == torch.float32:
        return F.linear(torch.cat([a, b], dim=-1), layer.weight, layer.bias)
    left, right = layer.weight[:, : a.shape[-1]], layer.weight[:, a.shape[-1] :]
    out = torch.addmm(layer.bias, b.flatten(0, 1), right.t())
    torch.addmm(out, a.reshape(-1, a.shape[-1]), left.t(), out=out)
    return out.view(*a.shape[:-1], -1)
