"""The nodes' results equal those of diffusers' FluxPipeline on the same weights."""

import pytest
import torch
from diffusers import FluxPipeline, UniPCMultistepScheduler
from helpers import node_facts, tiny_flux
from helpers.direct import BOTH, DirectRun, model_of
from helpers.imaging import PROMPTS, assert_close, assert_same, generate, planned, reference, shapes
from sgd.graph.contract.errors import NodeError
from sgd.nodes import cfg, latents, schedule, text, vae

KINDS = {"fixed": {}, "dynamic": {"use_dynamic_shifting": True}, "schnell": {"guidance": False, "shift": 1.0}}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}
    for name, options in KINDS.items():
        made[name] = tmp_path_factory.mktemp("flux") / name
        tiny_flux.build(**options).save_pretrained(made[name])
    return made


@pytest.fixture(scope="module")
def models(folders):
    return {name: model_of(folder) for name, folder in folders.items()}


@pytest.fixture(scope="module")
def model(models):
    return models["dynamic"]


def pipeline_of(model, **parts):
    made = FluxPipeline(**({name: model.component(name) for name in model.parts()} | parts))
    made.set_progress_bar_config(disable=True)
    return made


@pytest.mark.parametrize("size", [(32, 32), (50, 35)], ids=["square", "wide-rounded"])
@pytest.mark.parametrize("prompts", [1, 2])
@pytest.mark.parametrize("scale", [1.0, 4.0], ids=["unguided", "guided"])
@pytest.mark.parametrize("kind", ["fixed", "dynamic"])
def test_latents_and_frames_equal_those_of_the_pipeline(models, kind, scale, prompts, size):
    model, (width, height) = models[kind], size
    expected = reference(
        pipeline_of(model),
        PROMPTS[:prompts],
        negative_prompt=["dark"] * prompts,
        true_cfg_scale=scale,
        guidance_scale=2.5,
        width=width,
        height=height,
        seed=3,
    )
    given = {"negative": "dark", "scale": scale, "embedded": 2.5, "width": width, "height": height, "seed": [3]}
    assert_same(generate(model, PROMPTS[:prompts], **given), expected)
    if scale > 1:
        assert_close(generate(model, PROMPTS[:prompts], batched=True, **given), expected)


def test_guidance_and_prompts_change_the_result(model):
    def made(prompt, **options):
        return generate(model, [prompt], **options).frames.tensor

    plain = made("a", scale=1.0, embedded=3.5)
    for other in (
        made("b", scale=1.0, embedded=3.5),
        made("a", scale=1.0, embedded=9.0),
        made("a", scale=4.0, embedded=3.5),
    ):
        assert (plain - other).abs().max() > 1e-4


def test_a_model_without_embedded_guidance_equals_the_pipeline(models):
    expected = reference(pipeline_of(models["schnell"]), PROMPTS, guidance_scale=0.0)
    assert_same(generate(models["schnell"], PROMPTS, scale=1.0), expected)


@pytest.mark.parametrize(("kind", "embedded"), [("dynamic", None), ("schnell", 3.5)])
def test_missing_and_unexpected_embedded_guidance_are_an_error(models, kind, embedded):
    with pytest.raises(NodeError, match="as an input") as caught:
        generate(models[kind], PROMPTS[:1], scale=1.0, embedded=embedded)
    assert "embedded" in caught.value.help


def test_several_seeded_images_of_each_prompt_equal_the_pipeline(model):
    expected = reference(pipeline_of(model), PROMPTS, num_images_per_prompt=2, seed=[1, 2, 3, 4])
    assert_same(generate(model, PROMPTS, scale=1.0, embedded=3.5, batch=4, seed=[1, 2, 3, 4]), expected)


@pytest.mark.parametrize("steps", [1, 2, 8])
def test_other_numbers_of_steps_equal_the_pipeline(model, steps):
    expected = reference(pipeline_of(model), PROMPTS[:1], num_inference_steps=steps)
    assert_same(generate(model, PROMPTS[:1], scale=1.0, embedded=3.5, steps=steps), expected)


def test_another_solver_uses_the_shift_of_the_size(model):
    solver = UniPCMultistepScheduler(
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        use_dynamic_shifting=True,
        time_shift_type="exponential",
    )
    expected = reference(pipeline_of(model, scheduler=solver), PROMPTS[:1], num_inference_steps=5)
    assert_same(generate(model, PROMPTS[:1], scale=1.0, embedded=3.5, steps=5, scheduler="unipc"), expected)


