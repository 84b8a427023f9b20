"""`model.lora`, compared with `load_lora_weights` of diffusers' pipeline on the same random adapters."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import node_facts
from helpers.direct import DirectRun, generate, model_of
from helpers.lora_files import TARGETS, adapters
from sgd.graph.contract.errors import NodeError
from sgd.nodes.models.nodes.model_lora import lora
from sgd.nodes.models.transforms.lora_transform import Lora
from sgd.nodes.value_facts import ModelFacts, ScheduleFacts

pytest.importorskip("peft")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lora")
    return [
        adapters(folder, "one.safetensors", 1),
        adapters(folder, "two.safetensors", 2, rank=2),
        adapters(folder, "scaled.safetensors", 3, alpha=8),
    ]


@pytest.fixture
def model(wan_folder):
    return model_of(wan_folder, "scheduler")


def acquired(value, *parts):
    for part in parts or ("transformer", "text_encoder", "tokenizer", "vae", "scheduler"):
        value.acquire(part, DirectRun())
    return value


ADAPTED = tuple(f"{target}.weight" for target in TARGETS)


def predicted(value):
    """The transformer's answer to one input."""
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "hidden_states": torch.randn(1, 16, 1, 4, 4, generator=generator),
        "encoder_hidden_states": torch.randn(1, 8, 32, generator=generator),
    }
    with torch.no_grad():
        return value.component("transformer")(timestep=torch.tensor([500]), return_dict=False, **tensors)[0]


def latents(value):
    return generate(value, ["a red circle"], steps=3).states[-1].tensor


def expected(wan_folder, loras):
    """The latents that diffusers' pipeline makes with these files and scales."""
    from diffusers import WanPipeline

    pipeline = WanPipeline.from_pretrained(wan_folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    for part in (pipeline.transformer, pipeline.text_encoder, pipeline.vae):
        for parameter in part.parameters():
            parameter.data = parameter.data.clone()
    for number, (file, _) in enumerate(loras):
        pipeline.load_lora_weights(file, adapter_name=str(number))
    pipeline.set_adapters([str(n) for n in range(len(loras))], [scale for _, scale in loras])
    return pipeline(
        prompt=["a red circle"],
        negative_prompt=[""],
        width=32,
        height=32,
        num_frames=9,
        num_inference_steps=3,
        max_sequence_length=16,
        generator=torch.Generator("cpu").manual_seed(0),
        output_type="latent",
    ).frames


@pytest.mark.parametrize("chosen", [[(0, 1.0)], [(0, 0.4)], [(0, 0.7), (1, -0.5)], [(2, 1.0)]])
def test_equals_the_pipeline(wan_folder, files, model, run, chosen):
    loras = [(files[number], scale) for number, scale in chosen]
    value = model
    for file, scale in loras:
        value = lora(run, value, str(file), scale=scale)
    made, reference = latents(acquired(value)), expected(wan_folder, loras)
    assert (made - reference).abs().max() <= 3e-5 * reference.abs().max()
    assert not torch.equal(made, latents(acquired(model)))


def test_values_with_and_without_do_not_see_each_other(wan_folder, files, model, run):
    weights = {k: t.clone() for k, t in acquired(model).component("transformer").state_dict().items()}
    plain = latents(model)
    first = acquired(lora(run, model, str(files[0])))
    second = acquired(lora(run, model, str(files[1])))
    both = acquired(lora(run, lora(run, model, str(files[0])), str(files[1])))
    made = {name: latents(value) for name, value in (("first", first), ("second", second), ("both", both))}
    assert torch.equal(latents(model), plain)
    assert torch.equal(latents(first), made["first"])
    assert len({t.sum().item() for t in (*made.values(), plain)}) == 4
    after = model.component("transformer").state_dict()
    assert after.keys() == weights.keys()
    assert all(torch.equal(after[key], tensor) for key, tensor in weights.items())
    plain_ones = {key: p.data_ptr() for key, p in model.component("transformer").named_parameters()}
    found = {key: p.data_ptr() for key, p in both.component("transformer").named_parameters()}
    assert found.keys() == plain_ones.keys()
    own = {key for key in found if found[key] != plain_ones[key]}
    assert own == {key for key in found if key.endswith(ADAPTED)}, "all other tensors are shared"


def test_with_a_kernel_that_diffusers_lacks(files, model, run, monkeypatch):
    """torch's own attention stands in for it."""
    from sgd.nodes.models.attention import kernels
    from sgd.nodes.models.transforms.attention_transform import Attention

    def kernel(query, key, value, scale, causal):
        query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
        made = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=causal, scale=scale)
        return made.transpose(1, 2).contiguous()

    monkeypatch.setattr(kernels, "KERNELS", {**kernels.KERNELS, "_sgd_with_lora": kernel})
    adapted = lora(run, model, str(files[0]))
    made = latents(acquired(adapted.transformed(Attention("transformer", ("_sgd_with_lora",)))))
    assert torch.allclose(made, latents(acquired(adapted)), atol=1e-5)
    assert not torch.allclose(made, latents(acquired(model)), atol=1e-5)


