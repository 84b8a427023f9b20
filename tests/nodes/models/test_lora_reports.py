"""Every tensor of a file is applied or named; `sgd check` and the node itself say the same, without weights."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers import node_facts
from helpers.direct import DirectRun, model_of
from helpers.lora_files import GOOD, WIDTH, K, Q, checked, ones, pair, saved
from helpers.lora_layouts import adapted, transformer
from safetensors.torch import save_file
from sgd.graph.contract.errors import NodeError
from sgd.nodes.models.adapters import adapter_header, transformer_tables
from sgd.nodes.models.adapters.adapter_match import OTHER_FORM, OTHER_MODEL, match
from sgd.nodes.models.nodes.model_load import load
from sgd.nodes.models.nodes.model_lora import lora
from sgd.nodes.models.transforms.lora_transform import Lora

WRONG: dict[str, tuple[dict[str, torch.Tensor], str]] = {
    "a whole weight": ({f"{Q}.weight": ones(WIDTH, WIDTH)}, rf"{Q}\.weight is for blocks\.0\.attn1\.to_q, in a form"),
    "a whole table": (
        GOOD | {"transformer.scale_shift_table": ones(1, 2, WIDTH)},
        r"transformer\.scale_shift_table is",
    ),
    "OFT": (GOOD | {f"{K}.oft_blocks": ones(4, 6, 6)}, rf"{K}\.oft_blocks is for blocks\.0\.attn1\.to_k, in a form"),
    "GLoRA": (GOOD | {f"{K}.a1.weight": ones(4, WIDTH)}, rf"{K}\.a1\.weight is for"),
    "a replaced weight": (GOOD | {f"{K}.set_weight": ones(WIDTH, WIDTH)}, rf"{K}\.set_weight is for"),
    "scaled fp8": (GOOD | {f"{K}.lora_up.scale_weight": ones(1)}, rf"{K}\.lora_up\.scale_weight is for"),
    "too wide": (pair(Q, into=48), r"lora_down\.weight is for .*gives a change of 24×48, and the weight has 24×24"),
    "too long": (pair(Q, out=48), r"lora_up\.weight is for .*gives a change of 48×24, and the weight has 24×24"),
    "ranks that differ": ({f"{Q}.lora_down.weight": ones(4, 24), f"{Q}.lora_up.weight": ones(24, 8)}, "lora_up.weight"),
    "no up": ({f"{Q}.lora_down.weight": ones(4, WIDTH)}, r"lora_down\.weight is for .*needs lora_up"),
    "no down": (GOOD | {f"{K}.lora_up.weight": ones(WIDTH, 4)}, r"lora_up\.weight is for .*needs lora_down"),
    "alpha alone": (GOOD | {f"{K}.alpha": torch.tensor(1.0)}, rf"{K}\.alpha is for .*has nothing else"),
    "alpha of two numbers": (GOOD | {f"{Q}.alpha": ones(2)}, rf"{Q}\.alpha is not a single number"),
    "magnitudes alone": (GOOD | {f"{K}.dora_scale": ones(WIDTH, 1)}, rf"{K}\.dora_scale .* has no adapter"),
    "magnitudes of another size": (GOOD | {f"{Q}.dora_scale": ones(7, 1)}, rf"{Q}\.dora_scale is for .*7×1"),
    "half a LoHa": (
        {f"{Q}.hada_w1_a": ones(WIDTH, 2), f"{Q}.hada_w1_b": ones(2, WIDTH), f"{Q}.hada_w2_a": ones(WIDTH, 2)},
        "hada_w1_a is for .*needs hada_w2_b",
    ),
    "half a LoKr": ({f"{Q}.lokr_w1": ones(2, 2)}, r"lokr_w1 is for .*needs lokr_w2_a or lokr_w2"),
    "a LoKr of another size": (
        {f"{Q}.lokr_w1": ones(2, 2), f"{Q}.lokr_w2": ones(12, 10)},
        "lokr_w2 is for .*gives a change of 24×20",
    ),
    "a difference of another size": (
        {f"{Q}.diff": ones(WIDTH, 23)},
        r"\.diff is for .*24×23, and the parameter has 24×24",
    ),
    "a bias of another size": (GOOD | {f"{Q}.diff_b": ones(23)}, r"\.diff_b is for .*the bias has 24 numbers"),
    "a bias where there is none": (
        GOOD | {"diffusion_model.blocks.0.self_attn.norm_q.diff_b": ones(WIDTH)},
        r"norm_q\.diff_b is for blocks\.0\.attn1\.norm_q, which has no bias",
    ),
    "a bias of the first factor": (GOOD | {f"{Q}.lora_A.bias": ones(4)}, r"lora_A\.bias is for .*form"),
    "a table of another size": (GOOD | {"diffusion_model.blocks.0.diff_m": ones(1, 5, WIDTH)}, r"blocks\.0\.diff_m is"),
    "an empty tensor": (pair(Q, rank=0), "is empty"),
    "one layer under two names": (
        GOOD | pair("diffusion_model.blocks.0.self_attn.qkv", out=3 * WIDTH),
        r"is for blocks\.0\.attn1\.to_q, and so is",
    ),
    "two adapters": (
        {
            f"{Q}.lora_{part}.{name}.weight": ones(4, 24) if part == "A" else ones(24, 4)
            for part in "AB"
            for name in "cd"
        },
        "same layer and part",
    ),
    "a number that is no real one": (GOOD | {f"{Q}.diff": torch.ones(WIDTH, WIDTH, dtype=torch.complex64)}, "C64"),
    "another model": (pair("transformer.single_blocks.0.attn.to_q"), "has nothing for transformer: 2 tensors"),
    "an encoder alone": (pair("lora_te1_text_model_encoder_layers_0_mlp_fc1"), "has nothing for transformer"),
    "two alphas for the whole file": (
        GOOD | {"alpha": torch.tensor(1.0), "diffusion_model.alpha": torch.tensor(2.0)},
        r"diffusion_model\.alpha is an alpha for the whole file, as alpha is",
    ),
    "nothing": ({"a": ones(1)}, r"has nothing for transformer: 1 tensor \(a\)"),
}

WARNED: dict[str, tuple[dict[str, torch.Tensor], str]] = {
    "a text encoder": (
        GOOD | pair("lora_te1_text_model_encoder_layers_0_self_attn_q_proj"),
        r"2 tensors \(lora_te1_text_model_encoder_layers_0_self_attn_q_proj\.lora_down\.weight, .*text encoder",
    ),
    "a text encoder of diffusers": (GOOD | pair("text_encoder.layer.0.q"), r"2 tensors \(text_encoder.*text encoder"),
    "an image branch": (
        GOOD | pair("diffusion_model.blocks.0.cross_attn.k_img"),
        r"2 tensors \(diffusion_model\.blocks\.0\.cross_attn\.k_img.* layers that transformer does not have",
    ),
    "more blocks": (GOOD | pair("diffusion_model.blocks.9.ffn.0"), r"blocks\.9\.ffn\.0\.lora_down.* does not have"),
    "a norm without weights": (
        GOOD | {"diffusion_model.blocks.0.norm1.diff": ones(WIDTH)},
        r"1 tensor \(diffusion_model\.blocks\.0\.norm1\.diff\) is for layers",
    ),
    "an alpha for the whole file where each layer has one": (
        GOOD | {f"{Q}.alpha": torch.tensor(1.0), "alpha": torch.tensor(2.0)},
        r"1 tensor \(alpha\) is an alpha that scales nothing",
    ),
    "an alpha of a difference": (
        GOOD | {f"{K}.diff": ones(WIDTH, WIDTH), f"{K}.alpha": torch.tensor(2.0)},
        r"1 tensor \(diffusion_model\.blocks\.0\.self_attn\.k\.alpha\) is an alpha that scales nothing",
    ),
    "the other expert": (
        GOOD | pair("transformer_2.blocks.0.attn1.to_v"),
        r"2 tensors \(transformer_2\.blocks\.0\.attn1\.to_v\.lora_down\.weight, .* for another transformer",
    ),
    "fused and split": (
        pair("lora_unet_blocks_0_self_attn_qkv", out=72)
        | {k: v for layer in "qkv" for k, v in pair(f"transformer.blocks.0.attn1.to_{layer}").items()},
        r"2 tensors \(lora_unet_blocks_0_self_attn_qkv.* twice",
    ),
}


@pytest.fixture
def model(wan_folder):
    return model_of(wan_folder, "scheduler")


@pytest.mark.parametrize("case", WRONG)
def test_a_tensor_that_cannot_be_applied_is_an_error_that_names_it(tmp_path, wan_folder, model, case):
    tensors, message = WRONG[case]
    source, run = saved(tmp_path, tensors), DirectRun()
    found = [problem for problem in checked(wan_folder, source) if problem.severity == "error"]
    [problem] = found
    assert problem.code == "bad-value"
    assert problem.parameter == "source"
    form = problem.message.split(";")[0].endswith("in a form that cannot be applied")
    assert problem.help == (OTHER_FORM if form else OTHER_MODEL)
    assert re.search(message, problem.message), problem.message
    with pytest.raises(NodeError) as error:
        lora(run, model, source)
    assert error.value.diagnostic.message == problem.message
    with pytest.raises(NodeError) as error:
        Lora("transformer", Path(source), 1.0).apply(transformer("wan"), run)
    assert error.value.diagnostic.message == problem.message


@pytest.mark.parametrize("case", WARNED)
def test_tensors_for_layers_that_the_model_lacks_are_named_and_counted(tmp_path, wan_folder, model, case):
    tensors, message = WARNED[case]
    source, run = saved(tmp_path, tensors), DirectRun()
    [problem] = checked(wan_folder, source)
    assert (problem.severity, problem.parameter) == ("warning", "source")
    assert re.search(message, problem.message), problem.message
    value = lora(run, model, source)
    assert run.warnings == [problem.message]
    left = len(tensors) - run.details["lora_tensors"]
    assert f" {left} tensor" in problem.message
    value.acquire("transformer", run)


def test_check_and_load_say_the_same_of_good_files(tmp_path, wan_folder, model):
    state = model_of(wan_folder, "transformer").component("transformer").state_dict()
    for layout in ("diffusers", "ComfyUI", "kohya"):
        file, _ = adapted(state, "wan", layout, "alpha below rank")
        source, run = saved(tmp_path, file), DirectRun()
        assert checked(wan_folder, source) == []
        lora(run, model, source)
        assert run.warnings == []
        assert run.details["lora_tensors"] == len(file)


def test_the_second_transformer_is_asked_for_by_name(tmp_path, wan_folder):
    facts = load.node.describe(node_facts.facts(load.node, {"source": str(wan_folder)}))  # type: ignore[misc]
    source = saved(tmp_path, GOOD)
    [problem] = node_facts.check(lora, model=facts, source=source, component="transformer_2")
    assert problem.message.endswith("has no component transformer_2")


def test_without_a_model_on_this_disk_check_says_nothing(tmp_path):
    assert node_facts.check(lora, source=saved(tmp_path, WRONG["OFT"][0]), component="transformer") == []


def test_check_of_a_full_size_file_takes_milliseconds():
    """A LoRA on every layer of the largest Wan transformer."""
    table = transformer_tables.of_config("WanTransformer3DModel", {})
    assert table is not None
    tensors = {}
    for index in range(40):
        for name in ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "cross_attn.q", "cross_attn.o"):
            key = f"diffusion_model.blocks.{index}.{name}"
            tensors[f"{key}.lora_down.weight"] = adapter_header.TensorHeader("BF16", (64, 5120))
            tensors[f"{key}.lora_up.weight"] = adapter_header.TensorHeader("BF16", (5120, 64))
            tensors[f"{key}.alpha"] = adapter_header.TensorHeader("F32", ())
    started = time.perf_counter()
    found = match(adapter_header.AdapterHeader(tensors, {}), table, "transformer", "a.safetensors")
    assert time.perf_counter() - started < 0.25
    assert found.applied == len(tensors)
    assert found.problems == ()


@pytest.mark.parametrize(
    "pattern", ["(a+)+b", "(", "x" * 500, ".*.*.*.*.*.*b"], ids=["nested", "broken", "long", "repeated"]
)
def test_patterns_of_alpha_that_cannot_be_read_are_an_error(tmp_path, model, pattern):
    metadata = {"lora_adapter_metadata": json.dumps({"r": 4, "lora_alpha": 8, "alpha_pattern": {pattern: 1}})}
    save_file(GOOD, tmp_path / "a.safetensors", metadata)
    with pytest.raises(NodeError, match="which cannot be read"):
        lora(DirectRun(), model, str(tmp_path / "a.safetensors"))


def test_tensors_for_the_two_transformers_of_one_file_are_told_apart(tmp_path, wan_folder):
    first, second = pair("transformer.blocks.0.attn1.to_q"), pair("transformer_2.blocks.0.attn1.to_k")
    header = adapter_header.read(Path(saved(tmp_path, first | second)))
    config = json.loads((wan_folder / "transformer" / "config.json").read_text())
    table = transformer_tables.of_config("WanTransformer3DModel", config)
    assert table is not None
    for component, layer, other in (("transformer", "to_q", second), ("transformer_2", "to_k", first)):
        found = match(header, table, component, "a.safetensors")
        assert [piece.layer for own in found.adapters for piece in own.pieces] == [f"blocks.0.attn1.{layer}"]
        [problem] = found.problems
        assert problem.severity == "warning"
        assert f"2 tensors ({', '.join(sorted(other))}) are for another transformer than {component}" in problem.message


def test_check_needs_no_torch(tmp_path, wan_folder):
    code = """
import sys
from sgd.nodes.models.nodes.model_load import ModelLoadFacts, load
from sgd.nodes.models.nodes.model_lora import ModelLoraFacts, lora

model = load.node.describe(ModelLoadFacts(source=sys.argv[1]))
[problem] = lora.node.check(ModelLoraFacts(model=model, source=sys.argv[2], component="transformer"))
assert problem.severity == "error"
assert not {"torch", "diffusers", "safetensors", "peft"} & set(sys.modules)
"""
    source = saved(tmp_path, WRONG["OFT"][0])
    subprocess.run([sys.executable, "-c", code, str(wan_folder), source], check=True)
