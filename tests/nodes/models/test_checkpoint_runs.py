"""Checkpoints in whole models: results, plans, dummy weights, offloading, adapters, fingerprints."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sgd
import torch
from helpers import checkpoint_layouts as layouts
from helpers import node_facts, tiny, tiny_flux, tiny_hunyuan_video, tiny_qwen_image, tiny_z_image
from helpers.direct import DirectRun
from safetensors.torch import load_file, save_file
from sgd.graph.contract.errors import NodeError
from sgd.nodes.models.memory.offloading import Offload
from sgd.nodes.models.nodes.model_load import load
from sgd.nodes.models.nodes.model_lora import lora
from sgd.nodes.models.repository import peek
from sgd.nodes.models.repository.dummy import meta_module


def save(state: Any, file: Path) -> Path:
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, file)
    return file


@pytest.fixture(scope="module")
def wan(tmp_path_factory):
    """A whole model, and a folder of configurations without weights with the same components in single files."""
    made = tmp_path_factory.mktemp("runs")
    pipeline = tiny.wan()
    pipeline.save_pretrained(made / "whole")
    parts = {"transformer": pipeline.transformer, "vae": pipeline.vae, "text_encoder": pipeline.text_encoder}
    folder = layouts.source(made / "bare", "WanPipeline", **parts)
    index = json.loads((folder / "model_index.json").read_text())
    whole = json.loads((made / "whole" / "model_index.json").read_text())
    for part in ("scheduler", "tokenizer"):
        (made / "whole" / part).rename(folder / part)
        (made / "whole" / part).symlink_to(folder / part)
        index[part] = whole[part]
    (folder / "model_index.json").write_text(json.dumps(index))
    save(layouts.wan(pipeline.transformer.state_dict()), made / "transformer.safetensors")
    save(layouts.wan_vae(pipeline.vae.state_dict()), made / "vae.safetensors")
    save(layouts.comfy_t5(pipeline.text_encoder.state_dict()), made / "text_encoder.safetensors")
    return made


WORKFLOW = """
sgd: 1
nodes:
  model: {{uses: model.load, with: {{source: {source}{files}}}}}
  text: {{uses: text.encode, with: {{model: $model, prompt: a red circle, max_length: 32}}}}
  noise: {{uses: latents.noise, with: {{model: $model, width: 32, height: 32, frames: 5, seed: 0}}}}
  schedule: {{uses: schedule.make, with: {{model: $model, steps: 2}}}}
  denoise:
    uses: sgd:parts/cfg_denoise
    with: {{model: $model, text: $text, latents: $noise, schedule: $schedule, scale: 4.0}}
  frames: {{uses: vae.decode, with: {{model: $model, latents: $denoise}}}}
  clip: {{uses: video.save, with: {{frames: $frames, path: clip.mp4, fps: 8}}}}
  out: {{uses: latents.save, with: {{latents: $denoise, path: out.safetensors}}}}
