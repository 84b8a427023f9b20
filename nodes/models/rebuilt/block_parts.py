"""What rebuilt blocks of several families share: streams in one buffer, attention, and modulation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch.nn import Linear, Module
from torch.nn import functional as F

from ..row_kernels import products


class RebuiltBlock(Protocol):
    """A block's forward on row kernels, with the arguments and results of the block's own forward."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    def joins(self) -> Sequence[Sequence[Linear]]:
        """Layers with one input, whose weights may stand in one buffer."""
        ...


def plain(*layers: Any) -> bool:
    """Whether all layers are ordinary linear layers, whose weights a product may read."""
    return all(type(layer) is Linear for layer in layers)


def rms_weight(module: Any) -> bool:
    """Whether a norm is a root-mean-square norm with weights and without a bias."""
    return isinstance(getattr(module, "weight", None), torch.Tensor) and getattr(module, "bias", None) is None


def together(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Two streams [B, S, D] as one sequence; without a copy if they are neighbours in one buffer.

    A rebuilt block returns its streams as two views of one buffer, so that the next block finds them together.
    """
    (batch, rows, width), more = first.shape, second.shape[1]
    long = ((rows + more) * width, width, 1)
    strides = long if batch > 1 else (first.stride(0), width, 1)
    if (
        first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()
        and first.dtype == second.dtype
        and first.stride() == second.stride() == strides
        and second.storage_offset() == first.storage_offset() + rows * width
    ):
        return first.as_strided((batch, rows + more, width), long)
    return torch.cat([first, second], dim=1)


def attend(
    attention: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Attention through the backend of an attention module's processor.

    Args:
        attention: A module with a processor of diffusers.
        query: [B, S, H, D]; keys and values have a length of their own.
        mask: What diffusers' processor gives to its dispatch.

    Returns:
        [B, S, H·D].
    """
    from diffusers.models.attention_dispatch import dispatch_attention_fn

    processor = attention.processor
    made: torch.Tensor = dispatch_attention_fn(
        query, key, value, attn_mask=mask, dropout_p=0.0, is_causal=False, backend=processor._attention_backend
    )
    return made.flatten(2).to(query.dtype)


def modulation(temb: torch.Tensor, layers: Sequence[Linear], count: int) -> list[torch.Tensor]:
    """Modulation vectors of one or two groups of rows.

    Args:
        temb: The embedding of the timestep after its activation, [B, width].
        layers: One layer for each group.
        count: Number of vectors.

    Returns:
        `count` vectors [B, groups, D].
    """
    batch, width = temb.shape[0], layers[0].weight.shape[0]
    out = torch.empty((len(layers), batch, width), device=temb.device, dtype=temb.dtype)
    for number, layer in enumerate(layers):
        products.product_(out[number], temb, layer.weight, layer.bias, False)
    return list(out.unflatten(-1, (count, -1)).permute(2, 1, 0, 3).unbind(0))


def activated(temb: torch.Tensor) -> torch.Tensor:
    """silu of an embedding of the timestep."""
    return F.silu(temb)


def norm_weights(modules: Sequence[Module]) -> torch.Tensor:
    """Weights of one norm for each group of rows: [groups, D]."""
    weights: list[Any] = [module.weight for module in modules]
    return weights[0].detach()[None] if len(weights) == 1 else torch.stack(weights).detach()


def paired(table: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines [..., S, D / 2] of a complex table of the same shape, as strided views."""
    parts = torch.view_as_real(table)
    return parts[..., 0], parts[..., 1]
