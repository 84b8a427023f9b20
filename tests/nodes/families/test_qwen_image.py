"""The nodes' results equal those of diffusers' QwenImagePipeline on the same weights."""

from functools import partial

import pytest
import torch
from diffusers import QwenImagePipeline
from helpers import imaging, node_facts, tiny_qwen_image
from helpers.direct import BOTH, DirectRun, model_of
from helpers.imaging import PROMPTS, assert_close, assert_same, shapes
from sgd.graph.contract.errors import NodeError
from sgd.nodes import cfg, latents, text, vae
from sgd.nodes.families import by_name

KINDS = {
    "fixed": {"shift": 3.0},
    "dynamic": {"use_dynamic_shifting": True, "max_image_seq_len": 8192, "max_shift": 0.9, "shift_terminal": 0.02},
}
# Tokens that the template adds to a prompt: the tokenizer makes one token per letter, and the pipeline drops 34.
TEMPLATE = 128
generate = partial(imaging.generate, max_length=TEMPLATE + 50)
planned = partial(imaging.planned, max_length=TEMPLATE + 50)
reference = partial(imaging.reference, max_sequence_length=TEMPLATE + 50)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}
    for name, options in KINDS.items():
        made[name] = tmp_path_factory.mktemp("qwen-image") / name
        tiny_qwen_image.build(**options).save_pretrained(made[name])
    return made


@pytest.fixture(scope="module")
def models(folders):
    return {name: model_of(folder) for name, folder in folders.items()}


@pytest.fixture(scope="module")
def model(models):
    return models["dynamic"]


def pipeline_of(model):
    made = QwenImagePipeline(**{name: model.component(name) for name in model.parts()})
    made.set_progress_bar_config(disable=True)
    return made


@pytest.mark.parametrize("size", [(32, 32), (50, 35)], ids=["square", "wide-rounded"])
@pytest.mark.parametrize("prompts", [1, 2])
@pytest.mark.parametrize("scale", [1.0, 4.0], ids=["unguided", "guided"])
@pytest.mark.parametrize("kind", KINDS)
def test_latents_and_frames_equal_those_of_the_pipeline(models, kind, scale, prompts, size):
    model, (width, height) = models[kind], size
    expected = reference(
        pipeline_of(model),
        PROMPTS[:prompts],
        negative_prompt=["dark"] * prompts,
        true_cfg_scale=scale,
        width=width,
        height=height,
        seed=3,
    )
    given = {"negative": "dark", "scale": scale, "width": width, "height": height, "seed": [3]}
    assert_same(generate(model, PROMPTS[:prompts], **given), expected)
    if scale > 1:
        assert_close(generate(model, PROMPTS[:prompts], batched=True, **given), expected)


def test_guidance_and_prompts_change_the_result(model):
    def made(prompt, **options):
        return generate(model, [prompt], **options).frames.tensor

    plain = made("a", scale=1.0)
    for other in (made("b", scale=1.0), made("a", scale=4.0)):
        assert (plain - other).abs().max() > 1e-4


def test_guided_tokens_keep_the_norm_of_the_positive_prediction():
    positive, guided = torch.randn(2, 3, 5, 8)
    made = by_name("qwen-image").normalise(guided, positive)
    assert torch.allclose(made.norm(dim=-1), positive.norm(dim=-1))
    assert torch.allclose(made / made.norm(dim=-1, keepdim=True), guided / guided.norm(dim=-1, keepdim=True))
    other = by_name("wan").normalise(guided, positive)
    assert other is guided


@pytest.mark.parametrize("zero_init_steps", [None, 1])
def test_normalising_a_prediction_of_zeros_is_an_error(zero_init_steps):
    known = {"conditioning": {"family": "qwen-image"}, "scale": 4.0, "guider": "cfg_zero_star"}
    (problem,) = node_facts.check(cfg.split, **known, zero_init_steps=zero_init_steps)
    assert (problem.code, problem.parameter) == ("unsupported", "guider")
    assert list(node_facts.check(cfg.split, **known, zero_init_steps=0)) == []


def test_other_guiders_are_normalised_too(model):
    with torch.no_grad():
        made = generate(model, PROMPTS[:1], scale=4.0, guider="cfg_zero_star", zero_init_steps=0)
    assert made.frames.tensor.isfinite().all()


def test_several_seeded_images_of_each_prompt_equal_the_pipeline(model):
    # Prompts of equal length: for others, the pipeline (diffusers 0.42) repeats masks in another order than prompts.
    prompts = ["a red circle", "a blue plane"]
    expected = reference(pipeline_of(model), prompts, num_images_per_prompt=2, seed=[1, 2, 3, 4])
    assert_same(generate(model, prompts, scale=1.0, batch=4, seed=[1, 2, 3, 4]), expected)


