"""Matrix products of sequences: with bias and GELU inside cuBLASLt, from joined weights, for parts of a sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import Linear
from torch.nn import functional as F

from . import quantized_products, rows
from .quantized_products import QuantizedLinear
from .quantized_rows import Format, QuantizedRows


@dataclass(frozen=True)
class Part:
    """Rows `start` to `stop` of each sequence, and the layers whose results stand side by side."""

    start: int
    stop: int
    layers: tuple[Linear, ...]


def format_of(*layers: Linear) -> Format | None:
    """The format of 8 bits in which all these layers take their input; None if a layer takes floats."""
    formats = {layer.format if isinstance(layer, QuantizedLinear) else None for layer in layers}
    return formats.pop() if len(formats) == 1 else None


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
    scales = [layer.scale for layer in layers if isinstance(layer, QuantizedLinear)]
    for tensors in (weights, biases, scales):
        if tensors:
            buffer = _together([tensor.detach() for tensor in tensors])
            for tensor, own in zip(tensors, buffer.split([len(t) for t in tensors]), strict=True):
                tensor.data = own


def _together(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """`torch.cat`, which not every torch has for numbers of 8 bits."""
    dtype = tensors[0].dtype
    if dtype.itemsize > 1:
        return torch.cat(list(tensors))
    return torch.cat([tensor.view(torch.uint8) for tensor in tensors]).view(dtype)


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


def into(out: torch.Tensor, x: torch.Tensor | QuantizedRows, layers: Sequence[Linear], gelu: bool = False) -> None:
    """Write the results of layers for rows [S, inputs] side by side into `out`, [S, outputs], contiguous."""
    format = format_of(*layers)
    if format is not None:
        _quantized_into(out, x if isinstance(x, QuantizedRows) else rows.quantized(x, format), layers)
        if gelu:
            out.copy_(F.gelu(out, approximate="tanh"))
        return
    assert isinstance(x, torch.Tensor)
    whole = joined(layers) if plain(*layers) else None
    if whole is not None:
        product_(out, x, *whole, gelu)
        return
    at = 0
    for layer in layers:
        made = layer(x) if isinstance(layer, QuantizedLinear) else F.linear(x, layer.weight, layer.bias)
        out[:, at : at + made.shape[1]] = F.gelu(made, approximate="tanh") if gelu else made
        at += made.shape[1]


def plain(*layers: object) -> bool:
    """Whether all layers are ordinary linear layers with weights in the dtype of the model."""
    return all(type(layer) is Linear for layer in layers)


def _quantized_into(out: torch.Tensor, x: QuantizedRows, layers: Sequence[Linear]) -> None:
    whole, scale = joined(layers), _whole([layer.scale for layer in layers])  # type: ignore[misc]
    if whole is not None and scale is not None:
        quantized_products.product(x, whole[0], scale, whole[1], out)
        return
    at = 0
    for layer in layers:
        made = quantized_products.product(x, layer.weight, layer.scale, layer.bias)  # type: ignore[arg-type]
        out[:, at : at + made.shape[1]] = made
        at += made.shape[1]


def through(x: torch.Tensor | QuantizedRows, parts: Sequence[Part], *, gelu: bool = False) -> torch.Tensor:
    """Each part of a sequence through its layers.

    Args:
        x: [B, S, inputs]; in 8 bits only if all layers take that format.
        parts: Parts that cover the sequence; the results of all have one width.
        gelu: Whether to apply GELU by the tanh formula.

    Returns:
        [B, S, outputs].
    """
    batch, length, _ = x.shape
    width = sum(layer.weight.shape[0] for layer in parts[0].layers)
    device = x.values.device if isinstance(x, QuantizedRows) else x.device
    out = torch.empty((batch, length, width), device=device, dtype=x.dtype)
    if len(parts) == 1:
        flat = x.flat() if isinstance(x, QuantizedRows) else x.reshape(batch * length, -1)
        into(out.flatten(0, 1), flat, parts[0].layers, gelu)
        return out
    for sequence in range(batch):
        for part in parts:
            some = (
                x.part(sequence, part.start, part.stop)
                if isinstance(x, QuantizedRows)
                else x[sequence, part.start : part.stop]
            )
            into(out[sequence, part.start : part.stop], some, part.layers, gelu)
    return out


def linear(x: torch.Tensor | QuantizedRows, *layers: Linear, gelu: bool = False) -> torch.Tensor:
    """A sequence [B, S, inputs] through layers whose results stand side by side: [B, S, outputs]."""
    return through(x, [Part(0, x.shape[1], layers)], gelu=gelu)


def feed_forward(x: torch.Tensor | QuantizedRows, ups: Sequence[Part], downs: Sequence[Part]) -> torch.Tensor:
    """Each part of a sequence through its first layer, GELU by the tanh formula, and its second layer.

    Args:
        x: [B, S, inputs]; in 8 bits only if all first layers take that format.
        ups: Parts that cover the sequence, with one layer each.
        downs: The same parts with the second layers.

    Returns:
        [B, S, outputs].
    """
    format = format_of(*(part.layers[0] for part in downs))
    if format is not None:
        return through(rows.quantized_side_by_side(None, through(x, ups), format, gelu=True), downs)
    if plain(*(part.layers[0] for part in downs)) or len(downs) == 1:
        return through(through(x, ups, gelu=True), downs)
    assert isinstance(x, torch.Tensor)
    made = []
    for up, down in zip(ups, downs, strict=True):
        count = up.stop - up.start
        both = [Part(0, count, part.layers) for part in (up, down)]
        made.append(feed_forward(x[:, up.start : up.stop], both[:1], both[1:]))
    return torch.cat(made, dim=1)


def beside_feed_forward(a: torch.Tensor, x: torch.Tensor | QuantizedRows, up: Linear, out: Linear) -> torch.Tensor:
    """A layer's result for [`a` | GELU of the first layer's result], by the tanh formula.

    Args:
        a: [B, S, m].
        x: [B, S, inputs]; in 8 bits only if `up` takes that format.
        up: First layer, with n outputs.
        out: Layer with m + n inputs.

    Returns:
        [B, S, outputs].
    """
    format = format_of(out)
    if format is None:
        return linear_of_two(a, linear(x, up, gelu=True), out)
    return linear(rows.quantized_side_by_side(a, linear(x, up), format, gelu=True), out)


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
