"""Attention kernels from PyPI that diffusers' dispatch lacks: SageAttention 1 and FlashAttention 4.

diffusers' attention processors carry the backend they use, as a member of an enumeration, and look the function up
in a registry. A kernel here becomes one more entry of both, under a name that nothing else has. It is used only by
processors that were given it, which are those of one view; the default of the process is not touched.

Each kernel is an operator of torch, so that compiled code calls it as it is instead of looking inside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    Kernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float | None, bool], torch.Tensor]

KEYS = 64
"""How many keys one step of SageAttention 1 takes: `BLKK` of its `per_block_int8` and `BLOCK_N` of its `forward`."""

SHARE = 2.0**-7
"""The largest share of attention, one rounding of bfloat16, that the filling of the last step may have uncorrected."""


def sage_1(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None, causal: bool
) -> torch.Tensor:
    """SageAttention 1: the products of queries and keys in int8, those with values in float16.

    The package subtracts the mean of the keys from them in place; here it is given a copy that had it subtracted.

    It takes keys 64 at a time and fills the last step up with keys of zeros, which it does not mask: each gets the
    weight of a score of zero. Scores against keys of mean zero have mean zero, so that by Jensen's inequality
    n such keys beside `tokens` true ones get at most n / (tokens + n) of the attention. Where that could be more
    than `SHARE`, values of one, which attention would leave as they are, show what share the true keys got.

    Args:
        query: [B, tokens, heads, 64, 96 or 128], float16, bfloat16 or float32, on a GPU.
        key: [B, tokens, heads, width].
        value: As the keys.
        scale: Factor on the scores; without it 1 / sqrt(width).
        causal: Whether a token only attends to those before it.

    Returns:
        [B, tokens, heads, width] in the dtype of the queries.
    """
    import torch
    from sageattention import sageattn

    def attend(values: torch.Tensor) -> torch.Tensor:
        return sageattn(query, smooth, values, tensor_layout="NHD", is_causal=causal, sm_scale=scale, smooth_k=False)

    query, key, value = (_dense(tensor) for tensor in (query, key, value))
    smooth = key - key.mean(dim=1, keepdim=True)
    result = attend(value)
    tokens = key.shape[1]
    filling = -tokens % KEYS
    if not causal and filling > SHARE * (tokens + filling):  # with `causal` no token sees keys behind the last
        result = result / attend(torch.ones_like(value))
    return result


def flash_4(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None, causal: bool
) -> torch.Tensor:
    """FlashAttention 4: tensors as for `sage_1`, float16 or bfloat16, widths a multiple of 8 up to 128."""
    from flash_attn.cute import flash_attn_func

    query, key, value = (_dense(tensor) for tensor in (query, key, value))
    result = flash_attn_func(query, key, value, softmax_scale=scale, causal=causal)
    return result[0] if isinstance(result, tuple) else result  # the second is the logarithm of the sum


KERNELS: Mapping[str, Kernel] = {"_sgd_sage_1": sage_1, "_sgd_flash_4": flash_4}
"""Our kernels by the names that they have in diffusers' registry."""


def name(backend: str) -> Any:
    """The member of diffusers' `AttentionBackendName` for a backend: one of its own, or one of `KERNELS`.

    Raises:
        ValueError: If there is no such backend.
    """
    from diffusers.models.attention_dispatch import AttentionBackendName

    if backend in KERNELS:
        return _register(backend, KERNELS[backend])
    return AttentionBackendName(backend)


@cache
def _register(backend: str, kernel: Kernel) -> Any:
    """Add a kernel to diffusers' registry, and its name to the enumeration."""
    import torch
    from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

    operator = torch.library.custom_op(
        f"sgd::{backend.strip('_')}",
        kernel,
        mutates_args=(),
        schema="(Tensor query, Tensor key, Tensor value, float? scale, bool causal) -> Tensor",
    )

    @operator.register_fake
    def shape(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None, causal: bool
    ) -> torch.Tensor:
        return query.new_empty((*query.shape[:-1], value.shape[-1]))

    def attend(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        is_causal: bool = False,
        scale: float | None = None,
        _parallel_config: Any = None,
    ) -> torch.Tensor:
        if attn_mask is not None:
            raise ValueError(f"{backend} takes no attention mask")
        if _parallel_config is not None:
            raise ValueError(f"{backend} has no context parallelism")
        return operator(query, key, value, scale, is_causal)

    member = str.__new__(AttentionBackendName, backend)
    member._name_ = member._value_ = backend
    # `AttentionBackendName(backend)` looks the name up here; copying or unpickling a processor calls it.
    AttentionBackendName._value2member_map_[backend] = member
    _AttentionBackendRegistry.register(member)(attend)
    return member


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor with the elements of a head side by side, as the kernels need them."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
