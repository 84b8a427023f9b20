"""The nodes' results equal those of diffusers' HunyuanVideoPipeline on the same weights.

With the pipeline's padding they are equal bit for bit.
"""

import json
import logging
from contextlib import nullcontext

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, HunyuanVideoPipeline, UniPCMultistepScheduler
from helpers import direct, in_process, node_facts, tiny_hunyuan_video
from helpers.direct import BOTH, DirectRun, Result, model_of, sample
from sgd.graph.contract.errors import NodeError
from sgd.nodes import cfg, latents, schedule, text, vae
from sgd.nodes.families import hunyuan_video
from sgd.nodes.families.hunyuan_video import MASK, Unmasked
from sgd.nodes.models.attention.processors import choose
from sgd.nodes.models.memory import tiling
from sgd.nodes.models.nodes.model_load import load
from sgd.nodes.support.cost_meter import meter, runtime
from sgd.nodes.values import ImageCondition

PROMPTS = ["a cat walks", "Rain &amp; wind,  over a   field {of} grass"]
PARTS = ("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2", "transformer", "vae")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_hunyuan_video.save(tmp_path_factory.mktemp("hunyuan") / "tiny")


@pytest.fixture(scope="module")
def model(folder):
    return model_of(folder)


def pipeline_of(model, scheduler=None):
    """The pipeline on the same modules (copies at other addresses may differ in the last bit)."""
    parts = {name: model.component(name) for name in PARTS}
    made = HunyuanVideoPipeline(**parts, scheduler=scheduler or FlowMatchEulerDiscreteScheduler(shift=7.0))
    made.set_progress_bar_config(disable=True)
    return made


def reference(
    pipeline, prompt, *, negative="", width=32, height=32, frames=9, steps=3, scale=1.0, embedded=6.0, seed=0, **options
):
    """Latents after every step, and the frames."""
    states = []

    def keep(_, index, timestep, values):
        states.append(values["latents"].clone())
        return {}

    seeds = seed if isinstance(seed, list) else [seed]
    generators = [torch.Generator("cpu").manual_seed(s) for s in seeds]
    made = pipeline(
        prompt=prompt,
        negative_prompt=[negative] * len(prompt),
        true_cfg_scale=scale,
        guidance_scale=embedded,
        width=width,
        height=height,
        num_frames=frames,
        num_inference_steps=steps,
        generator=generators if len(generators) > 1 else generators[0],
        max_sequence_length=64,
        output_type="np",
        callback_on_step_end=keep,
        **options,
    ).frames
    return states, torch.from_numpy(made)


def encode(model, prompt, negative="", run=None, **options):
    with torch.no_grad():
        return text.encode(run or DirectRun(), BOTH, model, prompt, negative=[negative], max_length=64, **options)


def generate(
    model,
    prompt,
    *,
    negative="",
    padding="keep",
    width=32,
    height=32,
    frames=9,
    batch=None,
    seed=0,
    steps=3,
    scale=1.0,
    embedded=6.0,
    scheduler="auto",
    shift=None,
    **split,
):
    seeds, count = seed if isinstance(seed, list) else [seed], batch or len(prompt)
    conditioning = encode(model, prompt, negative, padding=padding)
    with torch.no_grad():
        noise = latents.noise(model, width=width, height=height, frames=frames, batch=count, seed=seeds)
        plan = schedule.make(model, steps=steps, scheduler=scheduler, shift=shift)
        states = sample(model, plan, noise, cfg.split(conditioning, scale=scale, embedded=embedded, **split))
        return Result(states, vae.decode(model, states[-1]))


def assert_same(result, expected):
    states, frames = expected
    assert len(result.states) == len(states)
    for index, (ours, theirs) in enumerate(zip(result.states, states, strict=True)):
        assert torch.equal(ours.tensor, theirs), f"latents differ after step {index}"
    assert result.frames.tensor.dtype == torch.float32
    assert torch.equal(result.frames.tensor, frames)


def assert_close(result, expected):
    states, frames = expected
    for ours, theirs in zip(result.states, states, strict=True):
        assert (ours.tensor - theirs).abs().max() <= 1e-5 * theirs.abs().max()
    assert (result.frames.tensor - frames).abs().max() <= 1e-5


