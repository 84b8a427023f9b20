"""Components built from configurations: random weights, modules on the meta device, bundled configurations."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from helpers.direct import BOTH, DirectRun
from sgd.graph.contract.errors import NodeError
from sgd.nodes import text
from sgd.nodes.models.nodes.model_load import load
from sgd.nodes.models.repository import dummy, repository
from sgd.nodes.models.repository.tokenizers import stand_in
from sgd.nodes.support import cost_meter

CONFIGS = repository.BUNDLED
INDEX = json.loads((CONFIGS / "index.json").read_text())


@pytest.fixture
def dummy_run():
    run = DirectRun()
    run.options = {"weights": "dummy"}
    return run


@pytest.fixture
def plan_run():
    run = DirectRun()
    run.device, run.planning, run.options = "meta", True, {"device": "cuda"}
    return run


@pytest.fixture
def configs_only(wan_folder, tmp_path):
    """A model's folder without weights and without a vocabulary."""
    for path in wan_folder.rglob("*config.json"):
        target = tmp_path / "bare" / path.relative_to(wan_folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    shutil.copy(wan_folder / "model_index.json", tmp_path / "bare")
    return tmp_path / "bare"


def shapes(module):
    return {name: (t.shape, t.dtype) for name, t in (*module.named_parameters(), *module.named_buffers())}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("part", ["transformer", "text_encoder", "vae"])
def test_shapes_and_dtypes_equal_the_real_component(wan_folder, configs_only, run, dummy_run, plan_run, part, dtype):
    real = load(run, str(wan_folder), dtype=dtype, vae_dtype=dtype)
    made = load(dummy_run, str(configs_only), dtype=dtype, vae_dtype=dtype)
    planned = load(plan_run, str(configs_only), dtype=dtype, vae_dtype=dtype)
    real.acquire(part, run)
    made.acquire(part, dummy_run)
    planned.acquire(part, plan_run)
    expected = shapes(real.component(part))
    assert shapes(made.component(part)) == expected
    assert shapes(planned.component(part)) == expected
    assert real.weights.parameters(part) == made.weights.parameters(part) == planned.weights.parameters(part)
    assert all(t.device.type == "meta" for t in planned.component(part).parameters())


@pytest.mark.parametrize("part", ["transformer", "text_encoder", "vae"])
def test_buffers_equal_the_real_component(wan_folder, configs_only, run, dummy_run, part):
    real, made = load(run, str(wan_folder)), load(dummy_run, str(configs_only))
    real.acquire(part, run)
    made.acquire(part, dummy_run)
    buffers = dict(made.component(part).named_buffers())
    for name, expected in real.component(part).named_buffers():
        assert torch.equal(buffers[name], expected), name


def test_weights_are_normal_and_gains_are_one(configs_only, dummy_run):
    model = load(dummy_run, str(configs_only))
    for part in ("transformer", "text_encoder", "vae"):
        model.acquire(part, dummy_run)
    transformer = model.component("transformer")
    assert torch.all(transformer.blocks[0].attn1.norm_q.weight == 1)
    assert torch.all(model.component("vae").decoder.norm_out.gamma == 1)
    weight = transformer.blocks[0].ffn.net[0].proj.weight
    assert weight.std().item() == pytest.approx(dummy.STD, rel=0.1)
    assert not torch.equal(weight, transformer.blocks[1].ffn.net[0].proj.weight)
    encoder = model.component("text_encoder")
    assert encoder.shared.weight is encoder.encoder.embed_tokens.weight
    assert dummy_run.details["weights"] == "dummy"


def test_a_dummy_model_generates(configs_only, dummy_run):
    model = load(dummy_run, str(configs_only))
    for part in model.weights.repository.components:
        model.acquire(part, dummy_run)
    with torch.no_grad():
        made = text.encode(dummy_run, BOTH, model, ["a red circle"], negative=[""], max_length=16)
        frames = model.family.decode(model, torch.zeros(1, 16, 2, 4, 4))
    assert made.positive["encoder_hidden_states"].isfinite().all()
    assert frames.isfinite().all()
    assert any("tokenizer is not on this disk" in warning for warning in dummy_run.warnings)


CHECKSUM = """
import sys, torch
from sgd.nodes.models.repository.dummy import dummy_module
from diffusers import WanTransformer3DModel
torch.set_num_threads(int(sys.argv[1]))
config = dict(num_attention_heads=2, attention_head_dim=128, ffn_dim=512, num_layers=2, text_dim=64)
module = dummy_module(WanTransformer3DModel, config, torch.bfloat16, "cpu", seed=int(sys.argv[2]))
print(*(f"{p.double().sum().item():.17g}" for p in module.parameters()))
"""


def checksum(threads, seed):
    command = [sys.executable, "-c", CHECKSUM, str(threads), str(seed)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, env=environment).stdout


@pytest.mark.slow
def test_reproducible_by_seed_with_any_number_of_threads():
    first = checksum(1, 0)
    assert checksum(2, 0) == first
    assert checksum(2, 1) != first


def test_weights_depend_only_on_seed_and_name():
    from diffusers import WanTransformer3DModel

    config = {"num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 32, "num_layers": 1, "text_dim": 32}
    one, two, other = (
        dummy.dummy_module(WanTransformer3DModel, config, torch.float32, "cpu", seed=s) for s in (0, 0, 1)
    )
    deeper = dummy.dummy_module(WanTransformer3DModel, config | {"num_layers": 2}, torch.float32, "cpu").state_dict()
    state = one.state_dict()
    assert all(torch.equal(state[name], value) for name, value in two.state_dict().items())
    assert all(torch.equal(value, deeper[name]) for name, value in state.items())
    assert not torch.equal(one.proj_out.weight, other.proj_out.weight)


def test_bad_config_is_a_node_error(configs_only, plan_run):
    path = configs_only / "transformer/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_layers": "many"}))
    with pytest.raises(NodeError, match=r'transformer/config.json: .* "many"'):
        load(plan_run, str(configs_only)).acquire("transformer", plan_run)


