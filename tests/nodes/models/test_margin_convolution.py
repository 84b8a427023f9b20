"""Convolutions over frames with margins: the kernel beside torch's convolution, and Wan's VAE that uses it.

The kernel runs on a GPU, or in Triton's interpreter on a CPU.
"""

import importlib.util
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.interpreted import kernel_modules, needs_triton
from helpers.margins import with_margins
from helpers.small_vaes import WAN_2_1, WAN_2_2, wan_vae
from sgd.nodes.models.decoders import convolution_choice, margin_convolution
from sgd.nodes.models.decoders.dense_convolution import dense_weight
from sgd.nodes.models.decoders.margin_convolution import laid_out
from sgd.nodes.models.decoders.margin_tiles import TILES, Tile
from sgd.nodes.models.decoders.rebuilt_vae import rebuild
from sgd.nodes.models.decoders.wan_decoder import WanDecoder
from sgd.nodes.models.memory.component_views import view
from torch import nn

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
needs_gpu = pytest.mark.skipif(not ON_GPU, reason="needs a GPU")
# The interpreter truncates bfloat16; on a GPU products of float32 have the digits of TF32.
BOUNDS = {torch.float16: 1e-3, torch.bfloat16: 8e-3} if ON_GPU else {torch.float32: 1e-6, torch.float16: 1e-3}
SMALL = {
    (8, 8): Tile(16, 16, 0, 16, 2, 4),
    (16, 40): Tile(32, 16, 16, 16, 2, 4),
    (24, 24): Tile(64, 16, 16, 32, 3, 4),
    (32, 64): Tile(16, 16, 16, 32, 2, 4),
}
"""Tiles with channels that fill them and that do not, of one part of the output channels and of several."""


@pytest.fixture
def kernel(monkeypatch):
    """The module of the kernel."""
    with kernel_modules(monkeypatch, "margin_convolution_kernels") as (module,):
        yield module


def error(kernel: Any, channels: tuple[int, int], tile: Tile, size: tuple[int, int, int], dtype: torch.dtype) -> float:
    """The relative difference between the kernel and torch's convolution in float64."""
    given, made = channels
    generator = torch.Generator().manual_seed(sum(size))
    frames = torch.randn(size[0] + 2, given, *size[1:], generator=generator).to(DEVICE, dtype)
    conv = nn.Conv3d(given, made, 3).to(DEVICE, dtype).requires_grad_(False)
    wanted = F.conv3d(frames.double().transpose(0, 1)[None], conv.weight.double(), padding=(0, 1, 1))[0]
    padded = F.pad(frames, (1, 1, 1, 1)).permute(0, 2, 3, 1).contiguous()
    rows = laid_out(dense_weight(conv)).rows
    found = kernel.convolve(padded, rows, tile)
    assert found.shape == (*size, made)
    assert found.is_contiguous()
    assert found.dtype == dtype
    return float((found.double().permute(3, 0, 1, 2) - wanted).norm() / wanted.norm())


@needs_triton
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("channels", SMALL, ids=str)
@pytest.mark.parametrize("size", [(1, 1, 1), (1, 5, 7), (4, 3, 2), (2, 9, 17)], ids=str)
def test_the_kernel_convolves_as_torch_does(kernel, monkeypatch, channels, size, dtype):
    monkeypatch.setitem(TILES, channels, SMALL[channels])
    assert error(kernel, channels, SMALL[channels], size, dtype) < BOUNDS[dtype]


@needs_triton
@pytest.mark.parametrize("channels", TILES, ids=str)
def test_the_tiles_of_full_size(kernel, channels):
    for dtype in BOUNDS if ON_GPU else (torch.float32,):
        assert error(kernel, channels, TILES[channels], (2, 9, 17), dtype) < BOUNDS[dtype]


@needs_triton
@needs_gpu
def test_frames_of_more_than_two_to_the_31_elements(kernel):
    conv = nn.Conv3d(96, 96, 3).to("cuda", torch.float16).requires_grad_(False)
    weight = laid_out(dense_weight(conv))
    padded = torch.zeros(27, 722, 1282, 96, device="cuda", dtype=torch.float16)
    assert padded[:25, 1:-1, 1:-1].numel() > 2**31
    padded[-4:, 1:-1, 1:-1].normal_()
    found = kernel.convolve(padded, weight.rows, TILES[96, 96])
    wanted = F.conv3d(padded[-4:].permute(3, 0, 1, 2)[None], conv.weight)[0].permute(1, 2, 3, 0)
    assert float((found[-2:].float() - wanted.float()).norm() / wanted.float().norm()) < 1e-3
    assert not found[:-5].any()


def rebuilt(vae: Any) -> Any:
    made = view(vae)
    assert rebuild(made, pytest.fail) is None
    return made


def farthest(found: torch.Tensor, wanted: torch.Tensor) -> float:
    assert found.shape == wanted.shape
    return float((found - wanted).abs().max() / wanted.abs().max())


CONFIGS = pytest.mark.parametrize("config", [WAN_2_1, WAN_2_2], ids=["2.1", "2.2"])


