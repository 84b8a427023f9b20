"""The nodes' results equal those of diffusers' WanPipeline on the same weights.

The tests call the pipeline with its public arguments. Latents after every step are equal bit for bit if the nodes
evaluate the same batches as the pipeline.
"""

import pytest
import torch
from diffusers import WanPipeline
from helpers import node_facts
from helpers.direct import generate
from helpers.peer import PROMPTS, pipeline_of, reference
from sgd.nodes import latents


def assert_same(result, expected):
    states, frames = expected
    assert len(result.states) == len(states)
    for index, (ours, theirs) in enumerate(zip(result.states, states, strict=True)):
        assert torch.equal(ours.tensor, theirs), f"latents differ after step {index}"
    assert result.frames.tensor.dtype == torch.float32
    assert torch.equal(result.frames.tensor, frames)


@pytest.mark.parametrize("size", [(32, 32, 9), (48, 32, 10)], ids=["square", "wide-rounded"])
@pytest.mark.parametrize("prompts", [1, 2])
@pytest.mark.parametrize("scale", [5.0, 1.0], ids=["guided", "unguided"])
@pytest.mark.parametrize("scheduler", ["auto", "euler", "dpm++", "deis"])
def test_latents_and_frames_equal_those_of_the_pipeline(wan_model, scheduler, scale, prompts, size):
    width, height, frames = size
    given = {"width": width, "height": height, "frames": frames, "scale": scale, "negative": "blurred, dark"}
    expected = reference(pipeline_of(wan_model, scheduler), PROMPTS[:prompts], seed=3, **given)
    assert_same(generate(wan_model, PROMPTS[:prompts], scheduler=scheduler, seed=[3], **given), expected)


def test_guidance_changes_the_result(wan_model):
    """The parity above tests guidance only if guidance changes the result."""
    guided, unguided = (generate(wan_model, PROMPTS[:1], scale=scale).frames.tensor for scale in (5.0, 1.0))
    assert (guided - unguided).abs().max() > 1e-3


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("scheduler", ["unipc", "euler", "dpm++"])
def test_other_numbers_of_steps_equal_the_pipeline(wan_model, scheduler, steps):
    expected = reference(pipeline_of(wan_model, scheduler), PROMPTS[:1], steps=steps)
    assert_same(generate(wan_model, PROMPTS[:1], scheduler=scheduler, steps=steps), expected)


@pytest.mark.parametrize("frames", range(1, 10))
def test_frames_are_rounded_as_in_the_pipeline(wan_model, frames):
    states, _ = reference(pipeline_of(wan_model), PROMPTS[:1], frames=frames, steps=1, scale=1.0)
    described = node_facts.describe(latents.noise, model={"family": "wan"}, width=32, height=32, frames=frames)
    made = latents.noise(wan_model, width=32, height=32, frames=frames)
    assert made.tensor.shape == states[0].shape
    assert described["size"] == [32, 32, made.size.frames]


def test_clips_with_a_seed_each_equal_the_pipeline(wan_model):
    expected = reference(pipeline_of(wan_model), PROMPTS, seed=[5, 6])
    assert_same(generate(wan_model, PROMPTS, seed=[5, 6]), expected)


def test_several_clips_of_each_prompt_equal_the_pipeline(wan_model):
    expected = reference(pipeline_of(wan_model), PROMPTS, seed=[1, 2, 3, 4], num_videos_per_prompt=2)
    assert_same(generate(wan_model, PROMPTS, seed=[1, 2, 3, 4], batch=4), expected)


def test_one_negative_prompt_serves_all_prompts(wan_model):
    expected = reference(pipeline_of(wan_model), PROMPTS, negative="bad hands", seed=2)
    assert_same(generate(wan_model, PROMPTS, negative="bad hands", seed=[2]), expected)


def test_batched_evaluation_differs_by_rounding_only(wan_model):
    states, frames = reference(pipeline_of(wan_model), PROMPTS)
    result = generate(wan_model, PROMPTS, batched=True)
    for ours, theirs in zip(result.states, states, strict=True):
        assert (ours.tensor - theirs).abs().max() <= 1e-5 * theirs.abs().max()
    assert (result.frames.tensor - frames).abs().max() <= 1e-5


def test_two_experts_switch_at_the_step_of_the_pipeline(tmp_path):
    from helpers import tiny
    from helpers.direct import model_of

    folder = tiny.save("wan", tmp_path / "experts", experts=2, boundary_ratio=0.875)
    model = model_of(folder)
    below = _Expert(model)
    pipeline = pipeline_of(model, transformer_2=model.component("transformer_2"))
    pipeline.register_to_config(boundary_ratio=0.875)
    expected = reference(pipeline, PROMPTS[:1], steps=5)
    result = generate(model, PROMPTS[:1], steps=5, model_below=below, boundary=0.875)
    assert below.calls in range(1, 5)  # both experts did some steps
    assert_same(result, expected)


class _Expert:
    """The second expert of a model, as `model.expert` returns it."""

    def __init__(self, model):
        self.model, self.calls = model, 0

    def __getattr__(self, name):
        return getattr(self.model, name)

    def component(self, name):
        self.calls += name == "transformer"
        return self.model.component("transformer_2" if name == "transformer" else name)


def test_timesteps_per_token_equal_the_pipeline(tmp_path):
    """The transformer of Wan 2.2 TI2V 5B takes one timestep for each token."""
    from helpers import tiny
    from helpers.direct import model_of

    model = model_of(tiny.save("wan", tmp_path / "ti2v", expand_timesteps=True))
    pipeline = pipeline_of(model)
    pipeline.register_to_config(expand_timesteps=True)
    assert_same(generate(model, PROMPTS), reference(pipeline, PROMPTS))


@pytest.mark.parametrize("scheduler", ["auto", "euler"])
@pytest.mark.parametrize(
    "parts",
    [("transformer", "text_encoder"), ("transformer",), ("text_encoder",), ("transformer", "vae")],
    ids="+".join,
)
def test_low_precision_keeps_the_casts_of_the_pipeline(wan_folder, parts, scheduler):
    """Wan is usually run with a bfloat16 transformer and text encoder and a float32 VAE."""
    from helpers.direct import model_of

    model = model_of(wan_folder, **dict.fromkeys(parts, "bfloat16"))
    assert all(model.component(part).dtype == torch.bfloat16 for part in parts)
    expected = reference(pipeline_of(model, scheduler), PROMPTS)
    assert_same(generate(model, PROMPTS, scheduler=scheduler), expected)


def test_a_separately_loaded_pipeline_differs_by_rounding_only(wan_model, wan_folder):
    """The tests above share modules with the pipeline; separate modules differ by rounding only."""
    pipeline = WanPipeline.from_pretrained(wan_folder)
    pipeline.set_progress_bar_config(disable=True)
    states, frames = reference(pipeline, PROMPTS[:1])
    result = generate(wan_model, PROMPTS[:1])
    assert (result.states[-1].tensor - states[-1]).abs().max() <= 1e-5 * states[-1].abs().max()
    assert (result.frames.tensor - frames).abs().max() <= 1e-5
