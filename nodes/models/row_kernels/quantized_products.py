"""Linear layers with weights of 8 bits, and their matrix products.

The product of a row and a weight row is summed from numbers of 8 bits, and multiplied by both scales. Where the device
has no such product, the same numbers are multiplied as floats: the result is the same up to rounding, and nothing is
gained but memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch.nn import Linear, Parameter
from torch.nn import functional as F

from . import quantized_rows, rows
from .quantized_rows import Format, QuantizedRows

LEAST_ROWS = 32
"""`torch._int_mm` takes more than 16 rows on a GPU; fewer are filled up to this number."""

FEW_ROWS = 128
"""The most rows for which a bias is added after the matrix product. cuBLASLt has no product with a bias for some shapes
with few rows (measured on an H200 with torch 2.11: up to 42 rows of 12,288 or 15,360 inputs and 3,072 outputs)."""

NEAR = 0.05
"""Largest relative difference from the product of the same numbers as floats, for a product that works."""


@dataclass(frozen=True)
class Kernel:
    """The product of 8 bits on a device.

    Attributes:
        bias: Whether it adds a bias.
        out: Whether it writes into a given tensor.
    """

    bias: bool
    out: bool


class QuantizedLinear(Linear):
    """A linear layer whose weight is in 8 bits with one scale for each output; inputs are quantised by row.

    Attributes:
        weight: [outputs, inputs] in e4m3 or int8.
        scale: [outputs], float32.
        bias: [outputs] in the model's dtype, or None.
        format: The format of the weight.
    """

    def __init__(self, weight: QuantizedRows, bias: Parameter | None) -> None:
        torch.nn.Module.__init__(self)
        self.out_features, self.in_features = weight.shape
        self.format = weight.format
        self.weight = Parameter(weight.values, requires_grad=False)
        self.scale = Parameter(weight.scales.flatten(), requires_grad=False)
        self.register_parameter("bias", bias)  # the one of the other views

    @classmethod
    def of(cls, layer: Linear, format: Format, device: str) -> QuantizedLinear:
        """The layer in 8 bits. `device` computes; the result is on the device of the layer."""
        weight = layer.weight.detach()
        if weight.is_meta:
            made = QuantizedRows(
                torch.empty_like(weight, dtype=quantized_rows.number_type(format)),
                torch.empty((weight.shape[0], 1), dtype=torch.float32, device="meta"),
                format,
                weight.dtype,
            )
        else:
            found = quantized_rows.quantized(weight.to(device), format)
            made = QuantizedRows(found.values.to(weight.device), found.scales.to(weight.device), format, weight.dtype)
        return cls(made, layer.bias)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        made = product(rows.quantized(input, self.format).flat(), self.weight, self.scale, self.bias)
        return made.view(*input.shape[:-1], -1)


def product(
    x: QuantizedRows,
    weight: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """x · weightᵀ + bias, of numbers in 8 bits.

    Args:
        x: [rows, inputs].
        weight: [outputs, inputs].
        scale: [outputs], float32.
        bias: [outputs], or None.
        out: [rows, outputs], contiguous, to write into.

    Returns:
        [rows, outputs] in the dtype of `x`; `out` if it is given.
    """
    if x.values.is_meta:
        numbers = torch.float8_e4m3fn  # of the same size; the cost of a plan counts this operator
        made = torch._scaled_mm(
            x.values.view(numbers), weight.view(numbers).t(), scale_a=x.scales, scale_b=scale[None], out_dtype=x.dtype
        )
    elif x.format == "fp8":
        found = scaled_kernel(x.values.device) if x.dtype == torch.bfloat16 else None
        if found is not None:
            return _scaled(x, weight, scale, bias, out, found)
        made = _as_floats(x, weight, scale, bias)
    elif integer_kernel(x.values.device):
        made = _integer(x, weight, scale, bias)
    else:
        made = _as_floats(x, weight, scale, bias)
    return made if out is None else out.copy_(made)


def _as_floats(x: QuantizedRows, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """The product of the values that the numbers stand for."""
    return F.linear(x.floats().to(x.dtype), (weight.float() * scale[:, None]).to(x.dtype), bias)


def _scaled(
    x: QuantizedRows,
    weight: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None,
    out: torch.Tensor | None,
    kernel: Kernel,
) -> torch.Tensor:
    """The product by `torch._scaled_mm`, in bfloat16."""
    inside = bias if kernel.bias and x.values.shape[0] > FEW_ROWS else None
    scales = x.scales if x.scales.data_ptr() % 16 == 0 else x.scales.clone()  # cuBLASLt reads them by vectors
    given = {"out": out} if out is not None and kernel.out else {}
    made: torch.Tensor = torch._scaled_mm(
        x.values, weight.t(), scale_a=scales, scale_b=scale[None], bias=inside, out_dtype=torch.bfloat16,
        use_fast_accum=True, **given,
    )  # fmt: skip
    if bias is not None and inside is None:
        made.add_(bias)
    if out is not None and made is not out:
        return out.copy_(made)
    return made


def _integer(x: QuantizedRows, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """The product by `torch._int_mm`, whose sums are exact."""
    count = x.values.shape[0]
    values = x.filled(LEAST_ROWS).values if count < LEAST_ROWS else x.values
    made = torch._int_mm(values.contiguous(), weight.t())[:count].float() * x.scales * scale
    return (made if bias is None else made + bias.float()).to(x.dtype)


@torch.compiler.assume_constant_result
@cache
def scaled_kernel(device: torch.device) -> Kernel | None:
    """How `torch._scaled_mm` multiplies with scales by row on a device; None if it cannot."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 9):
        return None
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    x, weight = quantized_rows.quantized(normal(48, 256), "fp8"), quantized_rows.quantized(normal(512, 256), "fp8")
    scale, bias = weight.scales.flatten(), normal(512).bfloat16()
    wanted = F.linear(x.floats(), weight.floats(), bias.float())
    for kernel in (Kernel(True, True), Kernel(True, False), Kernel(False, True), Kernel(False, False)):
        out = torch.empty(48, 512, device=device, dtype=torch.bfloat16)
        try:
            made = _scaled(x, weight.values, scale, bias, out, kernel).float()
        except (RuntimeError, ValueError, TypeError):
            continue  # this torch or this card has no such variant; the next one is tried
        if (made - wanted).norm() <= NEAR * wanted.norm():
            return kernel
    return None


@torch.compiler.assume_constant_result
@cache
def integer_kernel(device: torch.device) -> bool:
    """Whether `torch._int_mm` multiplies on a device."""
    x = torch.arange(LEAST_ROWS * LEAST_ROWS, device=device).view(LEAST_ROWS, -1).remainder(17).to(torch.int8)
    try:
        made = torch._int_mm(x, x.t())
    except RuntimeError:
        return False
    return bool(torch.equal(made.cpu(), (x.cpu().int() @ x.cpu().int().t()).int()))
