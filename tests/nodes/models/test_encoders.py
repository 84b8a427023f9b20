"""`model.attention` of text encoders: refused backends, parity, and separate values of one model."""

import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import sgd
import torch
from helpers import node_facts
from helpers.direct import DirectRun, generate, model_of
from sgd.graph.contract.errors import NodeError
from sgd.nodes.models.attention import backends, encoder_attention, packages
from sgd.nodes.models.attention.encoder_attention import FLASH, EncoderAttention, chosen
from sgd.nodes.models.nodes.model_attention import attention

UMT5 = {"components": {"text_encoder": "UMT5EncoderModel"}, "configs": {}, "source": "owner/name"}
LLAMA = {
    "components": {"text_encoder": "LlamaModel", "text_encoder_2": "CLIPTextModel"},
    "configs": {
        "text_encoder": {"hidden_size": 4096, "num_attention_heads": 32},
        "text_encoder_2": {"hidden_size": 768, "num_attention_heads": 12},
    },
    "dtype": "bfloat16",
    "source": "owner/name",
}
PARTS = ("transformer", "text_encoder", "tokenizer", "vae", "scheduler")

TESTS = str(Path(node_facts.__file__).parents[1])


def problems(backend, model, component="text_encoder"):
    return list(node_facts.check(attention, backend=backend, component=component, model=model))


@pytest.fixture
def hopper(monkeypatch):
    monkeypatch.setattr(backends, "gpu", lambda: (9, 0))
    monkeypatch.setattr(packages, "installed", lambda package, module: "9.0")


@pytest.fixture
def model(wan_folder):
    return model_of(wan_folder, "scheduler")


def acquired(value):
    for part in PARTS:
        value.acquire(part, DirectRun())
    return value