def test_scale_zero_is_without(files, model, run):
    assert torch.equal(latents(acquired(lora(run, model, str(files[0]), scale=0.0))), latents(acquired(model)))


def test_merged_weights_have_the_dtype_of_the_model(wan_folder, files, run):
    value = model_of(wan_folder, "scheduler", transformer="bfloat16")
    plain = acquired(value, "transformer").component("transformer").state_dict()
    value = acquired(lora(run, value, str(files[0])), "transformer")
    parameters = dict(value.component("transformer").named_parameters())
    assert {key: p.dtype for key, p in parameters.items()} == {key: t.dtype for key, t in plain.items()}
    assert {p.dtype for key, p in parameters.items() if key.endswith(ADAPTED)} == {torch.bfloat16}
    assert not any(p.requires_grad for p in parameters.values())


def test_folder_and_file_name(files, model, run):
    folder = str(files[0].parent)
    with pytest.raises(NodeError, match="3 safetensors files"):
        lora(run, model, folder)
    named = acquired(lora(run, model, folder, weight_name="one.safetensors"), "transformer")
    direct = acquired(lora(run, model, str(files[0])), "transformer")
    assert named.component("transformer") is direct.component("transformer")
    with pytest.raises(NodeError, match="no file four") as error:
        lora(run, model, folder, weight_name="four.safetensors")
    assert "one.safetensors" in error.value.help
    with pytest.raises(NodeError, match="is a file, and its name is not two"):
        lora(run, model, str(files[0]), weight_name="two.safetensors")


def test_a_file_that_lies_deeper(tmp_path, files, model, run):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "one.safetensors").write_bytes(files[0].read_bytes())
    with pytest.raises(NodeError, match="holds no safetensors file"):
        lora(run, model, str(tmp_path))
    value: Any = lora(run, model, str(tmp_path), weight_name="deep/one.safetensors")
    assert value.transforms[-1].file == tmp_path / "deep" / "one.safetensors"
    for name in ("../one.safetensors", "/one.safetensors", "one.bin"):
        with pytest.raises(NodeError, match=r"not a path inside|not a safetensors file"):
            lora(run, model, str(tmp_path / "deep"), weight_name=name)
        [problem] = node_facts.check(lora, source=str(tmp_path), weight_name=name)
        assert (problem.code, problem.parameter) == ("bad-value", "weight_name")


def save(path, tensors):
    from safetensors.torch import save_file

    save_file(tensors, path)
    return str(path)


