"""The row kernels in Triton. Signatures, shapes and results are those of `row_twins`, up to rounding.

One program works on one row: it reads the row once, computes in float32, and writes the row once. A GPU needs no more
than the time of a copy for that.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from ...support.kernel_launch import launch
from .quantized_rows import Format, QuantizedRows
from .row_twins import Kind

WIDE = 2048
"""Rows of more elements get eight warps instead of four (measured on an H100 with widths 1536 to 5120)."""

SLICE = 2048
"""Elements of one program of `silu_product`."""


@triton.jit(do_not_specialize=["rows", "first"])
def _norm(  # type: ignore[no-untyped-def]
    X, Y, SUM, OUT, GATE, SCALE, SHIFT, ROW_SCALES, rows, first,
    x_batch, y_batch, gate_batch, gate_group, scale_batch, scale_group, shift_batch, shift_group, eps, y_eps,
    D: tl.constexpr, BLOCK: tl.constexpr, ADDS: tl.constexpr, HAS_GATE: tl.constexpr, NORMS_Y: tl.constexpr,
    KIND: tl.constexpr, PLUS_ONE: tl.constexpr, HAS_SHIFT: tl.constexpr, QUANTIZES: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    batch = row // rows
    place = row % rows
    group = (place >= first).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < D
    x = tl.load(X + batch * x_batch + place * D + at, mask=inside, other=0.0).to(tl.float32)
    if ADDS:
        y = tl.load(Y + batch * y_batch + place * D + at, mask=inside, other=0.0).to(tl.float32)
        if NORMS_Y:
            y = y * tl.rsqrt(tl.sum(y * y, 0) / D + y_eps)
        if HAS_GATE:
            y = y * tl.load(GATE + batch * gate_batch + group * gate_group + at, mask=inside, other=0.0).to(tl.float32)
        total = (x + y).to(SUM.dtype.element_ty)
        tl.store(SUM + row * D + at, total, mask=inside)
        x = total.to(tl.float32)
    if KIND > 0:
        if KIND == 1:
            x = tl.where(inside, x - tl.sum(x, 0) / D, 0.0)
        made = x * tl.rsqrt(tl.sum(x * x, 0) / D + eps)
        scale = tl.load(SCALE + batch * scale_batch + group * scale_group + at, mask=inside, other=0.0).to(tl.float32)
        if PLUS_ONE:
            scale = scale + 1.0
        made = made * scale
        if HAS_SHIFT:
            shift = SHIFT + batch * shift_batch + group * shift_group
            made = made + tl.load(shift + at, mask=inside, other=0.0).to(tl.float32)
        if QUANTIZES:
            largest = tl.maximum(tl.max(tl.abs(made), 0), 1e-12)
            tl.store(ROW_SCALES + row, largest / 448.0)
            made = made * (448.0 / largest)
        tl.store(OUT + row * D + at, made.to(OUT.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows", "first", "start", "stop"])
def _query_key(  # type: ignore[no-untyped-def]
    QKV, QUERY_WEIGHT, KEY_WEIGHT, COS, SIN, rows, first, start, stop, weight_group, cos_batch, eps,
    H: tl.constexpr, HEADS: tl.constexpr, HALF: tl.constexpr, ACROSS: tl.constexpr, ROTATES: tl.constexpr,
    PACKED: tl.constexpr, WEIGHTS_PACKED: tl.constexpr,
):  # fmt: skip
    # Packed: two elements of 16 bits are read and written as one of 32.
    row = tl.program_id(0).to(tl.int64)
    batch = row // rows
    place = row % rows
    group = (place >= first).to(tl.int64)
    head = tl.arange(0, HEADS)[:, None]
    pair = tl.arange(0, HALF)[None, :]
    inside = head < H
    if ROTATES:
        turned = (place >= start) & (place < stop)
        angle = batch * cos_batch + (place - start) * HALF + pair
        cos = tl.load(COS + angle, mask=(pair >= 0) & turned, other=1.0)
        sin = tl.load(SIN + angle, mask=(pair >= 0) & turned, other=0.0)
    element = QKV.dtype.element_ty
    for part in tl.static_range(2):
        place_of = row * (3 * H * HALF) + part * H * HALF + head * HALF + pair
        if PACKED:
            both = QKV.to(tl.pointer_type(tl.int32)) + place_of
            word = tl.load(both, mask=inside, other=0)
            a = (word & 65535).to(tl.int16).to(element, bitcast=True).to(tl.float32)
            b = ((word >> 16) & 65535).to(tl.int16).to(element, bitcast=True).to(tl.float32)
        else:
            a = tl.load(QKV + 2 * place_of, mask=inside, other=0.0).to(tl.float32)
            b = tl.load(QKV + 2 * place_of + 1, mask=inside, other=0.0).to(tl.float32)
        squares = tl.sum(a * a + b * b, 1)
        weight = (QUERY_WEIGHT if part == 0 else KEY_WEIGHT) + group * weight_group
        if ACROSS:
            factor = tl.rsqrt(tl.sum(squares, 0) / (2 * H * HALF) + eps)
            which = head * HALF + pair
            used = inside
        else:
            factor = tl.rsqrt(squares / (2 * HALF) + eps)[:, None]
            which = pair
            used = pair >= 0
        if WEIGHTS_PACKED:
            word = tl.load(weight.to(tl.pointer_type(tl.int32)) + which, mask=used, other=0)
            kind = weight.dtype.element_ty
            left = (word & 65535).to(tl.int16).to(kind, bitcast=True).to(tl.float32)
            right = ((word >> 16) & 65535).to(tl.int16).to(kind, bitcast=True).to(tl.float32)
        else:
            left = tl.load(weight + 2 * which, mask=used, other=0.0).to(tl.float32)
            right = tl.load(weight + 2 * which + 1, mask=used, other=0.0).to(tl.float32)
        a = a * factor * left
        b = b * factor * right
        if ROTATES:
            u = a * cos - b * sin
            v = a * sin + b * cos
        else:
            u = a
            v = b
        if PACKED:
            low = u.to(element).to(tl.int16, bitcast=True).to(tl.int32) & 65535
            high = v.to(element).to(tl.int16, bitcast=True).to(tl.int32) << 16
            tl.store(both, low | high, mask=inside)
        else:
            tl.store(QKV + 2 * place_of, u.to(element), mask=inside)
            tl.store(QKV + 2 * place_of + 1, v.to(element), mask=inside)


@triton.jit
def _silu_product(PAIRS, OUT, width, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < width
    a = tl.load(PAIRS + row * 2 * width + at, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(PAIRS + row * 2 * width + width + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(OUT + row * width + at, (a * tl.sigmoid(a) * b).to(OUT.dtype.element_ty), mask=inside)


def _rows(x: torch.Tensor) -> torch.Tensor:
    """A sequence whose rows stand one after the other; sequences of a batch may be apart."""
    return x if x.stride(2) == 1 and x.stride(1) == x.shape[2] else x.contiguous()


def _vector(vector: torch.Tensor | None) -> tuple[torch.Tensor | None, int, int]:
    """A vector, and its strides between sequences and between groups; 0 where there is one."""
    if vector is None:
        return None, 0, 0
    if vector.stride(2) != 1:
        vector = vector.contiguous()
    batch, group = (vector.stride(axis) if vector.shape[axis] > 1 else 0 for axis in (0, 1))
    return vector, batch, group


def _call(
    x: torch.Tensor,
    y: torch.Tensor | None,
    total: torch.Tensor | None,
    gate: torch.Tensor | None,
    y_eps: float | None,
    scale: torch.Tensor | None = None,
    shift: torch.Tensor | None = None,
    kind: Kind | None = None,
    eps: float = 0.0,
    plus_one: bool = False,
    first: int = 0,
    format: Format | None = None,
) -> torch.Tensor | QuantizedRows | None:
    """Call the kernel for a sum (into `total`), a norm (returned), or both."""
    assert format in (None, "fp8")
    batch, rows, width = x.shape
    x = _rows(x)
    y = None if y is None else _rows(y)
    dtype = x.dtype if format is None else torch.float8_e4m3fn
    made = None if kind is None else torch.empty((batch, rows, width), device=x.device, dtype=dtype)
    row_scales = None if format is None else torch.empty((batch, rows, 1), device=x.device, dtype=torch.float32)
    gate, gate_batch, gate_group = _vector(gate)
    scale, scale_batch, scale_group = _vector(scale)
    shift, shift_batch, shift_group = _vector(shift)
    given = x, y, total, made, gate, scale, shift, row_scales
    arguments: Any = [tensor if tensor is not None else x for tensor in given]
    launch(
        _norm, (batch * rows,),
        *arguments, rows, first, x.stride(0), y.stride(0) if y is not None else 0,
        gate_batch, gate_group, scale_batch, scale_group, shift_batch, shift_group, eps, y_eps or 0.0,
        D=width, BLOCK=triton.next_power_of_2(width), ADDS=y is not None, HAS_GATE=gate is not None,
        NORMS_Y=y_eps is not None, KIND={None: 0, "layer": 1, "rms": 2}[kind], PLUS_ONE=plus_one,
        HAS_SHIFT=shift is not None, QUANTIZES=format is not None, num_warps=8 if width > WIDE else 4,
    )  # fmt: skip
    if made is None or row_scales is None:
        return made
    return QuantizedRows(made, row_scales, "fp8", x.dtype)


def norm(
    x: torch.Tensor,
    scale: torch.Tensor,
    shift: torch.Tensor | None,
    *,
    kind: Kind,
    eps: float,
    plus_one: bool,
    first: int = 0,
    format: Format | None = None,
) -> torch.Tensor | QuantizedRows:
    """See `row_twins.norm`; the format is fp8."""
    made = _call(x, None, None, None, None, scale, shift, kind, eps, plus_one, first, format)
    assert made is not None
    return made


def add(
    x: torch.Tensor,
    y: torch.Tensor,
    gate: torch.Tensor | None,
    *,
    first: int = 0,
    y_eps: float | None = None,
    in_place: bool = False,
) -> torch.Tensor:
    """See `row_twins.add`; with `in_place` the result replaces `x`, which is contiguous."""
    assert x.is_contiguous() or not in_place
    total = x if in_place else torch.empty(x.shape, device=x.device, dtype=x.dtype)
    _call(x, y, total, gate, y_eps, first=first)
    return total


def add_norm(
    x: torch.Tensor,
    y: torch.Tensor,
    gate: torch.Tensor | None,
    scale: torch.Tensor,
    shift: torch.Tensor | None,
    *,
    kind: Kind,
    eps: float,
    plus_one: bool,
    first: int = 0,
    y_eps: float | None = None,
    format: Format | None = None,
) -> tuple[torch.Tensor, torch.Tensor | QuantizedRows]:
    """See `row_twins.add_norm`; the format is fp8."""
    total = torch.empty(x.shape, device=x.device, dtype=x.dtype)
    made = _call(x, y, total, gate, y_eps, scale, shift, kind, eps, plus_one, first, format)
    assert made is not None
    return total, made


def query_key_(
    qkv: torch.Tensor,
    query_weight: torch.Tensor,
    key_weight: torch.Tensor,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    *,
    eps: float,
    across: bool,
    first: int = 0,
    start: int = 0,
) -> None:
    """See `row_twins.query_key_`; the width of a head is a power of two."""
    batch, rows, _, heads, width = qkv.shape
    assert qkv.is_contiguous()
    query_weight, key_weight = query_weight.contiguous(), key_weight.contiguous()
    groups = query_weight.shape[0]
    if cos is not None and sin is not None:
        cos, sin = cos.contiguous(), sin.contiguous()
    launch(
        _query_key, (batch * rows,),
        qkv, query_weight, key_weight, cos if cos is not None else qkv, sin if sin is not None else qkv,
        rows, first, start, start + (cos.shape[1] if cos is not None else 0),
        query_weight.shape[1] if groups > 1 else 0, cos.stride(0) if cos is not None and cos.shape[0] > 1 else 0, eps,
        H=heads, HEADS=triton.next_power_of_2(heads), HALF=width // 2, ACROSS=across, ROTATES=cos is not None,
        PACKED=qkv.element_size() == 2, WEIGHTS_PACKED=query_weight.element_size() == 2, num_warps=4,
    )  # fmt: skip


def silu_product(pairs: torch.Tensor) -> torch.Tensor:
    """See `row_twins.silu_product`."""
    pairs = pairs.contiguous()
    width = pairs.shape[-1] // 2
    made = torch.empty((*pairs.shape[:-1], width), device=pairs.device, dtype=pairs.dtype)
    grid = pairs.numel() // (2 * width), triton.cdiv(width, SLICE)
    launch(_silu_product, grid, pairs, made, width, BLOCK=SLICE, num_warps=4)
    return made
