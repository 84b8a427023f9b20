"""Image to video: results equal those of diffusers' WanImageToVideoPipeline on the same weights."""

from __future__ import annotations

import pytest
import torch
from diffusers import WanImageToVideoPipeline
from helpers import direct, node_facts, tiny_wan_image
from helpers.direct import DirectRun, model_of
from helpers.peer import PROMPTS
from helpers.tiny_wan_image import picture
from helpers.wan_image import assert_same, frames_of, generate, pipeline_of, reference
from sgd.graph.contract.errors import NodeError
from sgd.nodes import image_condition, latents
from sgd.nodes.values import Frames

KINDS = {
    "clip": {"clip": True},
    "no-clip": {"clip": False, "experts": 2, "boundary_ratio": 0.9},
    "last": {"clip": True, "last": True},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}
    for name, options in KINDS.items():
        made[name] = tmp_path_factory.mktemp("wan-image") / name
        tiny_wan_image.image_to_video(**options).save_pretrained(made[name])
    made["ti2v"] = tmp_path_factory.mktemp("wan-image") / "ti2v"
    tiny_wan_image.ti2v().save_pretrained(made["ti2v"])
    return made


@pytest.fixture(scope="module")
def models(folders):
    return {name: model_of(folder) for name, folder in folders.items()}


def peer_of(model, scheduler="auto"):
    config = {key: model.config("model_index").get(key) for key in ("boundary_ratio", "expand_timesteps")}
    return pipeline_of(WanImageToVideoPipeline, model, scheduler, **config)


@pytest.mark.parametrize("size", [(32, 32, 9), (48, 32, 10)], ids=["square", "wide-rounded"])
@pytest.mark.parametrize("prompts", [1, 2])
@pytest.mark.parametrize("scale", [5.0, 1.0], ids=["guided", "unguided"])
def test_latents_and_frames_equal_those_of_the_pipeline(models, scale, prompts, size):
    width, height, frames = size
    made_of = {"width": width, "height": height, "scale": scale, "seed": 3}
    expected = reference(peer_of(models["clip"]), PROMPTS[:prompts], image=picture(), num_frames=frames, **made_of)
    assert_same(generate(models["clip"], PROMPTS[:prompts], picture(), frames=frames, **made_of), expected)


@pytest.mark.parametrize("scheduler", ["euler", "dpm++"])
def test_other_schedulers_equal_the_pipeline(models, scheduler):
    expected = reference(peer_of(models["clip"], scheduler), image=picture())
    assert_same(generate(models["clip"], PROMPTS[:1], picture(), scheduler=scheduler), expected)


def test_the_image_changes_the_result(models):
    first, second = (generate(models["clip"], PROMPTS[:1], picture(seed=s), steps=2) for s in (0, 1))
    assert (first.frames.tensor - second.frames.tensor).abs().max() > 1e-3


def test_two_experts_without_clip_equal_the_pipeline(models):
    given = {"image": picture(), "scale": 3.5, "num_inference_steps": 5}
    expected = reference(peer_of(models["no-clip"]), guidance_scale_2=2.5, **given)
    made = generate(models["no-clip"], PROMPTS[:1], picture(), scale=3.5, scale_below=2.5, boundary=0.9, steps=5)
    assert_same(made, expected)


@pytest.mark.parametrize("kind", ["last", "no-clip"])
def test_a_first_and_a_last_frame_equal_the_pipeline(models, kind):
    expected = reference(peer_of(models[kind]), image=picture(), last_image=picture(seed=1))
    made = generate(models[kind], PROMPTS[:1], picture(), last=picture(seed=1), boundary=0.9 if kind != "last" else 0.0)
    assert_same(made, expected)


@pytest.mark.parametrize("size", [(32, 32, 9), (64, 32, 6)], ids=["square", "wide-rounded"])
@pytest.mark.parametrize("prompts", [1, 2])
@pytest.mark.parametrize("scale", [5.0, 1.0], ids=["guided", "unguided"])
def test_ti2v_keeps_the_first_latent_frame(models, scale, prompts, size):
    width, height, frames = size
    model, made_of = models["ti2v"], {"width": width, "height": height, "scale": scale}
    expected = reference(peer_of(model), PROMPTS[:prompts], image=picture(), num_frames=frames, **made_of)
    made = generate(model, PROMPTS[:prompts], picture(), frames=frames, **made_of)
    assert_same(made, expected)