@pytest.mark.parametrize("size", [(32, 32, 9), (48, 32, 10)], ids=["square", "wide-rounded"])
@pytest.mark.parametrize("prompts", [1, 2])
@pytest.mark.parametrize("scale", [1.0, 4.0], ids=["unguided", "guided"])
def test_latents_and_frames_equal_those_of_the_pipeline(model, scale, prompts, size):
    width, height, frames = size
    given = {"width": width, "height": height, "frames": frames, "scale": scale, "negative": "blurred", "seed": 3}
    expected = reference(pipeline_of(model), PROMPTS[:prompts], **given)
    assert_same(generate(model, PROMPTS[:prompts], **given), expected)
    assert_close(generate(model, PROMPTS[:prompts], padding="cut", **given), expected)


@pytest.mark.parametrize("padding", ["cut", "keep"])
@pytest.mark.parametrize("prompts", [1, 2])
def test_batched_evaluation_differs_by_rounding_only(model, padding, prompts):
    """The prompts of the two branches differ in length, so the shorter one is padded again."""
    expected = reference(pipeline_of(model), PROMPTS[:prompts], negative="blurred", scale=4.0)
    made = generate(model, PROMPTS[:prompts], negative="blurred", scale=4.0, padding=padding, batched=True)
    assert_close(made, expected)


def test_each_input_changes_the_clip(model):
    """Another prompt, negative prompt, scale or embedded scale gives another clip."""
    given = {"negative": "blurred", "scale": 4.0}
    plain = generate(model, PROMPTS[:1], **given).states[-1].tensor
    changes = [{"negative": "dark"}, {"scale": 2.0}, {"scale": 1.0}, {"embedded": 1.0}]
    others = [generate(model, PROMPTS[:1], **given | change) for change in changes]
    others.append(generate(model, PROMPTS[1:], **given))
    assert all((plain - other.states[-1].tensor).abs().max() > 1e-4 for other in others)


def test_several_seeded_clips_of_each_prompt_equal_the_pipeline(model):
    seeds = [1, 2, 3, 4]
    expected = reference(pipeline_of(model), PROMPTS, seed=seeds, num_videos_per_prompt=2)
    assert_same(generate(model, PROMPTS, seed=seeds, batch=4), expected)
    assert_close(generate(model, PROMPTS, seed=seeds, batch=4, padding="cut"), expected)


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("shift", [None, 3.0])
def test_noise_levels_equal_those_of_the_pipeline(model, steps, shift):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift or 7.0)
    expected = reference(pipeline_of(model, scheduler), PROMPTS[:1], steps=steps, frames=1)
    assert_same(generate(model, PROMPTS[:1], steps=steps, shift=shift, frames=1), expected)


def test_other_solvers_equal_the_pipeline_or_give_finite_latents(model):
    solver = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=7.0)
    expected = reference(pipeline_of(model, solver), PROMPTS[:1], steps=5, frames=1)
    assert_same(generate(model, PROMPTS[:1], steps=5, frames=1, scheduler="unipc"), expected)
    made = generate(model, PROMPTS[:1], steps=5, frames=1, scheduler="dpm++")  # the pipeline cannot use this one
    assert made.states[-1].tensor.isfinite().all()


@pytest.mark.parametrize(
    "parts",
    [("transformer",), ("text_encoder", "text_encoder_2"), ("text_encoder", "text_encoder_2", "transformer", "vae")],
)
def test_low_precision_keeps_the_casts_of_the_pipeline(folder, parts):
    model = model_of(folder, **dict.fromkeys(parts, "bfloat16"))
    expected = reference(pipeline_of(model), PROMPTS, scale=4.0, embedded=6.1)
    assert_same(generate(model, PROMPTS, scale=4.0, embedded=6.1), expected)


@pytest.mark.parametrize("frames", range(1, 10))
def test_frames_are_rounded_as_in_the_pipeline(model, frames):
    states, video = reference(pipeline_of(model), PROMPTS[:1], frames=frames, steps=1)
    made = latents.noise(model, width=32, height=32, frames=frames)
    assert made.tensor.shape == states[0].shape
    assert made.size.frames == video.shape[1]
    problems = list(
        node_facts.check(latents.noise, model={"family": "hunyuan-video"}, width=32, height=32, frames=frames)
    )
    assert [p.severity for p in problems] == ["warning"] * (frames not in (1, 5, 9))


@pytest.mark.parametrize(("width", "height", "parameter"), [(40, 32, "width"), (32, 8, "height")])
def test_sizes_that_the_pipeline_refuses_are_an_error(model, width, height, parameter):
    with pytest.raises(ValueError, match="divisible by 16"):
        reference(pipeline_of(model), PROMPTS[:1], width=width, height=height)
    with pytest.raises(NodeError, match=f"the {parameter} 40|{parameter} of 8 is"):
        latents.noise(model, width=width, height=height, frames=9)
    given = {"width": width, "height": height, "frames": 9}
    (problem,) = node_facts.check(latents.noise, model={"family": "hunyuan-video"}, **given)
    assert (problem.code, problem.parameter, problem.severity) == ("bad-value", parameter, "error")