@pytest.mark.parametrize("name", INDEX)
def test_bundled_configurations_have_the_published_parameter_counts(name, plan_run):
    """Building the components needs no network and no memory."""
    model = load(plan_run, name)
    repository = model.weights.repository
    assert repository.kind == "bundled"
    counts = {part: model.weights.parameters(part)[0] for part in repository.components}
    assert {part: count for part, count in counts.items() if count} == INDEX[name]["parameters"]
    for part in ("scheduler", "tokenizer"):
        model.acquire(part, plan_run)
    # Schedulers that only do flow matching do not name their prediction type.
    assert model.component("scheduler").config.get("prediction_type", "flow_prediction") == "flow_prediction"


def test_every_folder_is_in_the_index():
    assert {str(path.parent.relative_to(CONFIGS)) for path in CONFIGS.rglob("model_index.json")} == set(INDEX)


def test_transformers_have_the_published_sizes():
    billions = {name: entry["parameters"]["transformer"] / 1e9 for name, entry in INDEX.items()}
    assert billions["Wan-AI/Wan2.1-T2V-1.3B-Diffusers"] == pytest.approx(1.419, rel=1e-4)
    assert billions["Wan-AI/Wan2.1-T2V-14B-Diffusers"] == pytest.approx(14.289, rel=1e-4)
    assert billions["Tongyi-MAI/Z-Image-Turbo"] == pytest.approx(6, rel=0.03)
    assert billions["black-forest-labs/FLUX.1-dev"] == pytest.approx(12, rel=0.01)
    assert billions["Qwen/Qwen-Image"] == pytest.approx(20, rel=0.03)


def test_a_stand_in_tokenizer_for_umt5():
    encoder = {"model_type": "umt5", "vocab_size": 256384, "pad_token_id": 0, "eos_token_id": 1}
    tokenizer = stand_in(encoder, {"model_max_length": 512})
    assert len(tokenizer) == 256384
    assert tokenizer.model_max_length == 512
    encoded = tokenizer("a red circle, moving left", padding="max_length", max_length=12, truncation=True)
    assert encoded.input_ids[:8] == [2, 2, 2, 2, 2, 2, 1, 0]
    assert encoded.attention_mask == [1] * 7 + [0] * 5
    assert tokenizer("word " * 50, max_length=12, truncation=True).input_ids == [2] * 11 + [1]


def test_a_stand_in_tokenizer_for_clip():
    tokenizer = stand_in(
        {"model_type": "clip_text_model", "vocab_size": 49408, "bos_token_id": 49406, "eos_token_id": 49407}, {}
    )
    assert tokenizer.model_max_length == 77
    assert tokenizer("a dog").input_ids == [49406, 2, 2, 49407]


def test_plans_read_no_weights(wan_folder, tmp_path, plan_run):
    folder = shutil.copytree(wan_folder, tmp_path / "model")
    for path in folder.rglob("*.safetensors"):
        path.write_bytes(b"")
    model = load(plan_run, str(folder))
    with cost_meter.runtime(plan_run):
        for part in model.weights.repository.components:
            model.prefetch(part, plan_run)
            model.acquire(part, plan_run)
    assert model.device == "meta"
    assert model.component("tokenizer")("a").input_ids  # the real one
    assert plan_run.details["dtype"] == "bfloat16"