def test_a_given_shift_replaces_the_shift_of_the_size(models):
    noise = latents.noise(models["dynamic"], width=32, height=32)
    given = schedule.make(models["dynamic"], steps=4, shift=3.0, latents=noise)
    assert [s.sigma for s in given] == [s.sigma for s in schedule.make(models["fixed"], steps=4)]
    with pytest.raises(NodeError, match="depend on the image's width"):
        schedule.make(models["dynamic"], steps=4)


def test_bfloat16_keeps_the_casts_of_the_pipeline(folders):
    parts = ("transformer", "text_encoder", "text_encoder_2", "vae")
    model = model_of(folders["dynamic"], **dict.fromkeys(parts, "bfloat16"))
    expected = reference(pipeline_of(model), PROMPTS, negative_prompt=["", ""], true_cfg_scale=4.0)
    # The pipeline draws its noise in the precision of the text encoder.
    assert_same(generate(model, PROMPTS, scale=4.0, embedded=3.5, dtype="bfloat16"), expected)


def test_a_separately_loaded_pipeline_differs_by_rounding_only(model, folders):
    pipeline = FluxPipeline.from_pretrained(folders["dynamic"])
    pipeline.set_progress_bar_config(disable=True)
    assert_close(generate(model, PROMPTS[:1], scale=1.0, embedded=3.5), reference(pipeline, PROMPTS[:1]))


def test_a_size_is_rounded_with_a_warning(model):
    known = {"model": {"family": "flux", "configs": {p: model.config(p) for p in ("vae", "transformer")}}}
    problems = list(node_facts.check(latents.noise, **known, width=50, height=35, frames=1))
    assert [(p.parameter, p.severity) for p in problems] == [("width", "warning"), ("height", "warning")]
    assert node_facts.describe(latents.noise, **known, width=50, height=35, frames=1)["size"] == [48, 32, 1]


@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("batched", [False, True])
def test_a_plan_has_the_shapes_of_a_run(models, folders, scale, batched):
    options = {"scale": scale, "embedded": 3.5, "batched": batched, "width": 48}
    made = generate(models["dynamic"], PROMPTS, **options)
    assert shapes(planned(folders["dynamic"], PROMPTS, **options)) == shapes(made)


def test_words_that_do_not_fit_are_quoted(model, capsys):
    run = DirectRun()
    with torch.no_grad():
        made = text.encode(run, BOTH, model, ["a red circle and a blue square"], negative=[""], max_length=16)
        text.encode(run, BOTH, model, ["word " * 20], negative=[""], max_length=300)  # too long for CLIP only
    assert made.positive["embeddings"].shape == (1, 16, 32)
    assert len(run.warnings) == 2
    assert "16 tokens, all that T5" in run.warnings[0]
    assert "square”" in run.warnings[0]
    assert "77 tokens, all that CLIP" in run.warnings[1]
    assert capsys.readouterr().err == ""


def test_text_encode_reads_every_text_encoder_of_the_model():
    both = ("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2")
    assert node_facts.reads(text.encode, model={"components": dict.fromkeys((*both, "vae"), "")}) == {"model": both}
    assert node_facts.reads(text.encode, model={"components": dict.fromkeys(both[:2], "")}) == {"model": both[:2]}
    assert node_facts.reads(text.encode) == {}


def test_a_model_without_a_second_text_encoder_needs_none(wan_folder):
    model = model_of(wan_folder, "tokenizer")
    for part in ("tokenizer_2", "text_encoder_2"):
        model.acquire(part, DirectRun())
        model.prefetch(part, DirectRun())
        model.release(part)
    with pytest.raises(NodeError, match="no component vae_2"):
        model.acquire("vae_2", DirectRun())


def test_an_image_is_encoded_and_decoded(model):
    frames = vae.Frames(torch.rand(2, 1, 32, 48, 3))
    with torch.no_grad():
        made = vae.encode(model, frames)
        expected = model.component("vae").encode(frames.tensor[:, 0].permute(0, 3, 1, 2) * 2 - 1).latent_dist.mode()
        packed = FluxPipeline._pack_latents((expected - 0.1159) * 0.3611, 2, 4, 16, 24)
        assert torch.allclose(made.tensor, packed)
        assert vae.decode(model, made).tensor.shape == frames.tensor.shape


def test_embedded_guidance_of_another_family_is_an_error():
    (problem,) = node_facts.check(cfg.split, conditioning={"family": "z-image"}, embedded=3.5, scale=1.0, guider="cfg")
    assert (problem.code, problem.parameter) == ("unsupported", "embedded")