def test_each_image_of_a_batch_equals_the_image_alone(model):
    both = generate(model, PROMPTS, scale=1.0, batch=4, seed=[1, 2, 3, 4]).frames.tensor
    for index in range(4):
        alone = generate(model, [PROMPTS[index // 2]], scale=1.0, seed=[index + 1]).frames.tensor
        assert (both[index] - alone[0]).abs().max() <= 1e-5


def test_a_single_step_without_noise_levels_is_an_error(model):
    states, _ = reference(pipeline_of(model), PROMPTS[:1], num_inference_steps=1)
    assert states[-1].isnan().all()  # the pipeline makes NaN
    with pytest.raises(NodeError, match="does not support 1 step") as caught:
        generate(model, PROMPTS[:1], steps=1, scale=1.0)
    assert "more steps" in caught.value.help


@pytest.mark.parametrize("steps", [2, 8])
def test_other_numbers_of_steps_equal_the_pipeline(model, steps):
    expected = reference(pipeline_of(model), PROMPTS[:1], num_inference_steps=steps)
    assert_same(generate(model, PROMPTS[:1], scale=1.0, steps=steps), expected)


def test_bfloat16_keeps_the_casts_of_the_pipeline(folders):
    parts = ("transformer", "text_encoder", "vae")
    model = model_of(folders["dynamic"], **dict.fromkeys(parts, "bfloat16"))
    expected = reference(pipeline_of(model), PROMPTS, negative_prompt=["", ""], true_cfg_scale=4.0)
    # The pipeline draws its noise in the precision of the text encoder.
    assert_same(generate(model, PROMPTS, scale=4.0, dtype="bfloat16"), expected)


def test_a_separately_loaded_pipeline_differs_by_rounding_only(model, folders):
    pipeline = QwenImagePipeline.from_pretrained(folders["dynamic"])
    pipeline.set_progress_bar_config(disable=True)
    assert_close(generate(model, PROMPTS[:1], scale=1.0), reference(pipeline, PROMPTS[:1]))


def test_a_cut_prompt_gives_a_warning_and_equals_the_pipeline(model):
    prompt = "a red circle, " * 8
    expected = reference(pipeline_of(model), [prompt, "short"], max_sequence_length=150)
    run = DirectRun()
    assert_same(generate(model, [prompt, "short"], scale=1.0, max_length=150, run=run), expected)
    assert any(w.startswith("the positive prompt 1 of 2 is longer than 150 tokens") for w in run.warnings)


def test_a_size_is_rounded_with_a_warning(model):
    known = {"model": {"family": "qwen-image", "configs": {p: model.config(p) for p in ("vae", "transformer")}}}
    problems = list(node_facts.check(latents.noise, **known, width=50, height=35, frames=1))
    assert [(p.parameter, p.severity) for p in problems] == [("width", "warning"), ("height", "warning")]
    assert node_facts.describe(latents.noise, **known, width=50, height=35, frames=1)["size"] == [48, 32, 1]


@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("batched", [False, True])
def test_a_plan_has_the_shapes_of_a_run(models, folders, scale, batched):
    options = {"scale": scale, "batched": batched, "width": 48}
    made = generate(models["dynamic"], PROMPTS, **options)
    assert shapes(planned(folders["dynamic"], PROMPTS, **options)) == shapes(made)


def test_words_that_do_not_fit_are_quoted(model):
    run, prompt = DirectRun(), "a red circle"
    template = QwenImagePipeline(None, None, None, None, None).prompt_template_encode.format("")
    assert len(model.component("tokenizer")(template).input_ids) - 34 == TEMPLATE
    with torch.no_grad():
        text.encode(run, BOTH, model, [prompt], negative=[""], max_length=TEMPLATE + len(prompt))
        assert run.warnings == []
        # 13 tokens of the template follow the prompt.
        text.encode(run, BOTH, model, [prompt], negative=[""], max_length=TEMPLATE - 13 + 5)
    assert [w.split(", ")[2].split(";")[0] for w in run.warnings] == ["“circle”"]


def test_an_image_is_encoded_and_decoded(model):
    frames = vae.Frames(torch.rand(2, 1, 32, 48, 3))
    with torch.no_grad():
        made = vae.encode(model, frames)
        assert made.tensor.shape == (2, 4 * 6, 16)
        assert vae.decode(model, made).tensor.shape == frames.tensor.shape
        pixels = (frames.tensor.permute(0, 4, 1, 2, 3) * 2 - 1).contiguous()
        expected = model.component("vae").encode(pixels).latent_dist.mode()[:, :, 0]
    config = model.config("vae")
    mean, std = (torch.tensor(config[name]).view(1, 4, 1, 1) for name in ("latents_mean", "latents_std"))
    packed = QwenImagePipeline._pack_latents((expected - mean) / std, 2, 4, 8, 12)
    assert torch.allclose(made.tensor, packed, atol=1e-6)
