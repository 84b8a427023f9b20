"""Heads of attention in e4m3, in Triton. Signatures, shapes and results are those of `head_twins`, up to rounding."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ...support.kernel_launch import launch

CHUNK = 128
"""Tokens of one program that adds up a head."""

STEP = 32
"""Tokens, or chunks, that a program reads at a time."""

COLUMNS, ROWS = 512, 8
"""Tile of one program of `add_means_`: elements of a token, and tokens."""


@triton.jit(do_not_specialize=["tokens"])
def _quantize(  # type: ignore[no-untyped-def]
    X, SCALES, MEANS, OUT, tokens, batch_stride, token_stride, head_stride, scale_batch, scale_head,
    H: tl.constexpr, HEADS: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, CENTRES: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    batch = row // tokens
    place = row % tokens
    head = tl.arange(0, HEADS)[:, None]
    at = tl.arange(0, WIDTH)[None, :]
    inside = (head < H) & (at < D)
    scale = tl.load(SCALES + batch * scale_batch + head * scale_head, mask=head < H, other=1.0)
    from_ = X + batch * batch_stride + place * token_stride + head * head_stride + at
    x = tl.load(from_, mask=inside, other=0.0).to(tl.float32)
    if CENTRES:
        x = x - tl.load(MEANS + (batch * H + head) * D + at, mask=inside, other=0.0)
    tl.store(OUT + (row * H + head) * D + at, (x / scale).to(OUT.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["tokens"])
def _parts(  # type: ignore[no-untyped-def]
    X, SUMS, LARGEST, tokens, batch_stride, token_stride, head_stride,
    H: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    # Sum and largest magnitude of some tokens of one head.
    head = tl.program_id(0)
    chunk = tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    at = tl.arange(0, WIDTH)[None, :]
    step = tl.arange(0, STEP)[:, None]
    total = tl.zeros([STEP, WIDTH], tl.float32)
    most = tl.zeros([STEP, WIDTH], tl.float32)
    from_ = X + batch * batch_stride + head * head_stride + at
    for start in range(0, CHUNK, STEP):
        place = chunk * CHUNK + start + step
        inside = (place < tokens) & (at < D)
        x = tl.load(from_ + place.to(tl.int64) * token_stride, mask=inside, other=0.0).to(tl.float32)
        total += x
        most = tl.maximum(most, tl.abs(x))
    part = (batch * tl.num_programs(1) + chunk) * H + head
    column = tl.arange(0, WIDTH)
    tl.store(SUMS + part * D + column, tl.sum(total, 0), mask=column < D)
    tl.store(LARGEST + part, tl.max(tl.max(most, 1), 0))


@triton.jit(do_not_specialize=["tokens", "chunks"])
def _whole(  # type: ignore[no-untyped-def]
    SUMS, LARGEST, MEANS, SCALES, tokens, chunks,
    H: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    # Mean and scale of one head, from the parts.
    head = tl.program_id(0)
    batch = tl.program_id(1).to(tl.int64)
    at = tl.arange(0, WIDTH)[None, :]
    step = tl.arange(0, STEP)
    total = tl.zeros([STEP, WIDTH], tl.float32)
    most = tl.zeros([STEP], tl.float32)
    for start in range(0, chunks, STEP):
        chunk = start + step
        part = (batch * chunks + chunk) * H + head
        inside = (chunk < chunks)[:, None] & (at < D)
        total += tl.load(SUMS + part[:, None] * D + at, mask=inside, other=0.0)
        most = tl.maximum(most, tl.load(LARGEST + part, mask=chunk < chunks, other=0.0))
    mean = tl.sum(total, 0) / tokens
    column = tl.arange(0, WIDTH)
    tl.store(MEANS + (batch * H + head) * D + column, mean, mask=column < D)
    bound = tl.max(most, 0) + tl.max(tl.abs(mean), 0)
    tl.store(SCALES + batch * H + head, tl.maximum(bound, 1e-12) / 448.0)


@triton.jit(do_not_specialize=["tokens"])
def _add(  # type: ignore[no-untyped-def]
    X, MEANS, tokens, batch_stride, token_stride, N: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(2).to(tl.int64)
    at = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    place = tl.program_id(1).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    inside = (place < tokens) & (at < N)
    mean = tl.load(MEANS + batch * N + at, mask=at < N, other=0.0)
    to = X + batch * batch_stride + place * token_stride + at
    x = tl.load(to, mask=inside, other=0.0).to(tl.float32)
    tl.store(to, (x + mean).to(X.dtype.element_ty), mask=inside)


def quantized_heads(x: torch.Tensor, scales: torch.Tensor, means: torch.Tensor | None) -> torch.Tensor:
    """See `head_twins.quantized_heads`; the elements of a head are contiguous, and so are the means."""
    batch, tokens, heads, width = x.shape
    assert x.stride(3) == 1
    out = torch.empty(x.shape, device=x.device, dtype=torch.float8_e4m3fn)
    launch(
        _quantize, (batch * tokens,),
        x, scales, scales if means is None else means, out, tokens, x.stride(0), x.stride(1), x.stride(2),
        scales.stride(0), scales.stride(1),
        H=heads, HEADS=triton.next_power_of_2(heads), D=width, WIDTH=triton.next_power_of_2(width),
        CENTRES=means is not None, num_warps=4,
    )  # fmt: skip
    return out


def centre_and_scales(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """See `head_twins.centre_and_scales`; the elements of a head are contiguous.

    The order of each sum is fixed, so that equal values give equal bits.
    """
    batch, tokens, heads, width = x.shape
    assert x.stride(3) == 1
    chunks, padded = triton.cdiv(tokens, CHUNK), triton.next_power_of_2(width)
    sums = torch.empty((batch, chunks, heads, width), device=x.device)
    largest = torch.empty((batch, chunks, heads), device=x.device)
    means = torch.empty((batch, heads, width), device=x.device)
    scales = torch.empty((batch, heads), device=x.device)
    launch(
        _parts, (heads, chunks, batch),
        x, sums, largest, tokens, x.stride(0), x.stride(1), x.stride(2),
        H=heads, D=width, WIDTH=padded, CHUNK=CHUNK, STEP=STEP, num_warps=4,
    )  # fmt: skip
    launch(
        _whole,
        (heads, batch),
        sums,
        largest,
        means,
        scales,
        tokens,
        chunks,
        H=heads,
        D=width,
        WIDTH=padded,
        STEP=STEP,
        num_warps=4,
    )
    return means, scales


def add_means_(x: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
    """See `head_twins.add_means_`; the heads of a token stand one after the other."""
    batch, tokens, heads, width = x.shape
    assert x.stride()[2:] == (width, 1)
    assert means.is_contiguous()
    grid = triton.cdiv(heads * width, COLUMNS), triton.cdiv(tokens, ROWS), batch
    launch(
        _add, grid, x, means, tokens, x.stride(0), x.stride(1), N=heads * width, COLUMNS=COLUMNS, ROWS=ROWS, num_warps=4
    )
    return x
