"""Every form of adapter in every layout of names, for every family: the weights are those merged by hand."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest
import torch
from helpers import tiny_wan_image
from helpers.direct import DirectRun
from helpers.lora_layouts import BUILDERS, FORMS, LAYOUTS, Maker, adapted, lora
from helpers.merged_weights import NEAR, compare, merged, module_of, saved
from sgd.nodes.models.memory.component_views import view
from sgd.nodes.models.transforms.lora_transform import Lora

WITH_ALL_FORMS = ("diffusers", "lycoris", "ComfyUI", "kohya")
"""Layouts that are tried with every form: the model's names and the original ones, with dots and flat."""

SOME_FORMS = ("alpha below rank", "lokr", "diff")

COMBINED = [(layout, form) for layout in LAYOUTS for form in FORMS if layout in WITH_ALL_FORMS or form in SOME_FORMS]


@pytest.mark.parametrize(("layout", "form"), COMBINED)
@pytest.mark.parametrize("family", BUILDERS)
def test_weights_are_those_merged_by_hand(tmp_path, family, layout, form):
    file, expected = adapted(module_of(family).state_dict(), family, layout, form, scale=0.7)
    compare(merged(family, Lora("transformer", saved(tmp_path, file), 0.7)), family, expected)


DTYPES = [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", ["alpha below rank", "lokr", "dora"])
def test_files_of_any_dtype(tmp_path, form, dtype):
    state = module_of("wan").state_dict()
    file, _ = adapted(state, "wan", "ComfyUI", form)
    stored = {key: tensor.to(dtype) for key, tensor in file.items()}
    exact = {key: tensor.float() for key, tensor in stored.items()}
    made = merged("wan", Lora("transformer", saved(tmp_path, stored), 1.0))
    expected = merged("wan", Lora("transformer", saved(tmp_path, exact, "exact"), 1.0))
    assert all(torch.equal(made[key], tensor) for key, tensor in expected.items())
    assert any(not torch.equal(made[key], tensor) for key, tensor in state.items())


def test_several_loras_add_up_and_are_cast_once(tmp_path):
    """In bfloat16 the sum is that of float32, which no cast in between has changed."""
    family = "flux"
    module = deepcopy(module_of(family)).bfloat16()
    state = {key: tensor.float() for key, tensor in module.state_dict().items()}
    one, first = adapted(state, family, "ComfyUI", "lora", scale=0.5, seed=1)
    two, expected = adapted({**state, **first}, family, "diffusers", "alpha below rank", scale=-0.8, seed=2)
    files = [saved(tmp_path, one, "one"), saved(tmp_path, two, "two")]
    made: Any = view(module)
    Lora("transformer", files[0], 0.5).apply_with([Lora("transformer", files[1], -0.8)], made, DirectRun())
    assert expected.keys() == first.keys()
    for key, tensor in expected.items():
        found = made.state_dict()[key]
        assert found.dtype == torch.bfloat16
        assert torch.allclose(found.float(), tensor.bfloat16().float(), rtol=2**-7, atol=1e-6), key
        assert (found == tensor.bfloat16()).float().mean() > 0.99, key


def test_scale_zero_changes_nothing(tmp_path):
    file, _ = adapted(module_of("wan").state_dict(), "wan", "kohya", "dora")
    compare(merged("wan", Lora("transformer", saved(tmp_path, file), 0.0)), "wan", {})


def test_norms_modulation_tables_and_heads(tmp_path):
    state, make = module_of("wan").state_dict(), Maker(0)
    names = {
        "blocks.0.self_attn.norm_q.diff": "blocks.0.attn1.norm_q.weight",
        "blocks.0.norm3.diff": "blocks.0.norm2.weight",
        "blocks.0.norm3.diff_b": "blocks.0.norm2.bias",
        "blocks.1.diff_m": "blocks.1.scale_shift_table",
        "blocks.0.modulation.diff": "blocks.0.scale_shift_table",
        "head.diff_m": "scale_shift_table",
        "head.head.diff": "proj_out.weight",
        "head.head.diff_b": "proj_out.bias",
        "patch_embedding.diff": "patch_embedding.weight",
        "blocks.1.cross_attn.norm_k.w_norm": "blocks.1.attn2.norm_k.weight",
    }
    for prefix in ("diffusion_model.", "lora_unet_"):
        file, expected = {}, {}
        for name, key in names.items():
            layer, _, part = name.rpartition(".")
            layer = layer.replace(".", "_") if prefix == "lora_unet_" else layer
            file[f"{prefix}{layer}.{part}"] = change = make.random(*state[key].shape)
            expected[key] = state[key] + 0.5 * change
        compare(merged("wan", Lora("transformer", saved(tmp_path, file), 0.5)), "wan", expected)


def test_norms_and_padding_of_other_families(tmp_path):
    for family, name, key in (
        ("flux", "double_blocks.0.img_attn.norm.query_norm", "transformer_blocks.0.attn.norm_q.weight"),
        ("hunyuan_video", "double_blocks.0.txt_attn_k_norm", "transformer_blocks.0.attn.norm_added_k.weight"),
        ("qwen_image", "txt_norm", "txt_norm.weight"),
        ("z_image", "layers.1.attention.q_norm", "layers.1.attention.norm_q.weight"),
        ("z_image", "cap_pad_token", "cap_pad_token"),
    ):
        plain = module_of(family).state_dict()[key]
        file = {f"diffusion_model.{name}.diff": torch.ones_like(plain)}
        expected = {key: plain + 1}
        compare(merged(family, Lora("transformer", saved(tmp_path, file), 1.0)), family, expected)


@pytest.mark.parametrize("prefix", ["diffusion_model.", "lora_unet_", ""])
def test_the_image_branch_of_wan(tmp_path, prefix):
    """Original names: wan/modules/model.py of Wan 2.1, WanI2VCrossAttention and MLPProj."""
    module = tiny_wan_image.image_to_video(last=True).transformer
    state, make = module.state_dict(), Maker(6)
    names = {
        "blocks.0.cross_attn.k_img": "blocks.0.attn2.add_k_proj",
        "blocks.1.cross_attn.v_img": "blocks.1.attn2.add_v_proj",
        "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
        "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
        "patch_embedding": "patch_embedding",
    }
    differences = {
        "blocks.0.cross_attn.norm_k_img.diff": "blocks.0.attn2.norm_added_k.weight",
        "img_emb.proj.0.diff": "condition_embedder.image_embedder.norm1.weight",
        "img_emb.proj.4.diff_b": "condition_embedder.image_embedder.norm2.bias",
        "img_emb.emb_pos.diff": "condition_embedder.image_embedder.pos_embed",
    }

    def written(layer: str) -> str:
        return prefix + (layer.replace(".", "_") if prefix == "lora_unet_" else layer)

    file: dict[str, torch.Tensor] = {}
    expected: dict[str, torch.Tensor] = {}
    for name, layer in names.items():
        tensors, change = lora(make, tuple(state[f"{layer}.weight"].shape), alpha=2.0)
        spelling = {"down": "lora_down.weight", "up": "lora_up.weight", "alpha": "alpha"}
        file |= {f"{written(name)}.{spelling[part]}": tensor for part, tensor in tensors.items()}
        expected[f"{layer}.weight"] = change(state[f"{layer}.weight"], 0.7)
    for name, key in differences.items():
        layer, _, part = name.rpartition(".")
        file[f"{written(layer)}.{part}"] = added = make.random(*state[key].shape)
        expected[key] = state[key] + 0.7 * added
    made: Any = view(module)
    Lora("transformer", saved(tmp_path, file), 0.7).apply(made, DirectRun())
    for key, tensor in made.state_dict().items():
        right = expected.get(key, state[key])
        assert (tensor - right).abs().max() <= NEAR * right.abs().max(), key


QKV = tuple(f"layers.0.attention.to_{letter}" for letter in "qkv")


def test_names_that_are_split_and_joined(tmp_path):
    """Names of fused projections that diffusers has itself, and XLabs' names."""
    for family, name, layers in (
        ("flux", "transformer.transformer_blocks.0.attn.to_added_qkv", "transformer_blocks.0.attn.add_{}_proj"),
        ("qwen_image", "transformer_blocks.1.attn.to_qkv", "transformer_blocks.1.attn.to_{}"),
        ("wan", "blocks.1.self_attn.qkv", "blocks.1.attn1.to_{}"),
        ("flux", "double_blocks.1.processor.qkv_lora1", "transformer_blocks.1.attn.to_{}"),
        ("flux", "single_blocks.1.processor.qkv_lora", "single_transformer_blocks.1.attn.to_{}"),
    ):
        state = module_of(family).state_dict()
        weights = [state[f"{layers.format(letter)}.weight"] for letter in "qkv"]
        tensors, change = lora(Maker(3), (3 * len(weights[0]), *weights[0].shape[1:]))
        own = "" if "_lora" in name else ".lora"
        file = {f"{name}{own}.{part}.weight": tensor for part, tensor in tensors.items()}
        changed = change(torch.cat(weights), 1.0).chunk(3)
        expected = {f"{layers.format(letter)}.weight": rows for letter, rows in zip("qkv", changed, strict=True)}
        compare(merged(family, Lora("transformer", saved(tmp_path, file), 1.0)), family, expected)


def test_a_bias_of_the_second_factor(tmp_path):
    """`lora_bias` of peft: it is scaled as the product is."""
    state, make, name = module_of("flux").state_dict(), Maker(1), "transformer_blocks.0.attn.to_q"
    tensors, change = lora(make, tuple(state[f"{name}.weight"].shape), alpha=8.0)
    bias = make.random(*state[f"{name}.bias"].shape)
    file = {f"transformer.{name}.lora_A.weight": tensors["down"], f"transformer.{name}.lora_B.weight": tensors["up"]}
    file |= {f"transformer.{name}.lora_B.bias": bias, f"transformer.{name}.alpha": tensors["alpha"]}
    expected = {f"{name}.weight": change(state[f"{name}.weight"], 0.5)}
    expected[f"{name}.bias"] = state[f"{name}.bias"] + 0.5 * 8 / 4 * bias
    compare(merged("flux", Lora("transformer", saved(tmp_path, file), 0.5)), "flux", expected)


@pytest.mark.parametrize("prefix", ["transformer.", ""])
@pytest.mark.parametrize(
    ("settings", "factor"),
    [
        ({"r": 4, "lora_alpha": 8}, 2.0),
        ({"r": 4, "lora_alpha": 8, "use_rslora": True}, 4.0),
        ({"r": 4, "lora_alpha": 8, "alpha_pattern": {"attn1.to_q": 1}}, 0.25),
        ({"r": 4, "lora_alpha": 8, "alpha_pattern": {"^blocks.0.attn1.to_q$": 1}}, 0.25),
        ({"r": 4, "lora_alpha": 8, "alpha_pattern": {r"blocks\.\d+\.attn1\.to_(q|k)": 1}}, 0.25),
        ({"r": 4, "lora_alpha": 8, "alpha_pattern": {"attn1.to_k": 1}}, 2.0),
    ],
)
def test_alpha_of_the_metadata(tmp_path, settings, factor, prefix):
    state, name = module_of("wan").state_dict(), "blocks.0.attn1.to_q"
    tensors, change = lora(Maker(2), tuple(state[f"{name}.weight"].shape))
    file = {f"transformer.{name}.lora_A.weight": tensors["down"], f"transformer.{name}.lora_B.weight": tensors["up"]}
    metadata = json.dumps({prefix + key: value for key, value in settings.items()})
    path = saved(tmp_path, file, lora_adapter_metadata=metadata)
    expected = {f"{name}.weight": change(state[f"{name}.weight"], factor)}
    compare(merged("wan", Lora("transformer", path, 1.0)), "wan", expected)


def test_one_alpha_for_the_whole_file_and_another_for_one_layer(tmp_path):
    state, make = module_of("wan").state_dict(), Maker(2)
    file: dict[str, torch.Tensor] = {}
    expected: dict[str, torch.Tensor] = {}
    for name, alpha in (("blocks.0.attn1.to_q", None), ("blocks.0.attn1.to_k", 1.0)):
        tensors, change = lora(make, tuple(state[f"{name}.weight"].shape))
        file |= {f"{name}.lora_A.weight": tensors["down"], f"{name}.lora_B.weight": tensors["up"]}
        if alpha is not None:
            file[f"{name}.alpha"] = torch.tensor([alpha])
        expected[f"{name}.weight"] = change(state[f"{name}.weight"], (2.0 if alpha is None else alpha) / 4)
    file["alpha"] = torch.tensor(2)
    compare(merged("wan", Lora("transformer", saved(tmp_path, file), 1.0)), "wan", expected)


def test_two_forms_for_one_layer(tmp_path):
    state, make, name = module_of("wan").state_dict(), Maker(4), "blocks.0.attn1.to_q"
    weight = state[f"{name}.weight"]
    tensors, change = lora(make, tuple(weight.shape))
    whole = make.random(*weight.shape)
    key = "diffusion_model.blocks.0.self_attn.q"
    file = {f"{key}.lora_A.weight": tensors["down"], f"{key}.lora_B.weight": tensors["up"], f"{key}.diff": whole}
    expected = {f"{name}.weight": change(weight, 0.3) + 0.3 * whole}
    compare(merged("wan", Lora("transformer", saved(tmp_path, file), 0.3)), "wan", expected)


def test_layers_under_two_names_are_applied_once(tmp_path):
    """Some trainers of Z-Image write `qkv` beside `to.q`, `to.k` and `to.v`, and `out` beside `to_out.0`."""
    state, make = module_of("z_image").state_dict(), Maker(5)
    file: dict[str, torch.Tensor] = {}
    expected: dict[str, torch.Tensor] = {}
    for name, layer in (("to.q", "to_q"), ("to.k", "to_k"), ("to.v", "to_v"), ("to_out.0", "to_out.0")):
        weight = state[f"layers.0.attention.{layer}.weight"]
        tensors, change = lora(make, tuple(weight.shape))
        file |= {f"layers.0.attention.{name}.lora.{part}.weight": tensor for part, tensor in tensors.items()}
        expected[f"layers.0.attention.{layer}.weight"] = change(weight, 1.0)
    for name, rows in (("qkv", 96), ("out", 32)):
        tensors, _ = lora(make, (rows, 32))
        file |= {f"layers.0.attention.{name}.lora.{part}.weight": tensor for part, tensor in tensors.items()}
    compare(merged("z_image", Lora("transformer", saved(tmp_path, file), 1.0)), "z_image", expected)


def test_metadata_of_a_second_transformer(tmp_path):
    """Files for a second transformer are written as those for the first, or with its own name."""
    state, name = module_of("wan").state_dict(), "blocks.0.attn1.to_q"
    tensors, change = lora(Maker(2), tuple(state[f"{name}.weight"].shape))
    file = {f"{name}.lora_A.weight": tensors["down"], f"{name}.lora_B.weight": tensors["up"]}
    expected = {f"{name}.weight": change(state[f"{name}.weight"], 2.0)}
    for prefix in ("transformer.", "transformer_2."):
        metadata = json.dumps({f"{prefix}r": 4, f"{prefix}lora_alpha": 8})
        path = saved(tmp_path, file, lora_adapter_metadata=metadata)
        compare(merged("wan", Lora("transformer_2", path, 1.0)), "wan", expected)


def test_magnitudes_of_a_row_without_direction(tmp_path):
    """A row of zeros, as untrained heads have, stays one."""
    module = deepcopy(module_of("wan"))
    module.proj_out.weight.data[3] = 0
    weight = module.proj_out.weight.data.clone()
    file = {
        "proj_out.lora_A.weight": torch.zeros(2, weight.shape[1]),
        "proj_out.lora_B.weight": torch.zeros(weight.shape[0], 2),
        "proj_out.dora_scale": torch.ones(weight.shape[0], 1),
    }
    made: Any = view(module)
    Lora("transformer", saved(tmp_path, file), 1.0).apply(made, DirectRun())
    norm = weight.norm(dim=1, keepdim=True)
    assert torch.allclose(made.proj_out.weight, torch.where(norm > 0, weight / norm, 0.0))
