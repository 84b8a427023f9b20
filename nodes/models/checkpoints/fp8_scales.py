"""Scales of fp8 weights: the tensors beside a weight by which its numbers are multiplied. Torch-free.

ComfyUI writes `scale_weight` and a marker `scaled_fp8` for the file; newer versions write `weight_scale`, and state the
format of each layer. `scale_input` and `input_scale` are for activations in fp8, which are not used here.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from .stored_tensors import FLOATS, FP8, StoredTensor

WEIGHT_SCALES = (".scale_weight", ".weight_scale", ".weight_scale_inv")
"""Ends of names of scales, after the layer's name."""

ACTIVATION_SCALES = (".scale_input", ".input_scale", ".scale_activation")
FORMAT = ".comfy_quant"
MARKER = "scaled_fp8"

READABLE = {"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2"}
"""Formats of ComfyUI that are fp8 numbers with a scale, and the dtype of their numbers."""


def is_marker(name: str) -> bool:
    """Whether a tensor states that the file's fp8 weights have scales."""
    return name == MARKER or name.endswith(f".{MARKER}")


def layer_of(name: str) -> str | None:
    """The layer to which a scale or a format belongs; None for other tensors."""
    for end in (*WEIGHT_SCALES, *ACTIVATION_SCALES, FORMAT):
        if name.endswith(end):
            return name.removesuffix(end)
    return None


def scale_of(weight: str, tensors: Mapping[str, StoredTensor]) -> str | None:
    """Name of the scale of a weight; None if it has none."""
    layer = weight.removesuffix(".weight")
    return next((f"{layer}{end}" for end in WEIGHT_SCALES if f"{layer}{end}" in tensors), None)


def problem(
    name: str, tensor: StoredTensor, scale: tuple[str, StoredTensor] | None, stated: str | None, marked: bool
) -> str | None:
    """The reason why a weight cannot be read, as the end of a sentence about it; None if there is none.

    Args:
        name: The weight.
        tensor: Its entry in the header.
        scale: Name and entry of its scale, if it has one.
        stated: The format that the file states for its layer, if any.
        marked: Whether the file says that its fp8 weights have scales.
    """
    if stated is not None:
        wanted = READABLE.get(stated)
        if wanted is None:
            return f"is quantised as {stated}, which cannot be read"
        if tensor.dtype not in (wanted, "U8"):
            return f"has the dtype {tensor.dtype}, and the file states {stated}"
    elif tensor.dtype not in FLOATS:
        return f"has the dtype {tensor.dtype}, which is not one of weights"
    if scale is None:
        if (marked and tensor.dtype in FP8) or stated is not None:
            return "is fp8 and has no scale beside it, and the file says that its fp8 weights are scaled"
        return None
    own, (dtype, shape, *_) = scale
    if dtype not in FLOATS[:4]:
        return f"has the scale {own} of the dtype {dtype}, which cannot be read"
    rows = tensor.shape[0] if tensor.shape else 1
    if prod(shape) != 1 and (prod(shape) != rows or shape[0] != rows):
        sizes = "×".join(map(str, shape))
        return f"has the scale {own} with {sizes} numbers; one, or one for each of its {rows} rows, can be read"
    return None