def test_a_lora_for_another_model_is_an_error(tmp_path, model, run):
    key = "transformer.single_blocks.0.attn.to_q"
    tensors = {f"{key}.lora_A.weight": torch.ones(4, 24), f"{key}.lora_B.weight": torch.ones(24, 4)}
    with pytest.raises(NodeError, match="transformer") as error:
        lora(run, model, save(tmp_path / "other.safetensors", tensors))
    assert "another model" in error.value.help
    key = "transformer.blocks.0.attn1.to_q"
    tensors = {f"{key}.lora_A.weight": torch.ones(4, 48), f"{key}.lora_B.weight": torch.ones(48, 4)}
    with pytest.raises(NodeError, match="gives a change of 48×48, and the weight has 24×24") as error:
        lora(run, model, save(tmp_path / "larger.safetensors", tensors))
    assert "another model" in error.value.help


def test_tensors_without_a_layer_are_reported(tmp_path, files, model):
    from safetensors.torch import load_file

    tensors = load_file(files[0])
    extra = "transformer.blocks.9.attn1.to_q"
    tensors |= {f"{extra}.lora_A.weight": torch.ones(4, 24), f"{extra}.lora_B.weight": torch.ones(24, 4)}
    tensors |= {"text_encoder.layer.0.q.lora_A.weight": torch.ones(4, 24)}
    run = DirectRun()
    value = lora(run, model, save(tmp_path / "more.safetensors", tensors))
    value.acquire("transformer", run)
    assert any("2 tensors" in w and "for layers that transformer does not have" in w for w in run.warnings)
    assert any("1 tensor " in w and "text encoder" in w for w in run.warnings)
    same = acquired(lora(run, model, str(files[0])))
    assert torch.equal(latents(acquired(value)), latents(same))


def test_whole_weights_are_refused(tmp_path, files, model, run):
    from safetensors.torch import load_file

    tensors = load_file(files[0]) | {"transformer.scale_shift_table": torch.ones(1, 2, 24)}
    with pytest.raises(NodeError, match=r"transformer\.scale_shift_table is for scale_shift_table, in a form"):
        lora(run, model, save(tmp_path / "whole.safetensors", tensors))


def test_wrong_sources(tmp_path, model, run):
    pickled = tmp_path / "lora.bin"
    pickled.write_bytes(b"\x80")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"\xff" * 20)
    for source, why in ((pickled, "not a safetensors file"), (broken, "header"), (tmp_path / "none.x", "no file")):
        with pytest.raises(NodeError, match=why):
            lora(run, model, str(source))
        [problem] = node_facts.check(lora, source=str(source))
        assert problem.code == "bad-value"
    assert list(node_facts.check(lora, source="owner/name")) == []
    for source in ("owner/name.safetensors", "~nobody-of-this-name/lora", "a\0b", "long" * 2000):
        [problem] = node_facts.check(lora, source=source)
        assert problem.code == "bad-value"


def test_without_peft(monkeypatch, files, model, run):
    """peft writes files in these tests, and is not needed to apply them."""
    monkeypatch.setitem(sys.modules, "peft", None)
    assert list(node_facts.check(lora, source=str(files[0]))) == []
    value = acquired(lora(run, model, str(files[0])), "transformer")
    assert not torch.equal(predicted(value), predicted(model))


FAMILIES = {
    "tiny_flux": ("build", ["to_q", "to_k", "to_v", "ff.net.2"]),
    "tiny_hunyuan_video": ("hunyuan_video", ["to_q", "to_k", "to_v"]),
    "tiny_qwen_image": ("build", ["to_q", "to_k", "to_v"]),
    "tiny_z_image": ("build", ["to_q", "to_k", "to_v"]),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_other_families(tmp_path, run, family):
    """Their pipelines' loaders differ; the merged weights are compared tensor by tensor."""
    import importlib

    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict
    from sgd.nodes.models.memory.component_views import view

    builder, targets = FAMILIES[family]
    pipeline = getattr(importlib.import_module(f"helpers.{family}"), builder)()
    trained, plain = view(pipeline.transformer), view(pipeline.transformer)
    trained.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=targets))
    for key, parameter in trained.named_parameters():
        if "lora_" in key:
            parameter.data = torch.randn_like(parameter)
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(trained))
    type(pipeline).save_lora_weights(tmp_path, transformer_lora_layers=layers, weight_name="a.safetensors")
    Lora("transformer", tmp_path / "a.safetensors", 0.5).apply(plain, run)
    pipeline.load_lora_weights(tmp_path / "a.safetensors", adapter_name="lora_0")
    pipeline.set_adapters(["lora_0"], [0.5])
    pipeline.transformer.fuse_lora()
    pipeline.transformer.unload_lora()
    expected, loaded = dict(pipeline.transformer.named_parameters()), dict(plain.named_parameters())
    assert expected.keys() == loaded.keys()
    for key, tensor in loaded.items():
        assert torch.allclose(tensor, expected[key], rtol=0, atol=1e-6), key
    assert run.warnings == []