outputs: {{clip: $clip}}
"""
FILES = ", transformer: ./transformer.safetensors, vae: ./vae.safetensors, text_encoder: ./text_encoder.safetensors"


def test_a_workflow_with_checkpoints_makes_the_clip_of_the_model(wan, tmp_path):
    """Paths of files are relative to the workflow."""
    made = []
    for name, source, files in (("whole", "./whole", ""), ("files", "./bare", FILES)):
        file = wan / f"{name}.yaml"
        file.write_text(WORKFLOW.format(source=source, files=files))
        run = sgd.run(sgd.compile(file), out=tmp_path / name)
        assert run.status == "done", run.error
        made.append(load_file(tmp_path / name / "out.safetensors"))
        if files:
            [node] = [node for node in run.record["nodes"] if node["type"] == "model.load"]
            stored = node["detail"]["checkpoints"]
            assert list(stored) == ["transformer", "vae", "text_encoder"]
            assert stored["vae"]["file"] == "vae.safetensors"
            assert len({entry["fingerprint"] for entry in stored.values()}) == 3
    assert made[0].keys() == made[1].keys()
    assert all(torch.equal(made[0][key], made[1][key]) for key in made[0])


def test_a_plan_and_dummy_weights_are_those_of_the_model(wan):
    for options in ({"planning": True}, {"weights": "dummy"}):
        found = []
        for source, files in (
            (wan / "whole", {}),
            (wan / "bare", {"transformer": str(wan / "transformer.safetensors")}),
        ):
            run = DirectRun()
            if options.get("planning"):
                run.device, run.planning, run.options = "meta", True, {"device": "cuda"}
            else:
                run.options = options
            model = load(run, str(source), **files)
            model.acquire("transformer", run)
            found.append(dict(model.component("transformer").state_dict()))
        assert {k: (v.shape, v.dtype, v.device) for k, v in found[0].items()} == {
            k: (v.shape, v.dtype, v.device) for k, v in found[1].items()
        }
        if "weights" in options:
            assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


def test_a_plan_does_without_a_file_on_the_hub(wan, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    run = DirectRun()
    run.device, run.planning = "meta", True
    model = load(run, str(wan / "bare"), transformer="owner/name/split_files/file.safetensors")
    model.acquire("transformer", run)
    assert run.details["checkpoints"] == {"transformer": {"file": "owner/name/split_files/file.safetensors"}}


def test_a_file_in_the_cache_of_the_hub_is_found(wan, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--owner--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots" / "abc" / "folder").mkdir(parents=True)
    (repository / "snapshots" / "abc" / "folder" / "file.safetensors").symlink_to(wan / "vae.safetensors")
    name = "owner/name/folder/file.safetensors"
    assert node_facts.check(load, source=str(wan / "bare"), vae=name) == []
    [problem] = node_facts.check(load, source=str(wan / "bare"), transformer=name)
    assert "is not a checkpoint of transformer" in problem.message


def test_an_offloaded_component_has_the_weights_of_the_file(wan, run):
    model = load(run, str(wan / "bare"), transformer=str(wan / "transformer.safetensors"))
    offloaded = model.transformed(Offload("transformer"))
    for value in (model, offloaded):
        value.acquire("transformer", run)
    plain, other = (value.component("transformer").state_dict() for value in (model, offloaded))
    assert all(torch.equal(plain[key], other[key]) for key in plain)


def test_a_component_that_gave_its_weights_up_reads_them_again(wan, run):
    model = load(run, str(wan / "bare"), transformer=str(wan / "transformer.safetensors"))
    model.acquire("transformer", run)
    module = model.component("transformer")
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    module.proj_out.weight = torch.nn.Parameter(module.proj_out.weight.to("meta"), requires_grad=False)
    model.weights.complete("transformer", run)
    assert all(torch.equal(tensor, before[key]) for key, tensor in module.state_dict().items())


def test_an_adapter_is_merged_into_the_weights_of_a_file(wan, run, tmp_path):
    up, down = torch.randn(24, 2), torch.randn(2, 24)
    name = "blocks.0.self_attn.q"
    file = save(
        {f"diffusion_model.{name}.lora_up.weight": up, f"diffusion_model.{name}.lora_down.weight": down},
        tmp_path / "lora.safetensors",
    )
    model = load(run, str(wan / "bare"), transformer=str(wan / "transformer.safetensors"))
    value = lora(run, model, str(file))
    model.acquire("transformer", run)
    value.acquire("transformer", run)
    plain = model.component("transformer").blocks[0].attn1.to_q.weight
    made = value.component("transformer").blocks[0].attn1.to_q.weight
    assert torch.allclose(made, plain + up @ down, atol=1e-5)


def test_a_calibration_table_tells_files_apart(wan, run, tmp_path):
    from sgd.nodes import schedule
    from sgd.nodes.cache.table_use import of_facts, of_model
    from sgd.nodes.value_facts import ModelFacts, ScheduleFacts

    other = save(layouts.wan(tiny.wan_transformer(seed=5).state_dict()), tmp_path / "other.safetensors")
    found = []
    for file in (wan / "transformer.safetensors", other):
        model = load(run, str(wan / "bare"), transformer=str(file))
        model.acquire("scheduler", run)
        plan = schedule.make(model, steps=2)
        found.append(of_model(model, plan.steps[0], (0, 1), None, run).weights)
        facts = node_facts.describe(load, source=str(wan / "bare"), transformer=str(file))
        assert facts["checkpoints"] == {"transformer": str(file)}
        known = ModelFacts(source="m", folder=str(wan / "bare"), checkpoints=facts["checkpoints"])
        assert of_facts(known, ScheduleFacts()).weights == found[-1]
    assert found[0] != found[1]
    assert all(str(each).startswith("sha256:") for each in found)


def test_a_plan_reads_single_modules_from_the_file(wan, run):
    model = load(run, str(wan / "bare"), transformer=str(wan / "transformer.safetensors"), dtype="bfloat16")
    model.acquire("transformer", run)
    loaded = model.component("transformer")
    meta = meta_module(type(loaded), loaded.config, torch.bfloat16)
    names = model.family.time_modules
    read = peek.submodules(model, "transformer", meta, names, SimpleNamespace(options={}))
    times = torch.tensor([999.0, 3.0])
    for projected in (False, True):
        expected = model.family.time_signal(loaded, times, projected)
        assert torch.equal(model.family.time_signal(read, times, projected), expected)


@pytest.mark.parametrize(
    ("pipeline", "part", "build"),
    [
        ("WanPipeline", "text_encoder", tiny.umt5_encoder),
        ("FluxPipeline", "text_encoder", tiny_flux.clip),
        ("FluxPipeline", "text_encoder_2", tiny_flux.t5),
        ("HunyuanVideoPipeline", "text_encoder", tiny_hunyuan_video.llama),
        ("ZImagePipeline", "text_encoder", tiny_z_image.text_encoder),
        ("QwenImagePipeline", "text_encoder", tiny_qwen_image.text_encoder),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_text_encoder_computes_what_that_of_transformers_computes(pipeline, part, build, dtype, tmp_path, run):
    """`from_pretrained` is the reference: dtypes of parameters and buffers, the attention, the results."""
    module = layouts.filled(build())
    module.save_pretrained(tmp_path / "reference")
    expected = type(module).from_pretrained(tmp_path / "reference", dtype=getattr(torch, dtype)).eval()
    folder = layouts.source(tmp_path / "model", pipeline, **{part: module})
    file = save({k: v for k, v in module.state_dict().items() if k != "encoder.embed_tokens.weight"}, tmp_path / "file")
    model = load(run, str(folder), dtype=dtype, **{part: str(file)})
    model.acquire(part, run)
    loaded = model.component(part)
    for own, theirs in (
        (loaded.state_dict(), expected.state_dict()),
        (dict(loaded.named_buffers()), dict(expected.named_buffers())),
    ):
        assert own.keys() == theirs.keys()
        assert all(own[key].dtype == theirs[key].dtype and torch.equal(own[key], theirs[key]) for key in own)
    assert loaded.config._attn_implementation == expected.config._attn_implementation
    tokens = torch.tensor([[5, 7, 11, 1]])
    with torch.no_grad():
        results = [
            encoder(input_ids=tokens, output_hidden_states=True).hidden_states[-1] for encoder in (loaded, expected)
        ]
    assert torch.equal(*results)


@pytest.mark.parametrize(
    ("pipeline", "part", "build", "lost"),
    [
        ("WanPipeline", "transformer", tiny.wan_transformer, ""),
        ("WanPipeline", "text_encoder", tiny.umt5_encoder, "encoder.embed_tokens.weight"),
        ("QwenImagePipeline", "vae", tiny_qwen_image.vae, ""),
    ],
)
def test_a_class_without_a_table_is_read_by_its_own_names(pipeline, part, build, lost, tmp_path, run, monkeypatch):
    monkeypatch.setattr("sgd.nodes.models.checkpoints.component_layouts.of_config", lambda name, config: None)
    module = layouts.filled(build())
    folder = layouts.source(tmp_path / "model", pipeline, **{part: module})
    state = module.state_dict()
    file = save({f"model.{key}": tensor for key, tensor in state.items() if key != lost}, tmp_path / "file")
    assert node_facts.check(load, source=str(folder), **{part: str(file)}) == []
    model = load(run, str(folder), **{part: str(file)})
    model.acquire(part, run)
    loaded = model.component(part).state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in state)
    some = next(key for key in state if key.endswith(".weight") and key != lost)
    file = save({key: tensor for key, tensor in state.items() if key not in (some, lost)}, tmp_path / "less")
    with pytest.raises(NodeError, match=re.escape(f"parameters of {part}: {some}")):
        load(run, str(folder), **{part: str(file)}).acquire(part, run)


def test_a_qwen_text_encoder_may_lack_its_image_encoder_and_last_layer(tmp_path, run):
    """Files of llama.cpp keep the image encoder apart; prompts do not need it."""
    module = layouts.filled(tiny_qwen_image.text_encoder())
    folder = layouts.source(tmp_path / "model", "QwenImagePipeline", text_encoder=module)
    state = module.state_dict()
    kept = {k: v for k, v in state.items() if k.startswith("model.language_model.")}
    file = save(kept, tmp_path / "file")
    model = load(run, str(folder), text_encoder=str(file))
    model.acquire("text_encoder", run)
    loaded = model.component("text_encoder").state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in kept)
    assert all(not loaded[key].any() for key in state.keys() - kept.keys())
    [message] = set(run.warnings)
    assert message.startswith(f"file lacks {len(state) - len(kept)} parameters (")
    assert message.endswith("of text_encoder; they are zero")
