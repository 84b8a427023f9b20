"""Wan 2.2 in workflow files: two experts, each with its guidance scale, and image to video."""

from __future__ import annotations

from pathlib import Path

import pytest
import sgd
from diffusers import WanImageToVideoPipeline, WanPipeline
from helpers import node_facts, tiny, tiny_wan_image
from helpers.direct import DirectRun, model_of
from helpers.peer import PROMPTS
from helpers.tiny_wan_image import picture
from helpers.wan_image import assert_same, generate, pipeline_of, reference
from safetensors.torch import load_file
from sgd.graph.compiler.compile import check
from sgd.graph.compiler.ir import Ref
from sgd.graph.compiler.plan import Acquire, CallStep, LoopStep, Release
from sgd.graph.contract.errors import NodeError
from sgd.nodes.models.nodes.model_expert import expert
from sgd.nodes.models.nodes.model_load import load

PARTS = Path(sgd.__file__).parent / "workflows" / "parts"
HEAD = """
sgd: 1
name: parity
inputs: {source: {type: str}, prompt: {type: str}, image: {type: path, default: null}}
nodes:
  model: {uses: model.load, with: {source: $source, dtype: float32}}
  text: {uses: text.encode, with: {model: $model, prompt: $prompt, negative: dark}}
  noise: {uses: latents.noise, with: {model: $model, width: 64, height: 32, frames: 9, seed: 3}}
  schedule: {uses: schedule.make, with: {model: $model, steps: 5}}
"""
EXPERTS = f"""{HEAD}
  detail: {{uses: model.expert, with: {{model: $model, component: transformer_2}}}}
  denoise:
    uses: {PARTS}/experts_denoise.yaml
    with: {{above: $model, below: $detail, boundary: 0.875, text: $text, latents: $noise, schedule: $schedule,
           scale: 4.0, scale_below: 3.0}}
  saved: {{uses: latents.save, with: {{latents: $denoise, path: latents.safetensors}}}}
  frames: {{uses: vae.decode, with: {{model: $model, latents: $denoise}}}}
  video: {{uses: video.save, with: {{frames: $frames, path: clip.mp4}}}}
outputs: {{video: $video}}
"""
IMAGE = f"""{HEAD}
  picture: {{uses: image.load, with: {{path: first.png}}}}
  first: {{uses: image.encode, with: {{model: $model, image: $picture, width: 64, height: 32, frames: 9}}}}
  denoise:
    uses: {PARTS}/cfg_denoise.yaml
    with: {{model: $model, text: $text, latents: $noise, schedule: $schedule, scale: 4.0, image: $first}}
  kept: {{uses: image.keep, with: {{latents: $denoise, image: $first}}}}
  saved: {{uses: latents.save, with: {{latents: $denoise, path: latents.safetensors}}}}
  frames: {{uses: vae.decode, with: {{model: $model, latents: $kept}}}}
  video: {{uses: video.save, with: {{frames: $frames, path: clip.mp4}}}}
outputs: {{video: $video}}
"""
SIZE = {"width": 64, "height": 32, "num_inference_steps": 5, "seed": 3, "scale": 4.0}


@pytest.fixture(scope="module")
def experts_folder(tmp_path_factory):
    return tiny.save("wan", tmp_path_factory.mktemp("wan22") / "a14b", experts=2, boundary_ratio=0.875)


@pytest.fixture(scope="module")
def experts_model(experts_folder):
    return model_of(experts_folder)


def plan_of(text, tmp_path, source):
    file = tmp_path / "parity.yaml"
    file.write_text(text)
    return sgd.compile(file, inputs={"source": str(source), "prompt": PROMPTS[0]})