def encoded(value):
    ids = torch.randint(4, 90, (2, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, 7:] = 0
    with torch.no_grad():
        return value.component("text_encoder")(ids, mask)[0]


@pytest.mark.parametrize("name", FLASH)
def test_the_flash_table_matches_transformers(name):
    import transformers

    cls = getattr(transformers, name)
    assert bool(cls._supports_flash_attn) is FLASH[name]
    assert cls._supports_sdpa
    assert cls._can_set_attn_implementation()


def test_every_bundled_text_encoder_is_in_the_table():
    import json

    from sgd.nodes.models.repository import repository

    folder = Path(repository.__file__).parent / "configs"
    indices = [json.loads(file.read_text()) for file in folder.glob("*/*/model_index.json")]
    assert indices
    assert {index[role][1] for index in indices for role in encoder_attention.ROLES if role in index} <= set(FLASH)


@pytest.mark.parametrize("backend", ["auto", "sdpa"])
def test_auto_and_sdpa_work_on_every_machine(backend, model, run):
    assert problems(backend, UMT5) == []
    value = acquired(attention(run, model, backend=backend, component="text_encoder"))
    assert run.details["attention"] == "sdpa"
    assert chosen(value.component("text_encoder")) == {"sdpa"}
    assert value.component("transformer") is model.component("transformer"), "only the text encoder is changed"
    plain = generate(acquired(model), ["a"], steps=1).states[-1].tensor
    assert torch.equal(generate(value, ["a"], steps=1).states[-1].tensor, plain)


@pytest.mark.skipif(version("transformers").startswith("5.17."), reason="UMT5 takes no `eager` there")
def test_values_of_one_model_keep_their_own_attention(model, run):
    eager = acquired(model.transformed(EncoderAttention("text_encoder", "eager")))
    sdpa = acquired(attention(run, model, backend="sdpa", component="text_encoder"))
    acquired(model)
    assert [chosen(v.component("text_encoder")) for v in (eager, sdpa, model)] == [{"eager"}, {"sdpa"}, {"sdpa"}]
    one, other, plain = (encoded(v) for v in (eager, sdpa, model))
    assert torch.equal(other, plain)
    assert not torch.equal(one, plain), "`eager` rounds differently"
    assert torch.allclose(one, plain, atol=1e-5)
    weights = [next(v.component("text_encoder").parameters()).data_ptr() for v in (eager, sdpa, model)]
    assert len(set(weights)) == 1, "one copy of the weights"


@pytest.mark.parametrize(("family", "builder"), [("tiny_flux", "build"), ("tiny_hunyuan_video", "hunyuan_video")])
def test_text_encoders_of_other_families_take_an_implementation(family, builder):
    import importlib

    from sgd.nodes.models.memory.component_views import view

    pipeline = getattr(importlib.import_module(f"helpers.{family}"), builder)()
    for role in encoder_attention.ROLES:
        encoder = getattr(pipeline, role).eval()
        changed = view(encoder)
        before = chosen(encoder)
        EncoderAttention(role, "eager").apply(changed, DirectRun())
        assert (chosen(changed), chosen(encoder)) == ({"eager"}, before)
        ids = torch.tensor([[5, 6, 7, 8, 1, 1]])
        mask = torch.tensor([[1, 1, 1, 1, 0, 0]])
        with torch.no_grad():
            one, other = (m(ids, attention_mask=mask)[0][:, :4] for m in (changed, encoder))
        assert torch.allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("backend", ["cudnn", "sage", "xformers"])
def test_backends_that_transformers_lacks_are_unsupported(backend, model, run, hopper):
    [problem] = problems(backend, LLAMA)
    assert (problem.code, problem.parameter) == ("unsupported", "backend")
    assert "`sdpa`" in problem.help
    with pytest.raises(NodeError, match=f"text encoders have no {backend} attention"):
        attention(run, model, backend=backend, component="text_encoder")


def test_a_problem_on_every_machine_comes_first(monkeypatch):
    monkeypatch.setattr(backends, "gpu", lambda: None)
    assert [p.code for p in problems("cudnn", LLAMA)] == ["unsupported"]
    assert [p.code for p in problems("flash", UMT5)] == ["unsupported"]
    assert [p.code for p in problems("flash", LLAMA)] == ["unavailable"]


@pytest.mark.parametrize("backend", ["flash", "flash3"])
def test_the_class_the_dtype_and_the_heads_decide(backend, model, run, hopper):
    assert problems(backend, LLAMA) == []
    assert problems(backend, LLAMA, "text_encoder_2") == []
    [problem] = problems(backend, UMT5)
    assert "UMT5EncoderModel" in problem.message
    assert [p.code for p in problems(backend, {**LLAMA, "dtype": "float32"})] == ["unsupported"]
    wide = {**LLAMA, "configs": {"text_encoder": {"text_config": {"head_dim": 320}}}}
    assert "320" in problems(backend, wide)[0].message
    assert [p.code for p in problems(backend, {**LLAMA, "components": {"text_encoder": "NewModel"}})] == ["unsupported"]
    with pytest.raises(NodeError, match="UMT5EncoderModel cannot use"):
        attention(run, model, backend=backend, component="text_encoder")


def test_a_missing_component_is_an_error(model, run):
    assert [p.code for p in problems("sdpa", UMT5, "text_encoder_2")] == ["bad-value"]
    with pytest.raises(NodeError):
        attention(run, model, backend="sdpa", component="text_encoder_2")
    once = attention(run, model, backend="sdpa", component="text_encoder")
    with pytest.raises(NodeError, match="already"):
        attention(run, once, backend="sdpa", component="text_encoder")
    assert len(attention(run, once, backend="sdpa").transforms) == 2, "the transformer can have an attention too"


def test_an_unavailable_implementation_is_an_error(model):
    from sgd.nodes.models.memory.component_views import view

    model.acquire("text_encoder", DirectRun())
    for name in ("nonsense", "flash_attention_2"):
        with pytest.raises(NodeError, match=name):
            EncoderAttention("text_encoder", name).apply(view(model.component("text_encoder")), DirectRun())
    with pytest.raises(NodeError, match="no choice of attention"):
        EncoderAttention("text_encoder", "eager").apply(torch.nn.Linear(1, 1), DirectRun())
    assert chosen(model.component("text_encoder")) == {"sdpa"}


def test_check_does_not_import_torch():
    import subprocess

    code = (
        f"import sys; sys.path.insert(0, {TESTS!r}); from helpers import node_facts;"
        "from sgd.nodes.models.nodes.model_attention import attention as a;"
        "m={'components': {'text_encoder': 'LlamaModel'}, 'configs': {}};"
        "[list(node_facts.check(a, backend=b, component='text_encoder', model=m)) for b in ('auto', 'cudnn', 'flash')];"
        "assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_workflow_encodes_with_the_changed_text_encoder(wan_folder, tmp_path):
    """`text.encode` reads the changed model; other nodes read the unchanged model."""
    file = tmp_path / "text.yaml"
    file.write_text(
        f"""
sgd: 1
name: text
nodes:
  model: {{uses: model.load, with: {{source: {wan_folder}, dtype: float32}}}}
  quiet: {{uses: model.attention, with: {{model: $model, component: text_encoder, backend: sdpa}}}}
  text: {{uses: text.encode, with: {{model: $quiet, prompt: [a], max_length: 16}}}}
  noise: {{uses: latents.noise, with: {{model: $model, width: 32, height: 32, frames: 5}}}}
  schedule: {{uses: schedule.make, with: {{model: $model, steps: 1}}}}
  denoise:
    for: {{step: $schedule}}
    carry: {{latents: $noise}}
    body:
      split:    {{uses: cfg.split,        with: {{conditioning: $text, scale: 1.0}}}}
      velocity: {{uses: denoiser.predict, with: {{model: $model, latents: $latents, step: $step, branches: $split}}}}
      guided:   {{uses: cfg.merge,        with: {{predictions: $velocity, branches: $split}}}}
    yield: {{latents: $latents}}
  saved: {{uses: latents.save, with: {{latents: $denoise, path: latents.safetensors}}}}
outputs: {{saved: $saved}}
"""
    )
    run = sgd.run(sgd.compile(file), out=tmp_path / "out", device="cpu")
    assert run.status == "done"
