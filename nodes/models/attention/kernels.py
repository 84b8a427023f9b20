"""Attention kernels from PyPI that diffusers' dispatch lacks: SageAttention 1, FlashAttention 3 (also fp8) and 4.

An attention processor of diffusers holds its backend as a member of an enumeration. A registry maps the member to a
function. This module adds one member and one function for each kernel. Only the processors of one view get the member;
the default backend of the process stays as it is.

Each kernel is a torch operator, so torch.compile calls the kernel and does not trace into it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from threading import Lock
from typing import TYPE_CHECKING, Any

from ...support.kernel_launch import gathers

if TYPE_CHECKING:
    import torch

    Kernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float | None, bool], torch.Tensor]

KEYS_PER_STEP = 64
"""Keys in one tile of SageAttention 1: `BLKK` of its `per_block_int8` and `BLOCK_N` of its `forward`."""

MAX_PADDING_SHARE = 2.0**-7
"""Largest share of attention that the zero keys of the last tile may get without correction: one bfloat16 rounding."""


def sage_1(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None, causal: bool
) -> torch.Tensor:
    """SageAttention 1: int8 products of queries and keys, float16 products with the values.

    The package subtracts the mean of the keys in place. This function subtracts the mean on a copy instead.

    The kernel processes the keys in tiles of 64. It pads the last tile with zero keys and does not mask them, so each
    zero key gets the weight of the score 0. The keys have mean zero, so their scores have mean zero. By Jensen's
    inequality, n zero keys beside `tokens` real keys then get at most n / (tokens + n) of the attention. If this bound
    exceeds `MAX_PADDING_SHARE`, a second call, in which all values are 1, gives the share of attention that the real
    keys got. The result is divided by this share.

    Args:
        query: [B, tokens, heads, width], float16, bfloat16 or float32, on a GPU. The width is 64, 96 or 128.
        key: [B, tokens, heads, width].
        value: [B, tokens, heads, width].
        scale: Factor on the scores; None for 1 / sqrt(width).
        causal: Whether a token attends only to itself and earlier tokens.

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
    padding = -tokens % KEYS_PER_STEP
    # With `causal` no token attends to the zero keys, which come after the last token.
    if not causal and padding > MAX_PADDING_SHARE * (tokens + padding):
        result = result / attend(torch.ones_like(value))
    return result


def flash_4(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None, causal: bool
) -> torch.Tensor:
    """FlashAttention 4. Arguments as in `sage_1`; float16 or bfloat16; width a multiple of 8 up to 128."""
    from flash_attn.cute import flash_attn_func

    query, key, value = (_dense(tensor) for tensor in (query, key, value))
    result = flash_attn_func(query, key, value, softmax_scale=scale, causal=causal)
    return result[0] if isinstance(result, tuple) else result  # the second item is the log of the softmax sum


def flash_3(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None, causal: bool
) -> torch.Tensor:
    """FlashAttention 3 of the wheel `fa3-fwd`. Arguments as in `sage_1`; bfloat16; width a multiple of 8 up to 256.

    The operator is called directly: the wheel's `flash_attn_func` also prepares a backward pass.
    """
    import torch

    import_module("fa3_fwd._C")  # registers the operator
    query, key, value = (_dense(tensor) for tensor in (query, key, value))
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    # The order of `flash_attn_forward` in fa3_fwd_interface.py (0.0.3): key and value caches, lengths, page table,
    # rotary tables and descaling factors are all absent.
    made = torch.ops.fa3_fwd.fwd(
        query, key, value, *[None] * 20, scale, causal, -1, -1, 0, 0.0, True, None, 1, None, 0
    )  # fmt: skip
    result: torch.Tensor = made[0]
    return result


def flash_3_fp8(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None, causal: bool
) -> torch.Tensor:
    """FlashAttention 3 of the wheel `fa3-fwd` on e4m3. Arguments as in `sage_1`; bfloat16; width 64, 128 or 256.

    `centred_e4m3` documents the numbers. Queries and keys take scales from their norms, if the caller names these.
    """
    import torch

    from ..row_kernels import head_norms
    from ..row_kernels.heads import add_means_
    from .centred_e4m3 import centred_e4m3

    import_module("fa3_fwd._C")  # registers the operator
    query, key, value = (_dense(tensor) for tensor in (query, key, value))
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    made = centred_e4m3(query, key, value, head_norms.known())
    # The order as in `flash_3`: the last three of the absent ones are the descaling factors, [B, H] each.
    found = torch.ops.fa3_fwd.fwd(
        made.query, made.key, made.value, *[None] * 17, made.query_scales, made.key_scales, made.value_scales,
        scale, causal, -1, -1, 0, 0.0, True, None, 1, None, 0,
    )  # fmt: skip
    result: torch.Tensor = found[0]
    return add_means_(result.to(query.dtype), made.means)


KERNELS: Mapping[str, Kernel] = {
    "_sgd_sage_1": sage_1,
    "_sgd_flash_3": flash_3,
    "_sgd_flash_3_fp8": flash_3_fp8,
    "_sgd_flash_4": flash_4,
}
"""The kernels of this module by their names in diffusers' registry."""
OF_OPERATORS = ("_sgd_flash_3", "_sgd_flash_3_fp8")
"""Kernels that are torch operators already. Outside a graph, a second operator around them only costs time."""


_registering = Lock()


def name(backend: str) -> Any:
    """The member of diffusers' `AttentionBackendName` for a diffusers backend or one of `KERNELS`.

    Raises:
        ValueError: If there is no such backend.
    """
    from diffusers.models.attention_dispatch import AttentionBackendName

    if backend in KERNELS:
        with _registering:
            return _register(backend, KERNELS[backend])
    return AttentionBackendName(backend)


@cache
def _register(backend: str, kernel: Kernel) -> Any:
    """Add a kernel to diffusers' registry and its name to the enumeration."""
    import torch
    from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

    operator = torch.library.custom_op(
        f"sgd::{backend.strip('_')}",
        kernel,
        mutates_args=(),
        schema="(Tensor query, Tensor key, Tensor value, float? scale, bool causal) -> Tensor",
    )

    direct = backend in OF_OPERATORS

    @operator.register_fake
    def shape(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None, causal: bool
    ) -> torch.Tensor:
        made = query.new_empty((*query.shape[:-1], value.shape[-1]))
        if kernel is flash_3_fp8 and gathers(query):
            _kernels_around(query, key, value, made)
        return made

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
        called = kernel if direct and not (query.is_meta or torch.compiler.is_compiling()) else operator
        return called(query, key, value, scale, is_causal)

    member = str.__new__(AttentionBackendName, backend)
    member._name_ = member._value_ = backend
    # `AttentionBackendName(backend)` looks here. Copying and unpickling a processor call it.
    AttentionBackendName._value2member_map_[backend] = member
    _AttentionBackendRegistry.register(member)(attend)
    return member


def _kernels_around(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, result: torch.Tensor) -> None:
    """Call the Triton kernels that `flash_3_fp8` calls before and after FlashAttention's own kernel."""
    from ..row_kernels import head_norms
    from ..row_kernels.heads import add_means_
    from .centred_e4m3 import centred_e4m3

    made = centred_e4m3(_dense(query), _dense(key), _dense(value), head_norms.known())
    add_means_(result, made.means)


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor with contiguous elements in each head, as the kernels need it."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