def test_image_keep_changes_only_latents_of_ti2v(models):
    for kind, kept in (("clip", False), ("ti2v", True)):
        made_of = {"width": 64, "height": 32, "frames": 9}
        condition = image_condition.encode(DirectRun(), models[kind], frames_of(picture()), **made_of)
        noise = latents.noise(models[kind], batch=2, **made_of)
        after = image_condition.keep(noise, condition)
        assert torch.equal(after.tensor[:, :, 1:], noise.tensor[:, :, 1:])
        assert torch.equal(after.tensor, noise.tensor) is not kept


def test_batched_branches_differ_by_rounding_only(models):
    for kind in ("clip", "last", "ti2v"):
        last = picture(seed=1) if kind == "last" else None
        one, other = (
            generate(models[kind], PROMPTS, picture(), last=last, steps=2, batched=batched) for batched in (False, True)
        )
        theirs = one.states[-1].tensor
        assert (other.states[-1].tensor - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def test_each_image_of_a_batch_is_encoded_as_it_is_alone(models):
    """Each row of the condition equals the condition of its image alone."""
    both = Frames(torch.cat([frames_of(picture(seed=s)).tensor for s in (0, 1)]))
    made_of = {"width": 32, "height": 32, "frames": 9}
    condition = image_condition.encode(DirectRun(), models["clip"], both, **made_of)
    for row in range(2):
        single = Frames(both.tensor[row : row + 1])
        alone = image_condition.encode(DirectRun(), models["clip"], single, **made_of)
        assert all(
            torch.equal(tensor[row : row + 1], alone.tensors[name]) for name, tensor in condition.tensors.items()
        )


@pytest.mark.parametrize("kind", ["clip", "no-clip", "last", "ti2v"])
def test_shapes_on_the_meta_device_equal_those_of_the_run(folders, models, kind):
    run = DirectRun()
    run.device, run.planning, run.options = "meta", True, {"device": "cpu"}
    planned = model_of(folders[kind], run=run, kind="meta", device="meta")
    made_of = {"width": 64, "height": 32, "frames": 9}
    image = frames_of(picture())
    last = image if kind == "last" else None
    real = image_condition.encode(DirectRun(), models[kind], image, last=last, **made_of)
    empty = Frames(image.tensor.to("meta"))
    meta = image_condition.encode(run, planned, empty, last=None if last is None else empty, **made_of)
    assert meta.facts() == real.facts()
    assert all(tensor.is_meta for tensor in meta.tensors.values())


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("clip", {"vae", "image_processor", "image_encoder"}),
        ("last", {"vae", "image_processor", "image_encoder"}),
        ("no-clip", {"vae"}),
        ("ti2v", {"vae"}),
    ],
)
def test_only_the_encoders_that_the_model_has_are_read(folders, kind, parts):
    from sgd.nodes.models.nodes.model_load import load

    known = node_facts.describe(load, source=str(folders[kind]))
    assert set(node_facts.reads(image_condition.encode, model=known)["model"]) == parts
    assert node_facts.reads(image_condition.encode, model={"family": "wan"}) == {}


def test_crop_keeps_the_middle(models):
    from PIL import Image

    wide = Image.new("RGB", (96, 32), "black")
    wide.paste("white", (32, 0, 64, 32))
    run, made_of = DirectRun(), {"width": 32, "height": 32, "frames": 1}
    cut = image_condition.encode(run, models["ti2v"], frames_of(wide), fit="crop", **made_of)
    white = image_condition.encode(run, models["ti2v"], frames_of(Image.new("RGB", (32, 32), "white")), **made_of)
    assert torch.equal(cut.tensors["kept"], white.tensors["kept"])
    assert run.warnings == []
    image_condition.encode(run, models["ti2v"], frames_of(wide), **made_of)
    assert run.warnings == ["an image of 96x32 is stretched to 32x32; `fit: crop` cuts it to the middle instead"]


@pytest.mark.parametrize(
    ("kind", "last", "message"),
    [
        ("clip", True, "this model takes a first frame only"),
        ("ti2v", True, "this model takes a first frame only"),
        ("last", False, "this model takes a first and a last frame"),
    ],
)
def test_frames_that_the_model_does_not_take_are_an_error(folders, models, kind, last, message):
    from sgd.nodes.models.nodes.model_load import load

    image, made_of = frames_of(picture()), {"width": 32, "height": 32, "frames": 9}
    with pytest.raises(NodeError, match=message):
        image_condition.encode(DirectRun(), models[kind], image, last=image if last else None, **made_of)
    known = {"model": node_facts.describe(load, source=str(folders[kind])), **made_of}
    (problem,) = node_facts.check(image_condition.encode, **known, **({} if last else {"last": None}))
    assert problem.code == "unsupported"
    assert problem.message == message