@CONFIGS
@pytest.mark.parametrize("widths", [None, {8}, {16, 32}], ids=str)
def test_wan_with_margins_is_that_of_diffusers(monkeypatch, config, widths):
    vae = wan_vae(**config)
    count = with_margins(monkeypatch, widths)
    latents = torch.randn(2, config["z_dim"], 6, 4, 5, dtype=torch.float64)
    assert farthest(rebuilt(vae).decode(latents).sample, vae.decode(latents).sample) < 1e-7
    factor = config.get("scale_factor_spatial", 8)
    video = torch.rand(1, 3, 9, 3 * factor, 4 * factor, dtype=torch.float64) * 2 - 1
    found, wanted = (each.encode(video).latent_dist.mean for each in (rebuilt(vae), vae))
    assert farthest(found, wanted) < 1e-12
    assert count()


def test_chunks_of_every_length_with_margins(monkeypatch):
    count = with_margins(monkeypatch)
    decoder = WanDecoder(wan_vae(**WAN_2_1).decoder, torch.float64)
    latents = torch.randn(4, 7, 4, 5, dtype=torch.float64)
    whole = decoder(latents, 7)
    for chunk in (1, 2, 3):
        assert farthest(decoder(latents, chunk), whole) < 1e-12
    assert count()


@needs_triton
def test_wan_through_the_kernel(kernel, monkeypatch):
    vae = wan_vae(**WAN_2_1).to(DEVICE, torch.float32)
    latents = torch.randn(1, 4, 2, 3, 2, device=DEVICE)
    wanted = vae.decode(latents).sample
    made = rebuilt(vae)
    dtype = torch.float16 if ON_GPU else torch.float32
    count = with_margins(monkeypatch, {8})
    monkeypatch.setattr(margin_convolution, "on_kernels", lambda x: True)
    monkeypatch.setattr(margin_convolution, "convolve", lambda *_: pytest.fail("not through the kernel"))
    made._decode.made = WanDecoder(vae.decoder, dtype)
    assert farthest(made.decode(latents).sample, wanted) < (1e-2 if ON_GPU else 1e-5)
    assert count()


def test_chunks_that_are_decoded_again_have_other_margins(monkeypatch):
    vae = wan_vae(**WAN_2_1).float()
    latents = torch.randn(4, 7, 3, 2, generator=torch.Generator().manual_seed(1))
    latents[:, 2] *= 1e5
    wanted = WanDecoder(vae.decoder, torch.float32)(latents)
    whole = WanDecoder(vae.decoder, torch.float32)
    count = with_margins(monkeypatch)
    half = WanDecoder(vae.decoder, torch.float16)
    found = torch.cat([part.float() for part in half.chunks(latents, 1, again=whole)], dim=1)
    assert torch.isfinite(found).all()
    assert farthest(found, wanted) < 1e-2
    assert count()


@pytest.mark.parametrize(
    ("dtype", "sizes", "chooses"),
    [
        (torch.float16, {}, True),
        (torch.bfloat16, {}, True),
        (torch.float32, {}, False),
        (torch.float16, {"out_channels": 128}, False),
        (torch.float16, {"kernel_size": (3, 1, 1)}, False),
    ],
)
def test_a_plan_chooses_the_kernel_where_it_has_tiles(dtype, sizes, chooses):
    conv = nn.Conv3d(**({"in_channels": 96, "out_channels": 96, "kernel_size": 3} | sizes), device="meta")
    weight = convolution_choice.chosen(conv, dtype)
    assert weight.margin == int(chooses)
    assert chooses == (weight.rows is not None)
    assert convolution_choice.chosen(nn.Conv3d(96, 96, 3), dtype).rows is None, "not on a CPU"


@pytest.mark.parametrize(("channels", "copies"), [((96, 96), True), ((192, 384), False)])
def test_weights_are_copied_where_rows_are_rounded_up(channels, copies, monkeypatch):
    monkeypatch.setitem(TILES, channels, TILES[channels]._replace(depth=64))
    weight = laid_out(dense_weight(nn.Conv3d(channels[0], channels[1], 3)))
    assert weight.rows.shape == (channels[1], 9 * (320 if copies else 576))
    assert copies == (weight.rows.data_ptr() != weight.weight.data_ptr())


@pytest.mark.parametrize(
    ("card", "able"),
    [((9, 0, 228), True), ((10, 0, 228), True), ((8, 0, 164), False), ((12, 0, 100), False)],
    ids=["H100", "B200", "A100", "RTX 5090"],
)
def test_cards_that_can_run_the_kernel(monkeypatch, card, able):
    class Card:
        major, minor = card[:2]
        shared_memory_per_multiprocessor = card[2] * 1024

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: Card)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert convolution_choice._able.__wrapped__(0) == able
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name == "triton" else None)
    assert not convolution_choice._able.__wrapped__(0), "an old Triton"


@needs_gpu
def test_the_trial_on_this_card():
    if convolution_choice._able(0):
        for channels in TILES:
            for dtype in (torch.float16, torch.bfloat16):
                assert convolution_choice._problem(0, dtype, channels) is None
