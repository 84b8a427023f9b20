"""vae.decode and vae.encode, compared with diffusers' pipelines."""

import pytest
import torch
from diffusers import WanImageToVideoPipeline
from helpers import node_facts
from sgd.graph.contract.errors import NodeError
from sgd.nodes import latents, vae
from sgd.nodes.values import Frames, Latents, Size


def decode(model, given, **options):
    with torch.no_grad():
        return vae.decode(model, given, **options).tensor


def test_a_clip_of_a_batch_equals_the_clip_alone(wan_model):
    noise = latents.noise(wan_model, width=48, height=32, frames=9, batch=3)
    together = decode(wan_model, noise)
    assert together.shape == (3, 9, 32, 48, 3)
    assert together.dtype == torch.float32
    assert together.min() >= 0
    assert together.max() <= 1
    for index in range(3):
        alone = decode(wan_model, Latents(noise.tensor[index : index + 1], "wan", noise.size))
        assert torch.allclose(together[index], alone[0], atol=1e-6)


def test_tiling_uses_the_vaes_tiles_and_restores_its_setting(wan_model):
    autoencoder = wan_model.component("vae")
    noise = latents.noise(wan_model, width=320, height=288, frames=1)
    whole = decode(wan_model, noise)
    tiled = decode(wan_model, noise, tiling=True)
    assert not autoencoder.use_tiling
    autoencoder.enable_tiling()
    try:
        expected = autoencoder.decode(_denormalised(autoencoder, noise.tensor), return_dict=False)[0]
        assert torch.equal(tiled[0, 0], (expected[0, :, 0] * 0.5 + 0.5).clamp(0, 1).permute(1, 2, 0))
        assert torch.equal(decode(wan_model, noise), whole)  # no tiles, although the VAE is set to tile
        assert autoencoder.use_tiling
    finally:
        autoencoder.disable_tiling()
    assert not torch.equal(whole, tiled)


@torch.no_grad()
def _denormalised(autoencoder, tensor):
    shape = (1, -1, 1, 1, 1)
    mean, std = (torch.tensor(getattr(autoencoder.config, f"latents_{n}")).view(shape) for n in ("mean", "std"))
    return tensor / (1.0 / std) + mean


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def test_encoding_equals_that_of_the_image_to_video_pipeline(wan_model):
    """The pipeline's `prepare_latents` encodes a first frame followed by empty frames."""
    pipeline = WanImageToVideoPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=wan_model.component("vae"),
        scheduler=wan_model.component("scheduler"),
        transformer=wan_model.component("transformer"),
    )
    image = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    _, condition = pipeline.prepare_latents(
        image * 2 - 1, 1, 16, 32, 48, 9, torch.float32, torch.device("cpu"), torch.Generator().manual_seed(0)
    )
    # The empty frames are zeros in [-1, 1]: middle grey in [0, 1].
    frames = torch.full((1, 9, 32, 48, 3), 0.5)
    frames[:, 0] = image.permute(0, 2, 3, 1)
    made = vae.encode(wan_model, Frames(frames))
    assert made.size == Size(48, 32, 9)
    assert torch.equal(made.tensor, condition[:, -16:])


def test_decoding_encoded_frames_restores_their_shape(wan_model):
    frames = torch.rand(2, 5, 32, 32, 3)
    back = vae.decode(wan_model, vae.encode(wan_model, Frames(frames)))
    assert back.tensor.shape == frames.shape


def test_frames_of_a_size_that_the_model_does_not_support_are_an_error(wan_model):
    with pytest.raises(NodeError, match="this model cannot make") as error:
        vae.encode(wan_model, Frames(torch.rand(1, 6, 40, 32, 3)))
    assert "32x32, 5 frames" in error.value.help


def test_latents_of_another_family_are_an_error(wan_model):
    with pytest.raises(NodeError, match="latents of flux"):
        vae.decode(wan_model, Latents(torch.zeros(1), "flux", Size(32, 32)))
    (problem,) = node_facts.check(vae.decode, model={"family": "wan"}, latents={"family": "flux"})
    assert (problem.code, problem.parameter) == ("unsupported", "latents")
    assert not list(node_facts.check(vae.decode, model={"family": "wan"}))


def test_decode_and_encode_describe_their_results():
    known = {"family": "wan", "size": [832, 480, 81], "batch": 1}
    assert node_facts.describe(vae.decode, latents=known) == {"size": [832, 480, 81], "batch": 1}
    assert node_facts.describe(vae.decode) == {}
    assert node_facts.describe(vae.encode, model={"family": "wan"}) == {"family": "wan"}
