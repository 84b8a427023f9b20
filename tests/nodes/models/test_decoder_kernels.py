"""The Triton kernels of rebuilt decoders beside their twins in torch: on a GPU, or in Triton's interpreter on a CPU."""

import importlib.util
from typing import Any

import pytest
import torch
from helpers.interpreted import kernel_modules
from sgd.nodes.models.decoders import frame_operations, norm_operations
from sgd.nodes.models.decoders.frame_values import Affine, Doubled, Margin

pytestmark = [
    pytest.mark.triton,
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed"),
]

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
# The interpreter truncates bfloat16.
DTYPES = [torch.float32, torch.float16, *([torch.bfloat16] if ON_GPU else [])]
BOUNDS = {torch.float32: 5e-7, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
CHANNELS = [8, 12, 96]

cases = pytest.mark.parametrize("dtype", DTYPES, ids=str)
channels = pytest.mark.parametrize("width", CHANNELS)


@pytest.fixture
def kernels(monkeypatch):
    """The modules of kernels: of frames, of norms, of taps, of sums."""
    names = "frame_kernels", "norm_kernels", "tap_kernels", "frame_sums_kernels"
    with kernel_modules(monkeypatch, *names) as modules:
        yield modules


@pytest.fixture
def twins(monkeypatch):
    """The operations, which use their twins on any device."""
    for module in (frame_operations, norm_operations):
        monkeypatch.setattr(module, "on_kernels", lambda x: False)


def made(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(DEVICE, dtype)


def same(found: torch.Tensor, wanted: torch.Tensor, bound: float) -> None:
    assert found.shape == wanted.shape
    assert found.dtype == wanted.dtype
    assert float((found.double() - wanted.double()).abs().max() / wanted.double().abs().max()) <= bound


def same_sums(found: Any, wanted: Any) -> None:
    assert found.positions == wanted.positions
    same(found.partial.sum(0), wanted.partial.sum(0), 5e-6)


@cases
@channels
def test_pad(kernels, twins, dtype, width):
    x, residual = made(3, 5, 7, width, dtype=dtype), made(3, 5, 7, width, dtype=dtype)
    affine = Affine(made(width), made(width))
    for margin in (Margin(2, 1, 1), Margin(1, 1, 1), Margin(0, 0, 0)):
        for added, factors, silu in ((residual, affine, True), (None, affine, False), (None, None, False)):
            wanted = frame_operations.pad(x, margin, residual=added, affine=factors, silu=silu)
            same(kernels[0].pad(x, margin, added, factors, silu), wanted, BOUNDS[dtype])


@cases
@channels
def test_sums_and_norms(kernels, twins, dtype, width):
    frames = kernels[3]
    x, residual, bias = made(3, 5, 7, width, dtype=dtype), made(3, 5, 7, width, dtype=dtype), made(width)
    same_sums(frames.sums(x), frame_operations.sums(x))
    norm = torch.nn.GroupNorm(4, width).to(DEVICE, dtype).requires_grad_(False)
    norm.weight.copy_(made(width))
    norm.bias.copy_(made(width))
    for added in (None, residual):
        first, second = x.clone(), x.clone()
        found, wanted = frames.add_with_sums(first, bias, added), frame_operations.add_with_sums(second, bias, added)
        same(first, second, BOUNDS[dtype])
        same_sums(found, wanted)
        for own in (None, bias):
            factors, known = frames.group_norm(found, norm, own), frame_operations.group_norm(wanted, norm, own)
            same(factors.scale, known.scale, 5e-6)
            same(factors.shift, known.shift, 5e-6)


@cases
@channels
@pytest.mark.parametrize("in_time", [False, True])
def test_interleave(kernels, twins, dtype, width, in_time):
    phases, bias = made(3, 4, 5, width * (8 if in_time else 4), dtype=dtype), made(width)
    found, sums = kernels[0].interleave(phases, bias, in_time)
    wanted, known = frame_operations.interleave(phases, bias, in_time)
    same(found, wanted, BOUNDS[dtype])
    same_sums(sums, known)


@cases
@pytest.mark.parametrize("clamp", [False, True])
def test_sum_taps(kernels, twins, dtype, clamp):
    products, bias = made(96, 192, dtype=dtype), made(3)
    found, wanted = (torch.empty(3, 5, 3, 4, device=DEVICE, dtype=dtype)[:, 1:3] for _ in range(2))
    kernels[2].sum_taps(products, bias, (4, 5, 6), found, clamp)
    frame_operations.sum_taps(products, bias, (4, 5, 6), wanted, clamp=clamp)
    same(found, wanted, BOUNDS[dtype])
    assert not clamp or found.abs().max() <= 1


def test_a_clamped_sum_keeps_nan(kernels):
    products = torch.full((96, 192), float("nan"), device=DEVICE)
    out = torch.empty(3, 2, 3, 4, device=DEVICE)
    kernels[2].sum_taps(products, made(3), (4, 5, 6), out, True)
    assert out.isnan().all()


@cases
@channels
@pytest.mark.parametrize("halo", [0, 1])
@pytest.mark.parametrize("keep", [False, True])
def test_norm_silu(kernels, twins, dtype, width, halo, keep):
    x, residual = made(3, 5, 7, width, dtype=dtype), made(3, 5, 7, width, dtype=dtype)
    bias, weight = made(width), made(width) + 2
    for own, added, silu in ((None, None, False), (bias, None, True), (bias, residual, True)):
        first, second = x.clone(), x.clone()
        found, wanted = (torch.empty(3, 5 + 2 * halo, 7 + 2 * halo, width, device=DEVICE, dtype=dtype) for _ in "ab")
        kernels[1].norm_silu(first, weight, found, own, added, keep, silu)
        norm_operations.norm_silu(second, weight, wanted, bias=own, residual=added, keep=keep, silu=silu)
        same(found, wanted, BOUNDS[dtype])
        same(first, second, BOUNDS[dtype])


@cases
@channels
def test_add_and_interleave_time(kernels, twins, dtype, width):
    x, residual, bias = made(3, 5, 7, width, dtype=dtype), made(3, 5, 7, width, dtype=dtype), made(width)
    for added in (None, residual):
        found, wanted = torch.empty_like(x), torch.empty_like(x)
        kernels[1].add(x, bias, added, found)
        norm_operations.add(x, bias, added, wanted)
        same(found, wanted, BOUNDS[dtype])
    halves, both = made(3, 5, 7, 2 * width, dtype=dtype), made(2 * width)
    found, wanted = (torch.empty(6, 5, 7, width, device=DEVICE, dtype=dtype) for _ in range(2))
    kernels[1].interleave_time(halves, both, found)
    norm_operations.interleave_time(halves, both, wanted)
    same(found, wanted, BOUNDS[dtype])


@cases
@channels
@pytest.mark.parametrize("halo", [0, 1])
@pytest.mark.parametrize("doubled", [None, (4, 2, 1, 0), (2, 1, 2, 0), (3, 2, 2, 1)], ids=str)
def test_interleave_norm(kernels, twins, dtype, width, halo, doubled):
    added = None
    count = 4
    if doubled is not None:
        frames, wider, times, skipped = doubled
        added = Doubled(made(frames, 4, 6, wider * width, dtype=dtype), times, skipped)
        count = frames * times - skipped
    phases, bias, weight = made(count, 5, 7, 4 * width, dtype=dtype), made(width), made(width) + 2
    size = count, 8 + 2 * halo, 12 + 2 * halo, width
    found, wanted = (torch.empty(size, device=DEVICE, dtype=dtype) for _ in range(2))
    kept = kernels[1].interleave_norm(phases, bias, weight, found, added)
    same(kept, norm_operations.interleave_norm(phases, bias, weight, wanted, added), BOUNDS[dtype])
    same(found, wanted, BOUNDS[dtype])