def close(made, expected):
    assert (made - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("prompts", [1, 2])
@pytest.mark.parametrize("scales", [(4.0, 3.0), (4.0, None), (1.0, 1.0)], ids=["two scales", "one scale", "unguided"])
def test_two_experts_with_separate_scales_equal_the_pipeline(experts_model, scales, prompts):
    above, below = scales
    pipeline = pipeline_of(WanPipeline, experts_model, boundary_ratio=0.875)
    given = {"scale": above, "num_inference_steps": 5, "guidance_scale_2": below, "max_sequence_length": 16}
    expected = reference(pipeline, PROMPTS[:prompts], **given)
    options = {"scale": above, "scale_below": below, "boundary": 0.875, "steps": 5, "max_length": 16}
    made = generate(experts_model, PROMPTS[:prompts], **options)
    assert_same(made, expected)


def test_both_experts_and_both_scales_change_the_result(experts_model):
    """The parity above tests an expert or a scale only if it changes the result."""

    def made(**options):
        given = {"boundary": 0.875, "scale": 4.0, "scale_below": 3.0, "steps": 5, "max_length": 16} | options
        return generate(experts_model, PROMPTS[:1], **given).states[-1].tensor

    first = made()
    for other in (made(scale_below=4.0), made(scale=3.0), made(boundary=0.0), made(boundary=1.0)):
        assert (other - first).abs().max() > 1e-4


def test_a_file_with_two_experts_makes_the_clip_of_the_pipeline(experts_folder, experts_model, tmp_path):
    run = sgd.run(plan_of(EXPERTS, tmp_path, experts_folder), out=tmp_path / "out", device="cpu")
    assert run.status == "done"
    pipeline = pipeline_of(WanPipeline, experts_model, boundary_ratio=0.875)
    states, _ = reference(pipeline, guidance_scale_2=3.0, **SIZE)
    close(load_file(run.folder / "latents.safetensors")["latents"], states[-1])


def test_both_experts_are_in_memory_only_for_the_loop(experts_folder, tmp_path):
    plan = plan_of(EXPERTS, tmp_path, experts_folder)
    loop = next(n for n, step in enumerate(plan.steps) if isinstance(step, LoopStep))
    decode = next(n for n, s in enumerate(plan.steps) if isinstance(s, CallStep) and s.call.id == "frames")
    held: set[str] = set()
    for number, step in enumerate(plan.steps):
        if isinstance(step, Acquire):
            assert step.holder == Ref("model", "model")
            held.add(step.part)
        elif isinstance(step, Release):
            held.discard(step.part)
        elif number == loop:
            assert held == {"transformer", "transformer_2"}
        elif number == decode:
            assert held == {"vae"}
    assert held == set()
    assert not any(isinstance(step, Acquire) for step in plan.steps[loop].body)


@pytest.mark.parametrize(
    ("component", "kept"), [("transformer_2", {"transformer_2"}), ("transformer", {"transformer"})]
)
def test_a_file_with_one_expert_loads_only_that_expert(experts_folder, tmp_path, component, kept):
    """The model has two transformers, and the file uses one."""
    text = f"""{HEAD}
  expert: {{uses: model.expert, with: {{model: $model, component: {component}}}}}
  denoise:
    uses: {PARTS}/cfg_denoise.yaml
    with: {{model: $expert, text: $text, latents: $noise, schedule: $schedule, scale: 4.0}}
  saved: {{uses: latents.save, with: {{latents: $denoise, path: latents.safetensors}}}}
outputs: {{saved: $saved}}
"""
    plan = plan_of(text, tmp_path, experts_folder)
    acquired = {step.part for step, _ in plan.walk() if isinstance(step, Acquire)}
    assert acquired - {"scheduler", "tokenizer", "text_encoder"} == kept


@pytest.mark.parametrize("kind", ["ti2v", "clip"])
def test_a_file_with_an_image_makes_the_clip_of_the_pipeline(tmp_path, kind):
    folder = tmp_path / "model"
    (tiny_wan_image.ti2v() if kind == "ti2v" else tiny_wan_image.image_to_video()).save_pretrained(folder)
    picture().save(tmp_path / "first.png")
    plan = plan_of(IMAGE, tmp_path, folder)
    acquired = {step.part for step, _ in plan.walk() if isinstance(step, Acquire)}
    assert {"image_encoder", "image_processor"} & acquired == (
        {"image_encoder", "image_processor"} if kind == "clip" else set()
    )
    run = sgd.run(plan, out=tmp_path / "out", device="cpu")
    assert run.status == "done"
    assert any("stretched to 64x32" in warning for warning in run.record["warnings"])
    pipeline = pipeline_of(WanImageToVideoPipeline, model_of(folder), expand_timesteps=kind == "ti2v")
    states, _ = reference(pipeline, image=picture(), **SIZE)
    close(load_file(run.folder / "latents.safetensors")["latents"], states[-1])


def test_the_check_finds_an_image_of_another_size(tmp_path):
    folder = tmp_path / "model"
    tiny_wan_image.ti2v().save_pretrained(folder)
    picture().save(tmp_path / "first.png")
    file = tmp_path / "parity.yaml"
    file.write_text(IMAGE.replace("image: $picture, width: 64", "image: $picture, width: 32"))
    from sgd.graph.language.literals import Given

    found = check(file, {"source": Given(str(folder), False, tmp_path), "prompt": Given("x", False, tmp_path)})
    messages = [d.message for d in found.errors]
    assert any("encoded for a clip of 32x32, 9 frames, but this clip is 64x32, 9 frames" in m for m in messages)


def test_an_expert_shares_all_components_but_its_transformer(experts_model):
    second = expert(experts_model, "transformer_2")
    assert second.component("transformer") is experts_model.component("transformer_2")
    assert second.component("vae") is experts_model.component("vae")
    assert second.config("transformer") == experts_model.config("transformer_2")
    assert expert(second, "transformer").component("transformer") is second.component("transformer")


def test_acquiring_an_expert_loads_its_own_component(experts_folder):
    model, run = model_of(experts_folder, "scheduler"), DirectRun()
    second = expert(model, "transformer_2")
    second.acquire("transformer", run)
    assert model.component("transformer_2") is second.component("transformer")
    with pytest.raises(NodeError, match=r"transformer of .* is not in memory"):
        model.component("transformer")
    second.release("transformer")
    with pytest.raises(NodeError, match="not in memory"):
        second.component("transformer")


@pytest.mark.parametrize(
    ("component", "message"),
    [
        ("transformer_3", "transformer_3 is not a component of this model"),
        ("vae", "vae is a AutoencoderKLWan"),
    ],
)
def test_components_that_are_not_experts_are_an_error(experts_folder, experts_model, component, message):
    with pytest.raises(NodeError, match=message):
        expert(experts_model, component)
    known = node_facts.describe(load, source=str(experts_folder))
    (problem,) = node_facts.check(expert, model=known, component=component)
    assert (problem.code, problem.parameter, problem.message) == ("bad-value", "component", message)


def test_an_expert_is_described_by_its_own_configuration(experts_folder):
    known = node_facts.describe(load, source=str(experts_folder))
    known["configs"]["transformer_2"] = known["configs"]["transformer_2"] | {"num_layers": 7}
    described = node_facts.describe(expert, model=known, component="transformer_2")
    assert described["configs"]["transformer"]["num_layers"] == 7
    assert described["names"] == {"transformer": "transformer_2"}
    assert described["family"] == "wan"
    assert known["configs"]["transformer"]["num_layers"] == 2
    assert node_facts.renames(expert, component="transformer_2") == {"model": {"transformer": "transformer_2"}}
