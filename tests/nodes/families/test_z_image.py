"""The nodes' results equal those of diffusers' ZImagePipeline on the same weights."""

import pytest
import torch
from diffusers import ZImagePipeline
from helpers import node_facts, tiny_z_image
from helpers.direct import BOTH, DirectRun, model_of
from helpers.imaging import PROMPTS, assert_close, assert_same, generate, planned, reference, shapes
from sgd.graph.contract.errors import NodeError
from sgd.nodes import latents, schedule, text, vae

SCHEDULERS = {"fixed": {}, "dynamic": {"use_dynamic_shifting": True, "shift": 1.0}}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}
    for name, options in SCHEDULERS.items():
        made[name] = tmp_path_factory.mktemp("z-image") / name
        tiny_z_image.build(**options).save_pretrained(made[name])
    return made


@pytest.fixture(scope="module")
def models(folders):
    return {name: model_of(folder) for name, folder in folders.items()}


@pytest.fixture(scope="module")
def model(models):
    return models["fixed"]


def pipeline_of(model):
    made = ZImagePipeline(**{name: model.component(name) for name in model.parts()})
    made.set_progress_bar_config(disable=True)
    return made


@pytest.mark.parametrize("size", [(32, 32), (48, 32)], ids=["square", "wide"])
@pytest.mark.parametrize("prompts", [1, 2])
@pytest.mark.parametrize("scale", [0.0, 4.0], ids=["unguided", "guided"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_latents_and_frames_equal_those_of_the_pipeline(models, scheduler, scale, prompts, size):
    model, (width, height) = models[scheduler], size
    expected = reference(
        pipeline_of(model),
        PROMPTS[:prompts],
        negative_prompt=["dark"] * prompts,
        guidance_scale=scale,
        width=width,
        height=height,
        seed=3,
    )
    given = {"negative": "dark", "scale": scale, "width": width, "height": height, "seed": [3]}
    assert_same(generate(model, PROMPTS[:prompts], batched=True, **given), expected)
    if scale:  # one branch after the other: prompts have other padding, and sums another order
        assert_close(generate(model, PROMPTS[:prompts], **given), expected)


def test_guidance_and_prompts_change_the_result(model):
    results = [generate(model, [p], scale=s).frames.tensor for p, s in ((PROMPTS[0], 0.0), (PROMPTS[0], 4.0), ("b", 0))]
    assert (results[0] - results[1]).abs().max() > 1e-3
    assert (results[0] - results[2]).abs().max() > 1e-3


def test_several_seeded_images_of_each_prompt_equal_the_pipeline(model):
    expected = reference(pipeline_of(model), PROMPTS, guidance_scale=0.0, num_images_per_prompt=2, seed=[1, 2, 3, 4])
    assert_same(generate(model, PROMPTS, batch=4, seed=[1, 2, 3, 4]), expected)


@pytest.mark.parametrize("steps", [1, 2, 8])
def test_other_numbers_of_steps_equal_the_pipeline(models, steps):
    expected = reference(pipeline_of(models["dynamic"]), PROMPTS[:1], guidance_scale=0.0, num_inference_steps=steps)
    assert_same(generate(models["dynamic"], PROMPTS[:1], steps=steps), expected)


def test_stop_ends_guidance_before_the_last_steps(model):
    """`stop` matches the pipeline's `cfg_truncation`: both end guidance before the last steps."""
    plan = schedule.make(model, steps=4)
    guided = sum(1 - step.timestep / 1000 <= 0.4 for step in plan)
    assert 0 < guided < 4
    expected = reference(
        pipeline_of(model), PROMPTS, guidance_scale=4.0, cfg_truncation=0.4, num_inference_steps=4, seed=1
    )
    assert_same(generate(model, PROMPTS, scale=4.0, steps=4, batched=True, stop=guided / 4, seed=[1]), expected)


def test_bfloat16_keeps_the_casts_of_the_pipeline(folders):
    parts = ("transformer", "text_encoder", "vae")
    model = model_of(folders["fixed"], **dict.fromkeys(parts, "bfloat16"))
    expected = reference(pipeline_of(model), PROMPTS, guidance_scale=4.0)
    assert_same(generate(model, PROMPTS, scale=4.0, batched=True), expected)


def test_a_separately_loaded_pipeline_differs_by_rounding_only(model, folders):
    pipeline = ZImagePipeline.from_pretrained(folders["fixed"])
    pipeline.set_progress_bar_config(disable=True)
    assert_close(generate(model, PROMPTS[:1]), reference(pipeline, PROMPTS[:1], guidance_scale=0.0))


@pytest.mark.parametrize("width", [46, 47])
def test_a_size_that_the_pipeline_refuses_is_an_error(model, width):
    with pytest.raises(ValueError, match="Width must be divisible"):
        reference(pipeline_of(model), PROMPTS[:1], width=width)
    with pytest.raises(NodeError, match=f"does not support the width {width}") as caught:
        latents.noise(model, width=width, height=32)
    assert caught.value.help == "the nearest size below is 44x32"
    (problem,) = node_facts.check(latents.noise, model={"family": "z-image"}, width=width, height=32, frames=1)
    assert (problem.parameter, problem.severity) == ("width", "error")


@pytest.mark.parametrize("scale", [0.0, 4.0])
@pytest.mark.parametrize("batched", [False, True])
def test_a_plan_has_the_shapes_of_a_run(models, folders, scale, batched):
    options = {"scale": scale, "batched": batched, "width": 48}
    made = generate(models["dynamic"], PROMPTS, **options)
    assert shapes(planned(folders["dynamic"], PROMPTS, **options)) == shapes(made)


def test_words_that_do_not_fit_are_quoted(model):
    run = DirectRun()
    text.encode(run, BOTH, model, ["a red circle and a blue square"], negative=[""], max_length=64)
    assert run.warnings == []
    with torch.no_grad():
        made = text.encode(run, BOTH, model, ["a red circle and a blue square"], negative=[""], max_length=32)
    assert made.positive["embeddings"].shape == (1, 32, 16)
    assert len(run.warnings) == 1
    assert "“uare”" in run.warnings[0]  # 26 letters fit after the 6 tokens at the start of the template


def test_an_image_is_encoded_and_decoded(model):
    frames = vae.Frames(torch.rand(2, 1, 32, 48, 3))
    with torch.no_grad():
        made = vae.encode(model, frames)
        expected = model.component("vae").encode(frames.tensor[:, 0].permute(0, 3, 1, 2) * 2 - 1).latent_dist.mode()
    assert torch.allclose(made.tensor, (expected - 0.1159) * 0.3611)
    assert (made.size.width, made.size.height) == (48, 32)
    with torch.no_grad():
        assert vae.decode(model, made).tensor.shape == frames.tensor.shape
