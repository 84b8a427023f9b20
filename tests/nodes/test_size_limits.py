"""The largest size of a model, compared with the sizes at which diffusers' transformers work and fail."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers.models.transformers.transformer_qwenimage import QwenEmbedRope
from helpers import node_facts, tiny, tiny_flux, tiny_hunyuan_video, tiny_z_image
from helpers.direct import BOTH, DirectRun, model_of
from sgd.graph.contract.errors import NodeError
from sgd.nodes import image_condition, latents, text, vae
from sgd.nodes.families import by_name
from sgd.nodes.size_limits import size_problems
from sgd.nodes.values import Frames, Latents, Size

WAN = {"vae": {}, "transformer": {"rope_max_seq_len": 32}}
Z_IMAGE = {"vae": {"block_out_channels": [8, 16]}, "transformer": {"axes_lens": [96, 24, 40]}}


def limit(family, configs):
    return by_name(family).size_limit(configs).largest


def problems(node, **known):
    return [(p.parameter, p.severity, p.message, p.help) for p in node_facts.check(node, **known)]


def z_transformer(lengths):
    from diffusers import ZImageTransformer2DModel

    torch.manual_seed(0)
    return ZImageTransformer2DModel(
        in_channels=16,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[8, 4, 4],
        axes_lens=lengths,
    ).eval()


@pytest.mark.parametrize("axis", ["width", "height", "frames"])
def test_wan_works_at_its_limit_and_fails_beyond(axis):
    family, transformer = by_name("wan"), tiny.wan_transformer(layers=1)  # rope_max_seq_len 32
    largest = limit("wan", WAN)
    fitting = Size(**{"width": 16, "height": 16, "frames": 1, axis: getattr(largest, axis)})
    step = 4 if axis == "frames" else 16
    beyond = Size(**{"width": 16, "height": 16, "frames": 1, axis: getattr(largest, axis) + step})

    def run(size):
        shape = family.latent_shape(size, 1, WAN)
        return transformer(torch.randn(shape), torch.tensor([500]), torch.randn(1, 8, 32), return_dict=False)[0]

    with torch.no_grad():
        assert run(fitting).isfinite().all()
        with pytest.raises(RuntimeError):
            run(beyond)
    assert not list(size_problems(family, fitting, WAN))
    (problem,) = size_problems(family, beyond, WAN)
    assert problem.parameter == axis
    assert problem.help == f"the largest size is {largest}"


@pytest.mark.parametrize("axis", ["width", "height"])
def test_z_image_works_at_its_limit_and_fails_beyond(axis):
    family, transformer = by_name("z-image"), z_transformer(Z_IMAGE["transformer"]["axes_lens"])
    largest = limit("z-image", Z_IMAGE)
    fitting = Size(**{"width": 4, "height": 4, axis: getattr(largest, axis)})
    beyond = Size(**{"width": 4, "height": 4, axis: getattr(largest, axis) + 4})

    def run(size):
        (_, channels, height, width) = family.latent_shape(size, 1, Z_IMAGE)
        return transformer([torch.randn(channels, 1, height, width)], torch.tensor([0.5]), [torch.randn(9, 16)])[0][0]

    with torch.no_grad():
        assert run(fitting).isfinite().all()
        with pytest.raises(IndexError):
            run(beyond)
    assert not list(size_problems(family, fitting, Z_IMAGE))
    assert [p.parameter for p in size_problems(family, beyond, Z_IMAGE)] == [axis]


def test_qwen_image_has_positions_up_to_its_limit():
    family, rope = by_name("qwen-image"), QwenEmbedRope(10000, [8, 4, 4], scale_rope=True)
    largest, side = limit("qwen-image", {}), 16
    for height, width in ((largest.height // side, 1), (1, largest.width // side)):
        rope._compute_video_freqs(1, height, width)
        with pytest.raises(RuntimeError):
            rope._compute_video_freqs(1, height + (height > 1), width + (width > 1))
    assert not list(size_problems(family, largest, {}))
    assert len(list(size_problems(family, Size(largest.width + side, largest.height + side), {}))) == 2


def test_flux_and_hunyuan_video_take_every_size():
    """Their transformers compute positions as they are needed; 80 rows are more than any table of tiny models has."""
    with torch.no_grad():
        rope = tiny_hunyuan_video.transformer().rope
        assert rope(torch.zeros(1, 4, 3, 9000, 2))[0].shape[0] == 3 * 4500
        embed = tiny_flux.transformer(False).pos_embed
        assert embed(torch.tensor([[0, 9000, 9000]]))[0].isfinite().all()
    assert by_name("flux").size_limit({"transformer": {}}) is None
    assert by_name("hunyuan-video").size_limit({"transformer": {}}) is None


def test_check_names_the_axis_and_the_largest_size():
    known = {"model": {"family": "wan", "configs": WAN}}
    (found,) = problems(latents.noise, **known, width=528, height=256, frames=9)
    assert found == (
        "width",
        "error",
        "this model cannot make 528x256, 9 frames: width is at most 512, by `rope_max_seq_len` 32 of its transformer",
        "the largest size is 512x512, 125 frames",
    )
    assert [p[0] for p in problems(latents.noise, **known, width=16, height=1024, frames=129)] == ["height", "frames"]
    assert problems(latents.noise, **known, width=512, height=512, frames=125) == []
    # The noise reports it; nodes that read the noise do not repeat it.
    described = partial(node_facts.describe, latents.noise, **known, height=256, frames=9, batch=1)
    assert described(width=528) == {"family": "wan", "batch": 1}
    assert described(width=512)["size"] == [512, 256, 9]
    image = {"model": {"family": "wan", "configs": {**WAN, "model_index": {"expand_timesteps": True}}}}
    assert "width" in [p[0] for p in problems(image_condition.encode, **image, width=528, height=256, frames=9)]


def test_latents_of_a_file_are_checked_too():
    from sgd.nodes import denoiser

    found = node_facts.check(
        denoiser.predict,
        model={"family": "wan", "configs": WAN},
        latents={"family": "wan", "size": [528, 256, 9]},
        image=None,
    )
    assert [(p.parameter, p.severity) for p in found if "cannot make" in p.message] == [("latents", "error")]


def test_a_run_refuses_a_size_that_the_model_cannot_make(wan_model):
    with pytest.raises(NodeError, match="width is at most 512"):
        latents.noise(wan_model, width=528, height=32)
    with pytest.raises(NodeError, match="frames is at most 125"), torch.no_grad():
        vae.encode(wan_model, Frames(torch.zeros(1, 129, 16, 16, 3)))
    from sgd.nodes import denoiser
    from sgd.nodes.values import Conditioning

    big = Latents(torch.zeros(1, 16, 1, 4, 66), "wan", Size(528, 32, 1))
    with pytest.raises(NodeError, match="width is at most 512"):
        denoiser._require_fit(wan_model, big, Conditioning({}, None, "wan"), None)


def test_the_limits_of_released_models_allow_their_sizes():
    """Configurations that come with sgd, and the largest sizes in the documentation of the models."""
    from sgd.nodes.models.repository import configs

    folder = Path(next(iter(configs.__path__)))
    for name, family, size in (
        ("Wan-AI/Wan2.2-T2V-A14B-Diffusers", "wan", Size(1280, 720, 121)),
        ("Tongyi-MAI/Z-Image-Turbo", "z-image", Size(2048, 2048)),
        ("Qwen/Qwen-Image", "qwen-image", Size(3584, 3584)),
    ):
        parts = {
            part: json.loads((folder / name / part / "config.json").read_text()) for part in ("vae", "transformer")
        }
        assert not list(size_problems(by_name(family), size, parts))
        largest = limit(family, parts)
        assert len(list(size_problems(by_name(family), Size(largest.width + 16, size.height, 1), parts))) == 1


@pytest.fixture(scope="module")
def short_z_image(tmp_path_factory):
    """A Z-Image model with positions for prompts of 64 tokens."""
    folder = tmp_path_factory.mktemp("z-image")
    pipeline = tiny_z_image.build()
    pipeline.transformer = z_transformer([97, 24, 40])
    pipeline.save_pretrained(folder)
    return model_of(folder)


def test_a_prompt_without_positions_is_an_error_of_z_image(short_z_image):
    """97 positions: 64 + 32 tokens would leave none for the image."""
    letters = "abcdefgh" * 20
    with torch.no_grad():
        transformer = short_z_image.component("transformer")
        given = [torch.randn(16, 1, 4, 4)], torch.tensor([0.5])
        transformer(*given, [torch.randn(64, 16)])
        with pytest.raises(IndexError):
            transformer(*given, [torch.randn(65, 16)])
        text.encode(DirectRun(), BOTH, short_z_image, [letters], max_length=64)
        with pytest.raises(NodeError, match="takes at most 64, by `axes_lens`") as found:
            text.encode(DirectRun(), BOTH, short_z_image, [letters])
        with pytest.raises(NodeError, match="at most 64 tokens, not of 65"):
            text.encode(DirectRun(), BOTH, short_z_image, ["a"], max_length=65)
    assert "`max_length: 64`" in found.value.help