def test_a_text_to_video_model_takes_no_image(wan_model):
    with pytest.raises(NodeError, match="generates clips from text alone"):
        image_condition.encode(DirectRun(), wan_model, frames_of(picture()), width=32, height=32, frames=9)


def test_a_size_the_pipeline_refuses_is_an_error(models):
    with pytest.raises(ValueError, match="divisible by 16"):
        reference(peer_of(models["clip"]), image=picture(), width=40)
    with pytest.raises(NodeError, match="this model does not support the width 40"):
        image_condition.encode(DirectRun(), models["clip"], frames_of(picture()), width=40, height=32, frames=9)


def test_an_image_for_another_size_is_an_error(models):
    from sgd.nodes import denoiser

    with pytest.raises(NodeError, match="encoded for a clip of 64x32, 9 frames, but this clip is 32x32, 9 frames"):
        _predict(models["clip"], 64, 32)
    model = {"family": "wan"}
    known = {"image": {"family": "wan", "size": [64, 32, 9]}, "latents": {"family": "wan", "size": [32, 32, 9]}}
    assert [p.parameter for p in node_facts.check(denoiser.predict, model=model, **known)] == ["image"]


def _predict(model, width, height, max_length=512):
    from helpers.direct import BOTH
    from sgd.nodes import cfg, schedule, text

    with torch.no_grad():
        condition = image_condition.encode(
            DirectRun(), model, frames_of(picture()), width=width, height=height, frames=9
        )
        texts = text.encode(DirectRun(), BOTH, model, PROMPTS[:1], max_length=max_length)
        noise = latents.noise(model, width=32, height=32, frames=9)
        step = schedule.make(model, steps=2).steps[0]
        return direct.predict(model, noise, step, cfg.split(texts, scale=1.0), image=condition)


def test_clip_needs_prompts_of_full_length(models):
    with pytest.raises(NodeError, match="with an image, this model takes prompts of 512 tokens, not of 16"):
        _predict(models["clip"], 32, 32, max_length=16)


def test_several_frames_are_an_error(models):
    clip = Frames(torch.zeros(1, 3, 32, 32, 3))
    with pytest.raises(NodeError, match="there are 3 frames, but an image has one"):
        image_condition.encode(DirectRun(), models["clip"], clip, width=32, height=32, frames=9)


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_the_image_encoder_stays_in_float32(folders, device):
    """diffusers' documentation of Wan keeps the image encoder in float32, beside bfloat16 components."""
    from sgd.nodes.models.nodes.model_load import load

    run = DirectRun()
    run.device, run.planning, run.options = "meta", True, {"device": device}
    model = load(run, str(folders["clip"]))
    assert model.weights.dtype_name("image_encoder") == "float32"
    assert load(run, str(folders["clip"]), dtype="bfloat16").weights.dtype_name("image_encoder") == "bfloat16"


@pytest.mark.parametrize(
    "parts", [("transformer",), ("transformer", "text_encoder", "image_encoder"), ("vae",)], ids="+".join
)
@pytest.mark.parametrize("kind", ["clip", "ti2v"])
def test_low_precision_keeps_the_casts_of_the_pipeline(folders, kind, parts):
    model = model_of(folders[kind], **dict.fromkeys(parts, "bfloat16"))
    expected = reference(peer_of(model), image=picture())
    assert_same(generate(model, PROMPTS[:1], picture()), expected)


@pytest.mark.parametrize(("kind", "needs"), [("clip", True), ("no-clip", True), ("ti2v", False)])
def test_a_missing_image_is_found_before_anything_is_loaded(folders, kind, needs):
    from sgd.nodes import denoiser
    from sgd.nodes.models.nodes.model_load import load

    known = node_facts.describe(load, source=str(folders[kind]))
    found = list(node_facts.check(denoiser.predict, model=known, image=None))
    assert [(p.code, p.parameter) for p in found] == [("missing-parameter", "image")] * needs
    assert list(node_facts.check(denoiser.predict, model=known, image={"family": "wan"})) == []
    assert list(node_facts.check(denoiser.predict, model=known)) == []  # wired to an unknown value