FILE = """
sgd: 1
name: views
inputs:
  source: {type: str}
  lora: {type: str}
  backend: {enum: [auto, sdpa, flash], default: auto}
nodes:
  model: {uses: model.load, with: {source: $source, dtype: float32}}
  styled: {uses: model.lora, with: {model: $model, source: $lora, scale: 0.5}}
  chosen: {uses: model.attention, with: {model: $styled, backend: $backend}}
  text: {uses: text.encode, with: {model: $model, prompt: a red circle, max_length: 16}}
  noise: {uses: latents.noise, with: {model: $model, width: 32, height: 32, frames: 5, seed: 3}}
  schedule: {uses: schedule.make, with: {model: $chosen, steps: 2}}
  split: {uses: cfg.split, with: {conditioning: $text, scale: 1.0}}
  with:
    for: {step: $schedule}
    carry: {latents: $noise}
    body:
      velocity: {uses: denoiser.predict, with: {model: $chosen, latents: $latents, step: $step, branches: $split}}
      guided:   {uses: cfg.merge,        with: {predictions: $velocity, branches: $split}}
      next:     {uses: schedule.step,    with: {schedule: $schedule, step: $step, latents: $latents, velocity: $guided}}
    yield: {latents: $next}
  without:
    for: {step: $schedule}
    carry: {latents: $noise}
    body:
      velocity: {uses: denoiser.predict, with: {model: $model, latents: $latents, step: $step, branches: $split}}
      guided:   {uses: cfg.merge,        with: {predictions: $velocity, branches: $split}}
      next:     {uses: schedule.step,    with: {schedule: $schedule, step: $step, latents: $latents, velocity: $guided}}
    yield: {latents: $next}
  one: {uses: latents.save, with: {latents: $with, path: with.safetensors}}
  two: {uses: latents.save, with: {latents: $without, path: without.safetensors}}
outputs: {one: $one, two: $two}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "views.yaml"
    path.write_text(FILE)
    return path


def test_a_workflow_with_two_values_of_one_model(wan_folder, file, files, tmp_path, monkeypatch):
    import sgd
    from diffusers import WanTransformer3DModel
    from safetensors.torch import load_file

    built, make = [], WanTransformer3DModel.from_pretrained.__func__
    monkeypatch.setattr(
        WanTransformer3DModel, "from_pretrained", classmethod(lambda c, *a, **k: built.append(c) or make(c, *a, **k))
    )
    plan = sgd.compile(file, inputs={"source": str(wan_folder), "lora": str(files[0])})
    done = sgd.run(plan, out=tmp_path / "out", device="cpu")
    assert done.status == "done"
    assert len(built) == 1, "the weights are loaded once for both values"
    model = model_of(wan_folder)
    value = lora(DirectRun(), model, str(files[0]), scale=0.5)
    for part in ("transformer", "text_encoder", "tokenizer", "scheduler", "vae"):
        value.acquire(part, DirectRun())
    for name, one in (("with", value), ("without", model)):
        expected = generate(one, ["a red circle"], frames=5, seed=[3], steps=2, scale=1.0).states[-1].tensor
        assert torch.equal(load_file(done.folder / f"{name}.safetensors")["latents"], expected)
    details = {row["name"]: row.get("detail", {}) for row in done.record["nodes"]}
    assert details["chosen"]["attention"] == "sdpa"
    assert details["styled"]["lora"] == "one.safetensors"
    assert details["styled"]["lora_tensors"] == len(load_file(files[0]))


def test_an_impossible_gate_is_reported_before_anything_is_loaded(wan_folder, file, files, monkeypatch):
    import sgd
    from sgd.nodes.models.attention import backends

    monkeypatch.setattr(backends, "gpu", lambda: None)
    with pytest.raises(sgd.Problems) as error:
        sgd.compile(file, inputs={"source": str(wan_folder), "lora": str(files[0]), "backend": "flash"})
    [problem] = error.value.diagnostics
    assert problem.code == "unavailable"
    assert "flash" in problem.message
    text = FILE.replace("{model: $model, source: $lora", "{model: $chosen, source: $lora")
    file.write_text(
        text.replace("{model: $styled, backend", "{model: $model, backend").replace(
            "{model: $chosen, latents", "{model: $styled, latents"
        )
    )
    with pytest.raises(sgd.Problems) as error:
        sgd.compile(file, inputs={"source": str(wan_folder), "lora": str(files[0])})
    [problem] = error.value.diagnostics
    assert (problem.code, problem.message) == ("unsupported", "model.lora cannot come after model.attention")


def test_calibration_tables_tell_adapters_and_scales_apart(files, model, run):
    from sgd.nodes import schedule
    from sgd.nodes.cache.calibration.filled_gate import Use
    from sgd.nodes.cache.table_use import of_facts, of_model

    plan = schedule.make(model, steps=2)

    def of(*chosen) -> Use:
        value = model
        for number, scale in chosen:
            value = lora(run, value, str(files[number]), scale=scale)
        return of_model(value, plan.steps[0], (0, 1), None, run)

    found = [of(), of((0, 1.0)), of((0, 0.5)), of((1, 1.0)), of((0, 1.0), (1, 1.0)), of((1, 1.0), (0, 1.0))]
    assert len({use.adapters for use in found}) == len(found)
    assert [use.adapted for use in found] == [0, 1, 1, 1, 2, 2]
    assert of((0, 1.0)) == found[1]
    assert len({use.weights for use in found}) == 1
    absent = model.transformed(Lora("transformer", Path("owner/name/a.safetensors"), 1.0))
    planned = of_model(absent, plan.steps[0], (0, 1), None, run)
    assert (planned.adapters, planned.adapted) == (None, 1), "a plan may be made before the file is downloaded"
    known = {"transforms": [["lora", "transformer"], ["lora", "transformer_2"], ["attention", "transformer"]]}
    assert of_facts(node_facts.value_facts(ModelFacts, known), ScheduleFacts()).adapted == 1


def test_a_component_that_nobody_else_reads_gives_its_weights_up(files, model, run, monkeypatch):
    """On a GPU both would not fit beside each other; another value that comes later loads them again."""
    from sgd.nodes.models.memory.weights import Weights

    monkeypatch.setattr(Weights, "spare", lambda self, part, placed=None: self._held[part, placed].count == 1)
    whole = {key: t.clone() for key, t in acquired(model, "transformer").component("transformer").state_dict().items()}
    model.release("transformer")
    first = acquired(lora(run, model, str(files[0])), "transformer")
    base = model.weights.component("transformer")
    assert {key for key, p in base.named_parameters() if p.is_meta} == {key for key in whole if key.endswith(ADAPTED)}
    made = predicted(first)
    same = acquired(lora(run, model, str(files[0])), "transformer")
    assert any(p.is_meta for p in base.parameters()), "a value with the same view needs no other weights"
    same.release("transformer")
    second = acquired(lora(run, model, str(files[1])), "transformer")
    assert all(torch.equal(tensor, whole[key]) for key, tensor in base.state_dict().items())
    assert not torch.equal(predicted(second), made)
    assert torch.equal(predicted(first), made)
    plain = predicted(acquired(model, "transformer"))
    assert torch.equal(plain, predicted(acquired(lora(run, model, str(files[0]), scale=0.0), "transformer")))
