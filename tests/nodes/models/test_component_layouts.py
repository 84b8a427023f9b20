"""Tables of components against the real modules, and layouts of files against diffusers' own converters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sgd
import torch
from helpers import checkpoint_layouts as layouts
from sgd.nodes.models.adapters import transformer_tables
from sgd.nodes.models.checkpoints.checkpoint_match import find, match
from sgd.nodes.models.checkpoints.component_layouts import TABLES, of_config
from sgd.nodes.models.checkpoints.stored_tensors import CheckpointHeader, StoredTensor

CONFIGS = Path(sgd.__file__).parent / "nodes" / "models" / "repository" / "configs"
PARTS = ("vae", "text_encoder", "text_encoder_2")
SHIPPED = sorted(file for part in PARTS for file in CONFIGS.glob(f"*/*/{part}/config.json"))
ENCODERS = sorted(set(TABLES) - set(transformer_tables.TABLES))

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 64}
BLOCKS = {"down_block_types": ["DownEncoderBlock2D"] * 3, "up_block_types": ["UpDecoderBlock2D"] * 3}
VISION = {"depth": 1, "hidden_size": 16, "intermediate_size": 20, "num_heads": 2, "out_hidden_size": 32}
VL = {"text_config": {**SMALL, "num_key_value_heads": 2}, "vision_config": VISION}

OTHERS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in ENCODERS if name != "Qwen2_5_VLForConditionalGeneration"),
    ("AutoencoderKL", {**BLOCKS, "block_out_channels": [32, 64, 96], "layers_per_block": 2, "latent_channels": 3}),
    ("AutoencoderKL", {**BLOCKS, "block_out_channels": [32, 32, 64], "use_quant_conv": False, "in_channels": 1}),
    ("AutoencoderKL", {**BLOCKS, "block_out_channels": [32, 32, 64], "mid_block_add_attention": False}),
    ("AutoencoderKL", {**BLOCKS, "block_out_channels": [32, 32, 64], "use_post_quant_conv": False, "out_channels": 1}),
    ("AutoencoderKLHunyuanVideo", {"spatial_compression_ratio": 4, "block_out_channels": [32, 32, 64, 64]}),
    ("AutoencoderKLHunyuanVideo", {"mid_block_add_attention": False, "layers_per_block": 1, "latent_channels": 4}),
    ("AutoencoderKLQwenImage", {"base_dim": 8, "input_channels": 4, "z_dim": 4, "num_res_blocks": 1}),
    ("AutoencoderKLQwenImage", {"base_dim": 8, "attn_scales": [0.5], "dim_mult": [1, 2, 2]}),
    ("AutoencoderKLWan", {"base_dim": 8, "attn_scales": [1.0, 0.25], "temperal_downsample": [True, False, True]}),
    ("AutoencoderKLWan", {"base_dim": 8, "decoder_base_dim": 12, "is_residual": True, "in_channels": 12}),
    ("AutoencoderKLWan", {"base_dim": 8, "num_res_blocks": 3, "is_residual": True, "dim_mult": [1, 2, 4, 4]}),
    ("CLIPTextModel", {**SMALL, "max_position_embeddings": 10}),
    ("LlamaModel", {**SMALL, "num_key_value_heads": 2, "attention_bias": True, "mlp_bias": True}),
    ("LlamaModel", {**SMALL, "head_dim": 16}),
    ("Qwen3Model", {**SMALL, "num_key_value_heads": 2, "attention_bias": True, "head_dim": 8}),
    ("T5EncoderModel", {"feed_forward_proj": "gated-gelu", "num_layers": 2, "d_kv": 8, "vocab_size": 50}),
    ("UMT5EncoderModel", {"feed_forward_proj": "relu", "num_layers": 2, "relative_attention_num_buckets": 8}),
    ("Qwen2_5_VLForConditionalGeneration", VL),
    ("Qwen2_5_VLForConditionalGeneration", {**VL, "tie_word_embeddings": True}),
    ("Qwen2_5_VLForConditionalGeneration", {**SMALL, "num_key_value_heads": 2, "vision_config": VISION}),
]


def meta(class_name: str, config: dict[str, Any]) -> Any:
    import diffusers
    import transformers

    known = {key: value for key, value in config.items() if not key.startswith("_")}
    with torch.device("meta"):
        if class_name.startswith("Autoencoder"):
            return getattr(diffusers, class_name)(**known)
        cls = getattr(transformers, class_name)
        module = cls(cls.config_class.from_dict(known))
        module.tie_weights()
        return module


def compare(class_name: str, config: dict[str, Any]) -> None:
    module, layout = meta(class_name, config), of_config(class_name, config)
    assert layout is not None
    assert dict(layout.table.shapes) == {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    own = {name for name, _ in module.named_parameters()}
    assert set(layout.tied) == set(layout.table.shapes) - own
    for name, target in layout.tied.items():
        assert module.get_parameter(name) is module.get_parameter(target)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: "/".join(file.parts[-3:-1]))
def test_a_table_is_the_state_dict_of_a_published_component(file):
    config = json.loads(file.read_text())
    index = json.loads((file.parents[1] / "model_index.json").read_text())
    compare(index[file.parent.name][1], config)


@pytest.mark.parametrize(("class_name", "config"), OTHERS)
def test_a_table_is_the_state_dict_of_any_configuration(class_name, config):
    compare(class_name, config)


@pytest.mark.parametrize(
    "config",
    [
        {"num_hidden_layers": 10**9},
        {"num_hidden_layers": [1]},
        {"hidden_size": None},
        {"hidden_size": -8},
        {"vocab_size": "many"},
        {"num_attention_heads": 0},
    ],
)
def test_a_configuration_that_makes_no_sense_has_no_layout(config):
    assert of_config("LlamaModel", config) is None


def test_an_unknown_class_has_no_layout():
    assert of_config("UNet2DConditionModel", {}) is None


def coded(module: Any) -> dict[str, torch.Tensor]:
    """A number for each row of each parameter, which tells what became of it; converters look at rows only."""
    state = module.state_dict()
    return {
        name: (torch.arange(tensor.shape[0], dtype=torch.float64) + 1e6 * number).reshape(
            -1, *(1 for _ in tensor.shape[1:])
        )
        for number, (name, tensor) in enumerate(state.items())
    }


def real(class_name: str, config: dict[str, Any]) -> Any:
    import diffusers

    with torch.device("meta"):
        return getattr(diffusers, class_name)(**config)


FLUX = {"num_layers": 2, "num_single_layers": 2, "guidance_embeds": True}
HUNYUAN = {"num_layers": 2, "num_single_layers": 2, "num_refiner_layers": 2}
IMAGE = {"num_layers": 1, "image_dim": 1280, "added_kv_proj_dim": 5120, "in_channels": 36, "out_channels": 16}

CONVERTERS = [
    ("FluxTransformer2DModel", FLUX, layouts.flux, "convert_flux_transformer_checkpoint_to_diffusers"),
    ("HunyuanVideoTransformer3DModel", HUNYUAN, layouts.hunyuan, "convert_hunyuan_video_transformer_to_diffusers"),
    ("WanTransformer3DModel", IMAGE, layouts.wan, "convert_wan_transformer_to_diffusers"),
    (
        "ZImageTransformer2DModel",
        {"n_layers": 2},
        layouts.z_image,
        "convert_z_image_transformer_checkpoint_to_diffusers",
    ),
    ("AutoencoderKLWan", {}, layouts.wan_vae, "convert_wan_vae_to_diffusers"),
]


@pytest.mark.parametrize(("class_name", "config", "layout", "converter"), CONVERTERS)
def test_a_file_is_taken_apart_as_diffusers_takes_it_apart(class_name, config, layout, converter):
    """The converters know the published sizes only, so this is done at those."""
    from diffusers.loaders import single_file_utils

    module = real(class_name, config)
    state = coded(module)
    original = layout(state)
    theirs = getattr(single_file_utils, converter)(dict(original))
    theirs.pop("norm_final.weight", None)
    assert theirs.keys() == state.keys()
    assert all(torch.equal(theirs[name], state[name]) for name in state)

    known = of_config(class_name, config)
    assert known is not None
    for key, tensor in original.items():
        if key == "norm_final.weight":
            continue
        pieces, row = find(known.table, key), 0
        assert pieces is not None, key
        for parameter, start, stop in pieces:
            assert torch.equal(theirs[parameter][start:stop], tensor[row : row + stop - start]), key
            row += stop - start
        assert row == tensor.shape[0]


def test_the_vae_of_latent_diffusion_is_taken_apart_as_diffusers_takes_it_apart():
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    config = json.loads((CONFIGS / "black-forest-labs" / "FLUX.1-dev" / "vae" / "config.json").read_text())
    module = real("AutoencoderKL", {key: value for key, value in config.items() if not key.startswith("_")})
    state = coded(module)
    theirs = convert_ldm_vae_checkpoint(layouts.kl_vae(state), config)
    assert theirs.keys() == state.keys()
    assert all(torch.equal(theirs[name].reshape(state[name].shape), state[name]) for name in state)


def header(names: dict[str, tuple[int, ...]]) -> CheckpointHeader:
    tensors = {name: StoredTensor("F32", shape, 0, 0) for name, shape in names.items()}
    return CheckpointHeader(Path("file"), "gguf", tensors, {})


PREFIXES = ("", "model.diffusion_model.", "transformer.", "a.b.c.d.")


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("class_name", TABLES)
def test_every_parameter_is_found_under_its_own_name_with_any_prefix(class_name, prefix):
    config = {} if class_name != "Qwen2_5_VLForConditionalGeneration" else VL
    known = of_config(class_name, config)
    assert known is not None
    found = match(header({prefix + name: shape for name, shape in known.table.shapes.items()}), known, "part")
    assert found.problems == ()
    for name, parts in found.parts.items():
        assert [(part.start, part.rows, part.at) for part in parts] == [(0, known.table.shapes[name][0], 0)]
        assert parts[0].key == prefix + known.tied.get(name, name)


def test_parts_of_other_components_in_one_file_are_left_alone():
    known, encoder = of_config("FluxTransformer2DModel", FLUX), of_config("T5EncoderModel", {})
    assert known is not None
    assert encoder is not None
    whole = {f"model.diffusion_model.{name}": shape for name, shape in known.table.shapes.items()}
    whole |= {f"text_encoders.t5xxl.transformer.{name}": shape for name, shape in encoder.table.shapes.items()}
    whole |= {"vae.decoder.conv_in.weight": (1,), "text_encoders.clip_l.logit_scale": ()}
    for layout, count in ((known, len(known.table.shapes)), (encoder, len(encoder.table.shapes))):
        found = match(header(whole), layout, "part")
        assert found.problems == ()
        assert len(found.parts) == count


def test_the_names_of_a_kind_of_file_are_told_apart():
    from sgd.nodes.models.checkpoints.checkpoint_kind import kind_of

    expected = {
        "FluxTransformer2DModel": "FLUX",
        "HunyuanVideoTransformer3DModel": "HunyuanVideo",
        "QwenImageTransformer2DModel": "Qwen-Image",
        "WanTransformer3DModel": "Wan",
        "ZImageTransformer2DModel": "Z-Image",
        "AutoencoderKL": "VAE",
        "CLIPTextModel": "CLIP",
        "LlamaModel": "language model",
        "T5EncoderModel": "T5",
    }
    for class_name, word in expected.items():
        known = of_config(class_name, {})
        assert known is not None
        kind = kind_of(header(dict(known.table.shapes)))
        assert kind is not None
        assert word in kind, (class_name, kind)
