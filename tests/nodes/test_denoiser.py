"""denoiser.predict: rows of text for each clip, gates, first frames, and errors."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers import direct, node_facts, tiny
from helpers.direct import BOTH, DirectRun, model_of
from sgd.graph.contract.errors import NodeError
from sgd.graph.contract.node import Here
from sgd.nodes import cfg, denoiser, latents, schedule, text
from sgd.nodes.cache.methods.no_gate import none
from sgd.nodes.cfg import GuiderState
from sgd.nodes.schedule import SchedulerState
from sgd.nodes.values import ImageCondition


@pytest.fixture
def parts(wan_model):
    with torch.no_grad():
        conditioning = text.encode(DirectRun(), BOTH, wan_model, ["a cat", "a dog"], negative=["dark"], max_length=16)
    noise = latents.noise(wan_model, width=32, height=32, frames=9, batch=2, seed=[1, 2])
    step = schedule.make(wan_model, steps=4).steps[1]
    return conditioning, noise, step


def predict(model, noise, step, branches, **options):
    with torch.no_grad():
        return direct.predict(model, noise, step, branches, **options)


def test_predictions_equal_the_output_of_the_transformer(wan_model, parts):
    conditioning, noise, step = parts
    made = predict(wan_model, noise, step, cfg.split(conditioning, scale=5.0))
    assert made.step is step
    assert list(made.branches) == ["positive", "negative"]
    for name in ("positive", "negative"):
        with torch.no_grad():
            expected = wan_model.component("transformer")(
                noise.tensor,
                torch.full((2,), step.timestep),
                getattr(conditioning, name)["encoder_hidden_states"],
            ).sample
        assert torch.equal(made.branches[name], expected)


def test_batching_calls_the_transformer_once(wan_model, parts):
    conditioning, noise, step = parts
    batches = []
    hook = wan_model.component("transformer").register_forward_hook(lambda *a: batches.append(a[2][0].shape[0]))
    try:
        predict(wan_model, noise, step, cfg.split(conditioning, scale=5.0))
        predict(wan_model, noise, step, cfg.split(conditioning, scale=5.0, batched=True))
        predict(wan_model, noise, step, cfg.split(conditioning, scale=1.0, batched=True))
    finally:
        hook.remove()
    assert batches == [2, 2, 4, 2]


def test_batched_branches_are_not_mixed_up(wan_model, parts):
    conditioning, noise, step = parts
    apart = predict(wan_model, noise, step, cfg.split(conditioning, scale=5.0)).branches
    together = predict(wan_model, noise, step, cfg.split(conditioning, scale=5.0, batched=True)).branches
    assert (apart["positive"] - apart["negative"]).abs().max() > 1e-3
    for name in apart:
        assert torch.allclose(apart[name], together[name], atol=1e-5)


def test_cache_none_changes_no_prediction(wan_model, parts):
    conditioning, noise, step = parts
    branches = cfg.split(conditioning, scale=5.0)
    plain, gated = (predict(wan_model, noise, step, branches, gate=g).branches for g in (None, none(Here("gate"))))
    assert all(torch.equal(plain[name], gated[name]) for name in plain)


def test_prompts_that_do_not_divide_the_clips_evenly_are_an_error(wan_model, parts):
    conditioning, _noise, step = parts
    three = latents.noise(wan_model, width=32, height=32, frames=9, batch=3)
    with pytest.raises(NodeError, match="2 prompts cannot be divided evenly among 3 clips"):
        predict(wan_model, three, step, cfg.split(conditioning, scale=5.0))
    (problem,) = node_facts.check(denoiser.predict, branches={"prompts": 2}, latents={"batch": 1})
    assert (problem.code, problem.help) == ("bad-value", "give latents.noise `batch: 2`")
    assert not list(node_facts.check(denoiser.predict, branches={"prompts": 2}, latents={"batch": 4}, image=None))
    assert not list(node_facts.check(denoiser.predict, branches={"prompts": 2}))


def test_values_of_another_family_are_an_error(wan_model, parts):
    conditioning, noise, step = parts
    branches = cfg.split(conditioning, scale=5.0)
    with pytest.raises(NodeError, match="latents made for flux"):
        predict(wan_model, replace(noise, family="flux"), step, branches)
    with pytest.raises(NodeError, match="image made for flux"):
        predict(wan_model, noise, step, branches, image=ImageCondition({}, "flux"))
    (problem,) = node_facts.check(denoiser.predict, model={"family": "wan"}, latents={"family": "flux"})
    assert (problem.code, problem.parameter) == ("unsupported", "latents")


def test_a_missing_negative_prompt_is_an_error(wan_model, parts):
    conditioning, noise, step = parts
    with pytest.raises(NodeError, match="negative prompt was not encoded"):
        predict(wan_model, noise, step, cfg.split(replace(conditioning, negative=None), scale=5.0))


@pytest.mark.parametrize("embedding", [True, False], ids=["wan-2.1", "wan-2.2"])
def test_a_first_frame_reaches_the_transformer_as_in_the_pipeline(wan_model, wan_folder, parts, embedding):
    """The image-to-video pipeline makes the condition; this test only uses it."""
    from diffusers import FlowMatchEulerDiscreteScheduler, WanImageToVideoPipeline

    options = {"image_dim": 4, "added_kv_proj_dim": 24} if embedding else {}
    transformer = tiny.wan_transformer(channels=36, **options)
    pipeline: Any = WanImageToVideoPipeline(
        **{name: wan_model.component(name) for name in ("tokenizer", "text_encoder", "vae")},
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        transformer=transformer,
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.encode_image = lambda image, device: embeds  # in place of CLIP
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    embeds = torch.randn(1, 257, 4, generator=torch.Generator().manual_seed(1)) if embedding else None
    length = 512 if embedding else 16  # with an embedding, the transformer takes only this length
    given = {"height": 32, "width": 32, "num_frames": 9, "output_type": "latent", "max_sequence_length": length}
    expected = pipeline(
        picture,
        ["a cat", "a dog"],
        ["dark", "dark"],
        num_inference_steps=3,
        generator=[torch.Generator().manual_seed(s) for s in (1, 2)],
        **given,
    ).frames

    _, noise, _ = parts
    with torch.no_grad():
        prompts, run = ["a cat", "a dog"], DirectRun()
        conditioning = text.encode(run, BOTH, wan_model, prompts, negative=["dark"], max_length=length)
    _, condition = pipeline.prepare_latents(picture * 2 - 1, 1, 16, 32, 32, 9, torch.float32, torch.device("cpu"))
    tensors = {"latents": condition} | ({"embedding": embeds} if embedding else {})
    model = _Image(wan_model, transformer)
    plan = schedule.make(wan_model, steps=3, scheduler="euler")
    branches, scheduler, guider = cfg.split(conditioning, scale=5.0), SchedulerState(), GuiderState()
    for step in plan:
        predictions = predict(model, noise, step, branches, image=ImageCondition(tensors, "wan"))
        noise = schedule.step(plan, step, noise, cfg.merge(predictions, branches, guider), scheduler)
    assert torch.equal(noise.tensor, expected)
    with pytest.raises(NodeError, match="36 channels, but 16 were given without an image"):
        predict(model, noise, plan.steps[0], branches)
    with pytest.raises(NodeError, match="16 channels, but 36 were given with an image"):
        predict(wan_model, noise, plan.steps[0], branches, image=ImageCondition(tensors, "wan"))


class _Image:
    """The model with a transformer for image to video."""

    def __init__(self, model, transformer):
        self.model, self.transformer = model, transformer

    def __getattr__(self, name):
        return getattr(self.model, name)

    def component(self, name):
        return self.transformer if name == "transformer" else self.model.component(name)


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("scheduler", ["auto", "euler", "dpm++"])
def test_the_whole_workflow_is_planned_on_meta_tensors(wan_folder, scheduler, batched):
    """Shapes and dtypes of a plan equal those of the run."""
    from helpers.direct import generate

    given = {"width": 48, "height": 32, "frames": 9, "scheduler": scheduler, "batched": batched, "steps": 2}
    planned = generate(model_of(wan_folder, kind="meta", device="meta"), ["a cat", "a dog"], **given)
    made = generate(model_of(wan_folder), ["a cat", "a dog"], **given)
    assert planned.frames.tensor.is_meta
    for ours, theirs in zip(
        [s.tensor for s in planned.states] + [planned.frames.tensor],
        [s.tensor for s in made.states] + [made.frames.tensor],
        strict=True,
    ):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