def test_noise_records_its_number_of_tokens(model, run):
    latents.noise(model, width=48, height=32, frames=9, run=run)
    assert run.details["tokens"] == 3 * (32 // 16) * (48 // 16)


# Text


@pytest.mark.parametrize("length", [None, 8])
def test_embeddings_equal_those_of_the_pipeline(model, run, length):
    with torch.no_grad():
        made = text.encode(run, BOTH, model, PROMPTS, negative=["dark"], max_length=length, padding="keep")
        for prompt, encoded in ((PROMPTS, made.positive), (["dark"] * 2, made.negative)):
            embeddings, pooled, mask = pipeline_of(model).encode_prompt(prompt, max_sequence_length=length or 256)
            assert torch.equal(encoded["encoder_hidden_states"], embeddings)
            assert torch.equal(encoded["pooled_projections"], pooled)
            assert torch.equal(encoded[MASK], mask)
            assert mask.shape == (2, length or 256)


def test_padding_is_cut_to_the_longest_prompt(model):
    kept, cut = (encode(model, PROMPTS, padding=padding).positive for padding in ("keep", "cut"))
    lengths = kept[MASK].sum(dim=1).tolist()
    assert lengths[0] < lengths[1] < 64
    assert cut[MASK].tolist() == kept[MASK][:, : lengths[1]].tolist()
    assert torch.equal(cut["encoder_hidden_states"], kept["encoder_hidden_states"][:, : lengths[1]])
    assert torch.equal(cut["pooled_projections"], kept["pooled_projections"])
    assert encode(model, PROMPTS[:1]).positive[MASK].shape == (1, lengths[0])


def test_a_prompt_that_does_not_fit_gives_one_warning(model, run, caplog):
    with torch.no_grad(), caplog.at_level(logging.WARNING):
        text.encode(run, BOTH, model, ["a cat on a mat " * 6], max_length=30)
        text.encode(run, BOTH, model, ["a cat"], max_length=6)
        text.encode(run, BOTH, model, ["a cat"], max_length=4)  # only the end of the template is cut
    quoted = [warning.split("“")[1].split("”")[0] for warning in run.warnings]
    assert len(quoted) == 1
    assert ("a cat on a mat " * 6).replace(" ", "").endswith(quoted[0].replace(" ", "").replace("#", ""))
    assert "longer than 30 tokens" in run.warnings[0]
    assert not caplog.records


# The mask


@pytest.fixture
def masks(monkeypatch):
    """Shapes of the masks that the transformer's attention receives, None for calls without a mask."""
    seen, attention = [], torch.nn.functional.scaled_dot_product_attention

    def spy(query, key, value, attn_mask=None, **options):
        if query.shape[-1] == 10:  # the transformer's heads, not those of the text encoders
            seen.append(None if attn_mask is None else tuple(attn_mask.shape))
        return attention(query, key, value, attn_mask=attn_mask, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    return seen


@pytest.mark.parametrize(
    ("prompts", "padding", "masked"), [(1, "cut", False), (1, "keep", True), (2, "cut", True), (2, "keep", True)]
)
def test_no_mask_reaches_attention_if_nothing_is_padded(model, masks, prompts, padding, masked):
    generate(model, PROMPTS[:prompts], padding=padding, steps=1)
    assert [mask is not None for mask in masks] == [masked] * 5  # one block refines the text, four see the image


def test_equal_lengths_in_a_batch_need_no_mask(model, masks):
    generate(model, ["a cat walks", "a dog waits"], padding="cut", steps=1)
    assert masks == [None] * 5


def test_a_backend_can_be_chosen_while_the_transformer_is_called(folder):
    """The measurement of the fastest backend chooses one during the first call, on its shapes."""
    model = model_of(folder)
    transformer, conditioning = model.component("transformer"), encode(model, PROMPTS[:1])
    noise, step = latents.noise(model, width=32, height=32), schedule.make(model, steps=1).steps[0]
    transformer.register_forward_pre_hook(lambda module, _: choose(module, "_native_math"))
    with torch.no_grad():
        direct.predict(model, noise, step, cfg.split(conditioning, scale=1.0, embedded=6.0))
    blocks = (*transformer.transformer_blocks, *transformer.single_transformer_blocks)
    assert {block.attn.processor._attention_backend.value for block in blocks} == {"_native_math"}


def test_a_kernel_without_masks_works_if_no_padding_is_left(folder, monkeypatch):
    """torch's attention replaces a kernel that diffusers does not have."""
    from sgd.nodes.models.attention import kernels

    def kernel(query, key, value, scale, causal):
        query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
        made = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=causal, scale=scale)
        return made.transpose(1, 2).contiguous()

    monkeypatch.setattr(kernels, "KERNELS", {**kernels.KERNELS, "_sgd_unmasked": kernel})
    plain, model = model_of(folder), model_of(folder)
    choose(model.component("transformer"), "_sgd_unmasked")
    expected = generate(plain, PROMPTS[:1], padding="cut")
    assert_close(
        generate(model, PROMPTS[:1], padding="cut"), ([s.tensor for s in expected.states], expected.frames.tensor)
    )
    with pytest.raises(ValueError, match="takes no attention mask"):
        generate(model, PROMPTS[:1], padding="keep")


def test_processors_are_restored_after_an_error(model):
    transformer = model.component("transformer")
    before = dict(transformer.attn_processors)
    conditioning = encode(model, PROMPTS[:1])
    step = schedule.make(model, steps=1).steps[0]
    noise = latents.noise(model, width=32, height=32, frames=9)
    inside = []
    hook = transformer.register_forward_pre_hook(lambda m, _: inside.append(m.transformer_blocks[0].attn.processor))
    failing = transformer.single_transformer_blocks[-1].register_forward_pre_hook(lambda *_: 1 / 0)
    try:
        with torch.no_grad(), pytest.raises(ZeroDivisionError):
            direct.predict(model, noise, step, cfg.split(conditioning, scale=1.0, embedded=6.0))
    finally:
        hook.remove()
        failing.remove()
    assert isinstance(inside[0], Unmasked)
    assert transformer.attn_processors == before


# Errors, planning, other directions


def test_missing_and_unexpected_embedded_guidance_are_an_error(model, tmp_path):
    with pytest.raises(NodeError, match="takes a guidance scale") as caught:
        generate(model, PROMPTS[:1], embedded=None)
    assert "6.0" in caught.value.help
    plain = model_of(tiny_hunyuan_video.save(tmp_path / "plain", guidance_embeds=False))
    with pytest.raises(NodeError, match="takes no guidance scale"):
        generate(plain, PROMPTS[:1])
    assert_same(generate(plain, PROMPTS[:1], embedded=None), reference(pipeline_of(plain), PROMPTS[:1]))


def test_an_image_is_an_error(model):
    branches = cfg.split(encode(model, PROMPTS[:1]), scale=1.0, embedded=6.0)
    noise, step = latents.noise(model, width=32, height=32), schedule.make(model, steps=1).steps[0]
    with pytest.raises(NodeError, match="takes no image"):
        direct.predict(model, noise, step, branches, image=ImageCondition({}, "hunyuan-video"))


@pytest.mark.parametrize("options", [{}, {"padding": "cut"}, {"padding": "cut", "batched": True, "scale": 4.0}])
def test_the_whole_workflow_is_planned_on_meta_tensors(folder, model, options):
    """Shapes and dtypes of a plan equal those of the run, also for text with cut padding."""
    run = DirectRun()
    run.device, run.planning, run.options = "meta", True, {"device": "cpu"}
    traced = load(run, str(folder), dtype="float32")
    for part in traced.parts():
        traced.acquire(part, run)
    with runtime(run):
        planned = generate(traced, PROMPTS, negative="dark", **options)
        words = encode(traced, PROMPTS[:1]).positive
    made = generate(model, PROMPTS, negative="dark", **options)
    assert planned.frames.tensor.is_meta
    pairs = [(p.tensor, m.tensor) for p, m in zip(planned.states, made.states, strict=True)]
    pairs.append((planned.frames.tensor, made.frames.tensor))
    pairs += [(words[name], tensor) for name, tensor in encode(model, PROMPTS[:1]).positive.items()]
    assert [(p.shape, p.dtype) for p, _ in pairs] == [(m.shape, m.dtype) for _, m in pairs]


@pytest.mark.parametrize("direction", ["decode", "encode"])
def test_tracing_one_tile_of_each_shape_counts_every_tile(folder, direction, monkeypatch):
    """Operations and peak memory equal those of a plan that traces every tile."""
    run = DirectRun()
    run.device, run.planning, run.options = "meta", True, {"device": "cpu"}
    model = load(run, str(folder), dtype="float32")
    counted, calls = [], []
    for part in model.parts():
        model.acquire(part, run)
    block = getattr(model.component("vae"), f"{direction}r").conv_in
    block.register_forward_hook(lambda *_: calls.append(1))
    for once in (True, False):
        if not once:
            for module in (hunyuan_video, tiling):
                monkeypatch.setattr(module, "traced_once", lambda owner, name: nullcontext())
        with runtime(run), meter(run) as counter:
            if direction == "decode":
                vae.decode(model, latents.noise(model, width=512, height=288, frames=29), tiling=True)
            else:
                vae.encode(model, vae.Frames(torch.empty(1, 29, 288, 512, 3, device="meta")), tiling=True)
            counted.append(counter.take())
        calls.append(None)
    short, long = calls.index(None), len(calls) - calls.index(None) - 2
    assert short < long
    one_of_each, every_tile = counted
    assert one_of_each["flops"] == every_tile["flops"]
    assert one_of_each["peak_bytes"] == pytest.approx(every_tile["peak_bytes"], rel=1e-4)


def test_encoding_frames_reverses_the_scaling_of_decoding(model):
    frames = torch.rand(1, 9, 32, 48, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        made = vae.encode(model, vae.Frames(frames))
        coder = model.component("vae")
        expected = coder.encode(frames.permute(0, 4, 1, 2, 3) * 2 - 1).latent_dist.mode() * 0.476986
    assert torch.equal(made.tensor, expected)
    assert made.tensor.shape == latents.noise(model, width=48, height=32, frames=9).tensor.shape


# Workflow files


@pytest.mark.slow
def test_the_workflow_file_makes_a_video(folder, model, tmp_path):
    import av

    words = ("width=48", "height=32", "frames=9", "steps=3", "scale=4.0", "negative=blurred", "seed=3", "cache=0")
    done = in_process.sgd(
        "exec", "hunyuan_video", f"prompt={PROMPTS[0]}", *words, "--set", f"model.source={folder}", "--set",
        "text.padding=keep", "--set", "text.max_length=64", "--device", "cpu", "--out", str(tmp_path / "run"), "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["outputs"] == {"video": ["hunyuan-video-3.mp4"]}
    (noise,) = (node for node in record["nodes"] if node["name"] == "noise")
    assert noise["detail"]["tokens"] == 3 * 2 * 3
    with av.open(tmp_path / "run" / "hunyuan-video-3.mp4") as video:
        shown = torch.stack([torch.from_numpy(f.to_ndarray(format="rgb24")) for f in video.decode(video=0)]) / 255
    given = {"width": 48, "height": 32, "frames": 9, "scale": 4.0, "negative": "blurred", "seed": 3}
    _, frames = reference(pipeline_of(model), PROMPTS[:1], **given)
    assert shown.shape == frames[0].shape
    assert (shown - frames[0]).abs().mean() < 0.1  # the codec loses colour


@pytest.fixture(scope="module")
def full_size():
    """The plan of the bundled file, with the pipeline's padding."""
    import sgd
    from sgd.graph.runtime.estimate import estimate

    plan = sgd.compile("hunyuan_video", inputs={"prompt": "a boat"}, set={"text.padding": "keep"})
    return estimate(plan, device="cpu")


@pytest.mark.slow
def test_the_plan_at_full_size_has_the_published_numbers(full_size):
    """13 B parameters as published (2412.03603); operations of the padded sequence counted by hand."""
    sizes = {c["part"]: c["parameters"] for c in full_size["components"]}
    assert sizes["transformer"] == 12_821_012_544
    rows = {row["name"]: row for row in full_size["nodes"]}
    image, words, d = 33 * 45 * 80, 256, 3072
    assert rows["noise"]["detail"]["tokens"] == image == 118_800
    both = image + words
    # In units of d * d weights: 4 for attention and 8 for the feed-forward; a single block's output takes both.
    linear = 2 * both * d * d * (20 * (4 + 8) + 40 * (3 + 4 + 5))
    attention = 60 * 4 * both * both * d
    patches = 2 * image * d * (64 + 64)
    assert rows["denoise.velocity"]["calls"] == 50
    assert rows["denoise.velocity"]["flops"] / 50 == pytest.approx(linear + attention + patches, rel=1e-4)
    assert full_size["peak_bytes"] > 4 * sizes["transformer"]
