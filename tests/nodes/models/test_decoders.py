"""Rebuilt decoders beside diffusers' own, on small random models in float64, where only a wrong sum shows."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.small_vaes import WAN_2_1, WAN_2_2, hunyuan_vae, wan_vae
from sgd.graph.contract.node import Run
from sgd.nodes.models.decoders import dense_convolution, frame_attention, last_convolution, rebuilt_vae
from sgd.nodes.models.decoders.rebuilt_vae import rebuild
from sgd.nodes.models.decoders.wan_decoder import WanDecoder
from sgd.nodes.models.decoders.wan_encoder import WanEncoder
from sgd.nodes.models.memory.component_views import view
from sgd.nodes.support import cost_meter

CONFIGS = Path(rebuilt_vae.__file__).parents[1] / "repository" / "configs"


def rebuilt(vae: Any) -> Any:
    made = view(vae)
    assert rebuild(made, pytest.fail) is None
    return made


def farthest(found: torch.Tensor, wanted: torch.Tensor) -> float:
    assert found.shape == wanted.shape
    assert found.dtype == wanted.dtype
    return float((found - wanted).abs().max() / wanted.abs().max())


def distance(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.double() - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("frames", [1, 2, 5, 9])
@pytest.mark.parametrize("config", [{}, {"mid_block_add_attention": False}], ids=["attention", "without"])
def test_hunyuan_video_decodes_as_diffusers_does(frames, config):
    vae = hunyuan_vae(**config)
    latents = torch.randn(2, 4, frames, 6, 5, dtype=torch.float64)
    assert farthest(rebuilt(vae).decode(latents).sample, vae.decode(latents).sample) < 1e-11


def test_hunyuan_video_in_tiles_of_time_and_space():
    vae = hunyuan_vae()
    made = rebuilt(vae)
    latents = torch.randn(1, 4, 9, 10, 9, dtype=torch.float64)
    sizes = {"tile_sample_min_height": 48, "tile_sample_min_width": 48, "tile_sample_min_num_frames": 8}
    strides = {"tile_sample_stride_height": 32, "tile_sample_stride_width": 32, "tile_sample_stride_num_frames": 4}
    for each in (vae, made):
        each.enable_tiling(**sizes, **strides)
    assert farthest(made.decode(latents).sample, vae.decode(latents).sample) < 1e-11


@pytest.mark.parametrize("frames", [1, 2, 7])
@pytest.mark.parametrize("config", [WAN_2_1, WAN_2_2], ids=["2.1", "2.2"])
def test_wan_decodes_as_diffusers_does(config, frames):
    vae = wan_vae(**config)
    latents = torch.randn(2, config["z_dim"], frames, 4, 5, dtype=torch.float64)
    # diffusers upsamples in float32, also where all else is float64
    assert farthest(rebuilt(vae).decode(latents).sample, vae.decode(latents).sample) < 1e-7


@pytest.mark.parametrize("config", [WAN_2_1, WAN_2_2], ids=["2.1", "2.2"])
def test_wan_gives_the_same_for_chunks_of_every_length(config):
    decoder = WanDecoder(wan_vae(**config).decoder, torch.float64)
    latents = torch.randn(config["z_dim"], 7, 4, 5, dtype=torch.float64)
    whole = decoder(latents, 7)
    for chunk in (1, 2, 3, 6):
        assert farthest(decoder(latents, chunk), whole) < 1e-12


def test_wan_in_tiles_is_that_of_diffusers():
    vae = wan_vae(**WAN_2_1)
    made = rebuilt(vae)
    latents = torch.randn(1, 4, 2, 9, 10, dtype=torch.float64)
    for each in (vae, made):
        each.enable_tiling(48, 48, 32, 32)
    assert torch.equal(made.decode(latents).sample, vae.decode(latents).sample)


def test_large_frames_are_convolved_in_parts(monkeypatch):
    for vae, width in ((hunyuan_vae(), 4), (wan_vae(**WAN_2_1), 4)):
        latents = torch.randn(1, width, 3, 4, 5, dtype=torch.float64)
        whole = rebuilt(vae).decode(latents).sample
        with monkeypatch.context() as small:
            small.setattr(dense_convolution, "LARGEST", 6 * 34 * 42 * 64)
            small.setattr(last_convolution, "PRODUCTS", 4 * 34 * 42 * 96)
            small.setattr(frame_attention, "SCORES", 1)
            assert farthest(rebuilt(vae).decode(latents).sample, whole) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("family", ["hunyuan_video", "wan 2.1", "wan 2.2"])
def test_narrow_dtypes_lose_no_more_than_in_diffusers(family, dtype):
    vae = hunyuan_vae() if family == "hunyuan_video" else wan_vae(**WAN_2_1 if family == "wan 2.1" else WAN_2_2)
    latents = torch.randn(1, vae.config.get("z_dim") or 4, 3, 6, 5, dtype=torch.float64)
    wanted = vae.decode(latents).sample
    narrow = copy.deepcopy(vae).to(dtype)
    own = distance(rebuilt(narrow).decode(latents.to(dtype)).sample, wanted)
    assert own <= 1.25 * distance(narrow.decode(latents.to(dtype)).sample, wanted)


def narrow(vae: Any, said: list[str]) -> Any:
    """A VAE in float32 that decodes and encodes in float16 first, as on a GPU."""
    made = view(vae)
    rebuild(made, said.append)
    made._decode.made = WanDecoder(made.decoder, torch.float16)
    made._encode.made = WanEncoder(made.encoder, torch.float16)
    return made


def test_weights_that_overflow_are_decoded_again_with_a_warning():
    vae = wan_vae(**WAN_2_1).float()
    vae.decoder.conv_in.weight.mul_(1e6)
    said: list[str] = []
    latents = torch.randn(1, 4, 3, 4, 5)
    assert farthest(narrow(vae, said).decode(latents).sample, vae.decode(latents).sample) < 1e-5
    assert said == [
        "decoding in float16 gave values that are not finite; chunks that overflow are decoded again in float32"
    ]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_inputs_that_are_not_finite_are_not_blamed_on_float16(value, monkeypatch):
    said: list[str] = []
    made = narrow(wan_vae(**WAN_2_1).float(), said)
    works: list[torch.dtype] = []
    for work in (WanDecoder, WanEncoder):

        def counted(self: Any, *given: Any, real: Any = work.__init__) -> None:
            works.append(given[1])
            real(self, *given)

        monkeypatch.setattr(work, "__init__", counted)
    latents, frames = torch.randn(1, 4, 3, 4, 5), torch.rand(1, 3, 5, 32, 40)
    latents[:, :, 1, 2] = frames[:, :, 2] = value
    assert not made.decode(latents).sample.isfinite().all()
    assert not made.encode(frames).latent_dist.mode().isfinite().all()
    assert said == [
        "the latents have values that are not finite, and so have the frames; the cause lies before this node",
        "the frames have values that are not finite, and so have the latents; the cause lies before this node",
    ]
    assert not works, "nothing is computed a second time"


def test_only_chunks_that_overflow_are_decoded_again(monkeypatch):
    vae = wan_vae(**WAN_2_1).float()
    latents = torch.randn(1, 4, 7, 2, 3, generator=torch.Generator().manual_seed(1))
    latents[:, :, 2] *= 1e5  # too much for float16; the first convolution sees it in the next two frames too
    chunks: list[str] = []
    original = WanDecoder._chunk

    def counted(self: WanDecoder, *args: Any) -> torch.Tensor:
        chunks.append({torch.float16: "half", torch.float32: "whole"}[self.dtype])
        return original(self, *args)

    monkeypatch.setattr(WanDecoder, "_chunk", counted)
    said: list[str] = []
    made = narrow(vae, said)
    made._decode.made.chunk = 1
    found, wanted = made.decode(latents).sample, vae.decode(latents).sample
    assert chunks[:7] == ["half"] * 7, "nothing waits for the device before all chunks are decoded"
    assert chunks[7:] == ["half", "half", *["half", "whole"] * 3, "half", "half"]
    assert len(said) == 1
    errors = [float(e.abs().max()) for e in (found - wanted)[:, :, 1:].split(4, dim=2)]  # of each chunk but the first
    assert max(errors[2:4]) < 1e-5, "they have the digits of float32"
    assert 1e-5 < max(errors) < 1e-2


def test_an_overflow_is_encoded_again_with_a_warning():
    vae = wan_vae(**WAN_2_1).float()
    vae.encoder.conv_in.weight.mul_(1e6)
    said: list[str] = []
    made, video = narrow(vae, said), torch.rand(1, 3, 5, 16, 24) * 2 - 1
    assert farthest(made.encode(video).latent_dist.mode(), vae.encode(video).latent_dist.mode()) < 1e-5
    assert said == ["encoding in float16 gave values that are not finite; the clip is encoded again in float32"]


@pytest.mark.parametrize("frames", [1, 5, 7, 13])
@pytest.mark.parametrize("config", [WAN_2_1, WAN_2_2], ids=["2.1", "2.2"])
def test_wan_encodes_as_diffusers_does(config, frames):
    vae = wan_vae(**config)
    factor = config.get("scale_factor_spatial", 8)
    video = torch.rand(2, 3, frames, 3 * factor, 4 * factor, dtype=torch.float64) * 2 - 1
    found, wanted = (each.encode(video).latent_dist for each in (rebuilt(vae), vae))
    assert farthest(found.mean, wanted.mean) < 1e-12
    assert farthest(found.logvar, wanted.logvar) < 1e-12
    single, given = vae.float(), video.float()
    assert farthest(rebuilt(single).encode(given).latent_dist.mode(), single.encode(given).latent_dist.mode()) < 1e-5


def test_sides_that_no_power_of_two_divides_are_encoded():
    vae = wan_vae(**WAN_2_1)
    video = torch.rand(1, 3, 5, 27, 38, dtype=torch.float64) * 2 - 1
    assert farthest(rebuilt(vae).encode(video).latent_dist.mean, vae.encode(video).latent_dist.mean) < 1e-12


@pytest.mark.parametrize("config", [WAN_2_1, WAN_2_2], ids=["2.1", "2.2"])
def test_wan_encodes_the_same_in_chunks_of_every_length(config):
    encoder = WanEncoder(wan_vae(**config).encoder, torch.float64)
    video = torch.rand(config.get("in_channels", 3), 17, 24, 16, dtype=torch.float64)
    assert farthest(encoder(video, 8), encoder(video)) < 1e-12
    assert farthest(encoder(video, 16), encoder(video)) < 1e-12


def test_wan_encodes_tiles_as_diffusers_does():
    vae = wan_vae(**WAN_2_1)
    made = rebuilt(vae)
    video = torch.rand(1, 3, 1, 64, 56, dtype=torch.float64)
    for each in (vae, made):
        each.enable_tiling(48, 48, 32, 32)
    assert torch.equal(made.encode(video).latent_dist.mean, vae.encode(video).latent_dist.mean)


def test_an_encoder_of_another_kind_is_refused():
    vae = wan_vae(**WAN_2_1)
    vae.encoder.down_blocks.append(torch.nn.Identity())
    with pytest.raises(ValueError, match="a block `Identity`"):
        WanEncoder(vae.encoder, torch.float64)


def test_encoding_in_float16_loses_no_more_than_in_diffusers():
    vae = wan_vae(**WAN_2_1)
    video = torch.rand(1, 3, 5, 32, 24, dtype=torch.float64) * 2 - 1
    wanted = vae.encode(video).latent_dist.mean
    half = copy.deepcopy(vae).half()
    own = distance(rebuilt(half).encode(video.half()).latent_dist.mean, wanted)
    assert own <= 1.25 * distance(half.encode(video.half()).latent_dist.mean, wanted)


FULL_SIZE = {
    "hunyuan_video": (
        "hunyuanvideo-community/HunyuanVideo",
        "AutoencoderKLHunyuanVideo",
        torch.bfloat16,
        (16, 5, 60, 106),
    ),
    "wan 2.1": ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "AutoencoderKLWan", torch.float32, (16, 5, 60, 104)),
    "wan 2.2": ("Wan-AI/Wan2.2-TI2V-5B-Diffusers", "AutoencoderKLWan", torch.float32, (48, 5, 44, 80)),
}
"""Repository, class, dtype, and latents [c, T, h, w] of the size of the bundled workflows, but fewer frames."""


def peak(family: str, work: str, is_rebuilt: bool, *shape: int) -> int:
    """Bytes that a plan counts at the peak of a VAE's work, above weights and input, with a model's configuration."""
    import diffusers

    source, name, dtype, _ = FULL_SIZE[family]
    cls = getattr(diffusers, name)
    with torch.device("meta"):
        vae = cls.from_config(cls.load_config(CONFIGS / source / "vae")).to(dtype).eval().requires_grad_(False)
    made = rebuilt(vae) if is_rebuilt else vae
    run = Run()
    run.device, run.planning = "meta", True
    given = torch.empty(1, *shape, device="meta", dtype=dtype)
    with cost_meter.runtime(run), cost_meter.meter(run), cost_meter.attempt() as attempt:
        getattr(made, work)(given)
    return attempt.above


@pytest.mark.parametrize("family", FULL_SIZE)
def test_the_peak_of_a_decode_is_no_higher_than_that_of_diffusers(family):
    latents = FULL_SIZE[family][-1]
    assert 0 < peak(family, "decode", True, *latents) <= peak(family, "decode", False, *latents)


@pytest.mark.slow
@pytest.mark.parametrize("frames", [1, 9])
@pytest.mark.parametrize("family", ["wan 2.1", "wan 2.2"])
def test_the_peak_of_an_encode_is_no_higher_than_that_of_diffusers(family, frames):
    video = (3, frames, 480, 832) if family == "wan 2.1" else (3, frames, 704, 1280)
    assert 0 < peak(family, "encode", True, *video) <= peak(family, "encode", False, *video)


@pytest.mark.parametrize("config", [WAN_2_1, WAN_2_2], ids=["2.1", "2.2"])
def test_frames_of_wan_are_those_of_the_pipeline(config):
    from diffusers.video_processor import VideoProcessor

    vae = wan_vae(**config).float()
    made = rebuilt(vae)
    latents = torch.randn(2, config["z_dim"], 6, 3, 4)
    frames = made.decode_frames(latents)
    wanted = VideoProcessor(vae_scale_factor=1).postprocess_video(made.decode(latents).sample, output_type="pt")
    assert torch.equal(frames, wanted.permute(0, 1, 3, 4, 2))
    made.enable_tiling(16, 16, 8, 8)
    assert made.decode_frames(latents) is None


def test_frames_of_chunks_that_overflow():
    vae = wan_vae(**WAN_2_1).float()
    vae.decoder.conv_in.weight.mul_(1e6)
    said: list[str] = []
    latents = torch.randn(1, 4, 5, 2, 3)
    frames = narrow(vae, said).decode_frames(latents)
    wanted = (vae.decode(latents).sample * 0.5 + 0.5).permute(0, 2, 3, 4, 1)
    assert farthest(frames, wanted.contiguous()) < 1e-5
    assert len(said) == 1


def test_a_plan_does_not_count_frames_in_the_hosts_memory():
    made = rebuilt(copy.deepcopy(wan_vae(**WAN_2_1).float()).to("meta"))
    run = Run()
    run.device, run.planning = "meta", True
    with cost_meter.runtime(run), cost_meter.meter(run) as meter:
        made.decode_frames(torch.empty(1, 4, 1, 4, 4, device="meta"))
        before = meter.live
        frames = made.decode_frames(torch.empty(1, 4, 5, 4, 4, device="meta"))
        assert meter.live == before
    assert frames.shape == (1, 17, 32, 32, 3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_frames_that_leave_a_gpu():
    from sgd.nodes.models.decoders.leaving_frames import LeavingFrames

    frames = torch.rand(23, 64, 64, 3, device="cuda")
    out = torch.zeros(23, 64, 64, 3)
    leaving = LeavingFrames(out)
    for start, stop in ((0, 3), (3, 11), (11, 19), (19, 23)):
        leaving.put(start, (frames[start:stop] * 2) / 2)
    leaving.end()
    assert torch.equal(out, frames.cpu())


def test_an_unknown_vae_stays_as_it_is():
    from diffusers import AutoencoderKL

    vae = view(AutoencoderKL(block_out_channels=(8,), norm_num_groups=4))
    before = dict(vars(vae))
    assert rebuild(vae, pytest.fail) == "there is no rebuilt decoder of AutoencoderKL"
    assert vars(vae) == before


def test_a_view_without_the_rebuilt_decoder_does_not_change():
    vae = hunyuan_vae()
    before = vae.decoder.forward
    rebuilt(vae).decode(torch.randn(1, 4, 1, 4, 4, dtype=torch.float64))
    assert vae.decoder.forward == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16], ids=["float32", "float16", "bfloat16"]
)
@pytest.mark.parametrize("family", ["hunyuan_video", "wan 2.1", "wan 2.2"])
def test_on_a_gpu(family, dtype):
    vae = hunyuan_vae() if family == "hunyuan_video" else wan_vae(**WAN_2_1 if family == "wan 2.1" else WAN_2_2)
    latents = torch.randn(1, vae.config.get("z_dim") or 4, 5, 12, 10, dtype=torch.float64)
    wanted = vae.decode(latents).sample
    placed = copy.deepcopy(vae).to("cuda", dtype)
    given = latents.to("cuda", dtype)
    own = distance(rebuilt(placed).decode(given).sample.cpu(), wanted)
    stock = distance(placed.decode(given).sample.cpu(), wanted)
    # Wan in float32 decodes in float16, beside which TF32 has as many digits.
    assert own <= max(1.25 * stock, 2e-3 if dtype is torch.float32 else 0.0)
