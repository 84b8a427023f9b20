"""State dicts of tiny models in the layouts of other programs, for tests of one-file checkpoints.

The names are those of the original repositories, written here by hand, apart from the tables of the package:
Wan-AI/Wan2.1 and Wan2.2 (wan/modules), black-forest-labs/flux (src/flux/model.py), Tencent/HunyuanVideo (hyvideo),
Tongyi-MAI/Z-Image, CompVis/latent-diffusion (ldm/modules/diffusionmodules/model.py), llama.cpp (gguf-py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

State = Mapping[str, torch.Tensor]
Rules = tuple[tuple[str, str], ...]

WAN: Rules = (
    (r"condition_embedder\.time_embedder\.linear_1", "time_embedding.0"),
    (r"condition_embedder\.time_embedder\.linear_2", "time_embedding.2"),
    (r"condition_embedder\.time_proj", "time_projection.1"),
    (r"condition_embedder\.text_embedder\.linear_1", "text_embedding.0"),
    (r"condition_embedder\.text_embedder\.linear_2", "text_embedding.2"),
    (r"condition_embedder\.image_embedder\.norm1", "img_emb.proj.0"),
    (r"condition_embedder\.image_embedder\.ff\.net\.0\.proj", "img_emb.proj.1"),
    (r"condition_embedder\.image_embedder\.ff\.net\.2", "img_emb.proj.3"),
    (r"condition_embedder\.image_embedder\.norm2", "img_emb.proj.4"),
    (r"condition_embedder\.image_embedder\.pos_embed", "img_emb.emb_pos"),
    (r"^proj_out", "head.head"),
    (r"^scale_shift_table", "head.modulation"),
    (r"\.scale_shift_table", ".modulation"),
    (r"\.attn1\.", ".self_attn."),
    (r"\.attn2\.", ".cross_attn."),
    (r"\.to_([qkv])\.", r".\1."),
    (r"\.to_out\.0\.", ".o."),
    (r"\.add_([kv])_proj\.", r".\1_img."),
    (r"\.norm_added_k\.", ".norm_k_img."),
    (r"\.norm2\.", ".norm3."),
    (r"\.ffn\.net\.0\.proj\.", ".ffn.0."),
    (r"\.ffn\.net\.2\.", ".ffn.2."),
)

DOUBLE: Rules = (
    (r"^transformer_blocks", "double_blocks"),
    (r"^single_transformer_blocks", "single_blocks"),
    (r"\.norm1_context\.linear", ".txt_mod.lin"),
    (r"\.norm1\.linear", ".img_mod.lin"),
    (r"(single_blocks\.\d+)\.norm\.linear", r"\1.modulation.lin"),
    (r"(double_blocks\.\d+)\.attn\.norm_q\.weight", r"\1.img_attn.norm.query_norm.scale"),
    (r"(double_blocks\.\d+)\.attn\.norm_k\.weight", r"\1.img_attn.norm.key_norm.scale"),
    (r"\.attn\.norm_added_q\.weight", ".txt_attn.norm.query_norm.scale"),
    (r"\.attn\.norm_added_k\.weight", ".txt_attn.norm.key_norm.scale"),
    (r"(single_blocks\.\d+)\.attn\.norm_q\.weight", r"\1.norm.query_norm.scale"),
    (r"(single_blocks\.\d+)\.attn\.norm_k\.weight", r"\1.norm.key_norm.scale"),
    (r"\.attn\.to_out\.0\.", ".img_attn.proj."),
    (r"\.attn\.to_add_out\.", ".txt_attn.proj."),
    (r"(double_blocks\.\d+)\.ff\.net\.0\.proj", r"\1.img_mlp.0"),
    (r"(double_blocks\.\d+)\.ff\.net\.2", r"\1.img_mlp.2"),
    (r"\.ff_context\.net\.0\.proj", ".txt_mlp.0"),
    (r"\.ff_context\.net\.2", ".txt_mlp.2"),
    (r"(single_blocks\.\d+)\.proj_out", r"\1.linear2"),
    (r"^time_text_embed\.timestep_embedder\.linear_1", "time_in.in_layer"),
    (r"^time_text_embed\.timestep_embedder\.linear_2", "time_in.out_layer"),
    (r"^time_text_embed\.guidance_embedder\.linear_1", "guidance_in.in_layer"),
    (r"^time_text_embed\.guidance_embedder\.linear_2", "guidance_in.out_layer"),
    (r"^time_text_embed\.text_embedder\.linear_1", "vector_in.in_layer"),
    (r"^time_text_embed\.text_embedder\.linear_2", "vector_in.out_layer"),
    (r"^norm_out\.linear", "final_layer.adaLN_modulation.1"),
    (r"^proj_out", "final_layer.linear"),
)

FLUX: Rules = (*DOUBLE, (r"^context_embedder", "txt_in"), (r"^x_embedder", "img_in"))

REFINER: Rules = (
    (r"^x_embedder\.proj", "img_in.proj"),
    (r"^context_embedder\.proj_in", "txt_in.input_embedder"),
    (r"^context_embedder\.time_text_embed\.timestep_embedder\.linear_1", "txt_in.t_embedder.mlp.0"),
    (r"^context_embedder\.time_text_embed\.timestep_embedder\.linear_2", "txt_in.t_embedder.mlp.2"),
    (r"^context_embedder\.time_text_embed\.text_embedder", "txt_in.c_embedder"),
    (r"^context_embedder\.token_refiner\.refiner_blocks", "txt_in.individual_token_refiner.blocks"),
    (r"(txt_in.*)\.norm_out\.linear", r"\1.adaLN_modulation.1"),
)

HUNYUAN: Rules = (
    *((pattern, new) for pattern, new in REFINER),
    (r"(txt_in.*)\.attn\.to_out\.0", r"\1.self_attn_proj"),
    (r"(txt_in.*)\.ff\.net\.0\.proj", r"\1.mlp.fc1"),
    (r"(txt_in.*)\.ff\.net\.2", r"\1.mlp.fc2"),
    *DOUBLE,
    (r"_mod\.lin\.", "_mod.linear."),
    (r"modulation\.lin\.", "modulation.linear."),
    (r"(double.*)(img|txt)_attn\.norm\.query_norm\.scale", r"\1\2_attn_q_norm.weight"),
    (r"(double.*)(img|txt)_attn\.norm\.key_norm\.scale", r"\1\2_attn_k_norm.weight"),
    (r"(single.*)\.norm\.query_norm\.scale", r"\1.q_norm.weight"),
    (r"(single.*)\.norm\.key_norm\.scale", r"\1.k_norm.weight"),
    (r"(img|txt)_attn\.proj", r"\1_attn_proj"),
    (r"(img|txt)_mlp\.0", r"\1_mlp.fc1"),
    (r"(img|txt)_mlp\.2", r"\1_mlp.fc2"),
    (r"^(time|guidance)_in\.in_layer", r"\1_in.mlp.0"),
    (r"^(time|guidance)_in\.out_layer", r"\1_in.mlp.2"),
)
"""Tencent's own names."""

HUNYUAN_COMFY: Rules = (
    *REFINER,
    (r"(txt_in.*)\.attn\.to_out\.0", r"\1.self_attn.proj"),
    (r"(txt_in.*)\.ff\.net\.0\.proj", r"\1.mlp.0"),
    (r"(txt_in.*)\.ff\.net\.2", r"\1.mlp.2"),
    (r"txt_in\.(t|c)_embedder\.mlp\.0", r"txt_in.\1_embedder.in_layer"),
    (r"txt_in\.(t|c)_embedder\.mlp\.2", r"txt_in.\1_embedder.out_layer"),
    (r"txt_in\.c_embedder\.linear_1", "txt_in.c_embedder.in_layer"),
    (r"txt_in\.c_embedder\.linear_2", "txt_in.c_embedder.out_layer"),
    *DOUBLE,
)
"""The names in ComfyUI's repackaged files."""

Z_IMAGE: Rules = (
    (r"^all_x_embedder\.2-1", "x_embedder"),
    (r"^all_final_layer\.2-1", "final_layer"),
    (r"\.attention\.to_out\.0\.", ".attention.out."),
    (r"\.attention\.norm_([qk])\.", r".attention.\1_norm."),
)

QKV = ("to_q", "to_k", "to_v")
ADDED = ("add_q_proj", "add_k_proj", "add_v_proj")
DOUBLE_FUSED = (
    (r"(double_blocks\.\d+)\.attn\.to_q\.(\w+)", tuple(rf"\1.attn.{n}.\2" for n in QKV), r"\1.img_attn.qkv.\2"),
    (r"(double_blocks\.\d+)\.attn\.add_q_proj\.(\w+)", tuple(rf"\1.attn.{n}.\2" for n in ADDED), r"\1.txt_attn.qkv.\2"),
    (
        r"(single_blocks\.\d+)\.attn\.to_q\.(\w+)",
        (*(rf"\1.attn.{n}.\2" for n in QKV), r"\1.proj_mlp.\2"),
        r"\1.linear1.\2",
    ),
    (r"(txt_in.*)\.attn\.to_q\.(\w+)", tuple(rf"\1.attn.{n}.\2" for n in QKV), r"\1.self_attn.qkv.\2"),
)
"""Layers that the originals have as one: a pattern of the first, all of them, and the name of the one."""

UNDERSCORES = tuple((pattern, layers, new.replace("attn.qkv", "attn_qkv")) for pattern, layers, new in DOUBLE_FUSED)
Z_IMAGE_FUSED = ((r"(.*\.attention)\.to_q\.(\w+)", tuple(rf"\1.{n}.\2" for n in QKV), r"\1.qkv.\2"),)

SWAPPED = ("final_layer.adaLN_modulation.1.weight", "final_layer.adaLN_modulation.1.bias")
"""diffusers has the scale before the shift here, the originals of FLUX and HunyuanVideo the shift first."""


def renamed(name: str, rules: Rules) -> str:
    for pattern, new in rules:
        name = re.sub(pattern, new, name)
    return name


def converted(state: State, rules: Rules, fused: Any = (), swapped: bool = False) -> dict[str, torch.Tensor]:
    """A state dict in another layout."""
    made = {renamed(name, rules): tensor for name, tensor in state.items()}
    assert len(made) == len(state), "two parameters got one name"
    for pattern, layers, new in fused:
        for name in list(made):
            found = re.fullmatch(pattern, name)
            if found is not None:
                made[found.expand(new)] = torch.cat([made.pop(found.expand(layer)) for layer in layers])
    if swapped:
        made |= {name: torch.cat(made[name].chunk(2)[::-1]) for name in SWAPPED}
    return made


def wan(state: State) -> dict[str, torch.Tensor]:
    return converted(state, WAN)


def flux(state: State) -> dict[str, torch.Tensor]:
    return converted(state, FLUX, DOUBLE_FUSED, swapped=True)


def hunyuan(state: State) -> dict[str, torch.Tensor]:
    return converted(state, HUNYUAN, UNDERSCORES, swapped=True)


def hunyuan_comfy(state: State) -> dict[str, torch.Tensor]:
    return converted(state, HUNYUAN_COMFY, DOUBLE_FUSED, swapped=True)


def z_image(state: State) -> dict[str, torch.Tensor]:
    """The original also has a norm that it never calls."""
    made = converted(state, Z_IMAGE, Z_IMAGE_FUSED)
    return {**made, "norm_final.weight": torch.ones(state["cap_embedder.1.bias"].shape[0])}


def same(state: State) -> dict[str, torch.Tensor]:
    return dict(state)


WAN_BLOCK: Rules = (
    (r"\.norm1\.gamma", ".residual.0.gamma"),
    (r"\.conv1\.", ".residual.2."),
    (r"\.norm2\.gamma", ".residual.3.gamma"),
    (r"\.conv2\.", ".residual.6."),
    (r"\.conv_shortcut\.", ".shortcut."),
)

WAN_VAE_OUTSIDE: Rules = (
    (r"^quant_conv\.", "conv1."),
    (r"^post_quant_conv\.", "conv2."),
    (r"coder\.conv_in\.", "coder.conv1."),
    (r"coder\.norm_out\.", "coder.head.0."),
    (r"coder\.conv_out\.", "coder.head.2."),
    (r"coder\.mid_block\.resnets\.0\.", "coder.middle.0."),
    (r"coder\.mid_block\.attentions\.0\.", "coder.middle.1."),
    (r"coder\.mid_block\.resnets\.1\.", "coder.middle.2."),
)


def wan_vae(state: State) -> dict[str, torch.Tensor]:
    """Wan's own names; the decoder is one sequence of blocks and upsampling layers."""
    order = sorted(
        {m[0] for name in state if (m := re.match(r"decoder\.up_blocks\.\d+\.(resnets|upsamplers)\.\d+", name))},
        key=lambda name: (int(name.split(".")[2]), name.split(".")[3] == "upsamplers", int(name.split(".")[4])),
    )
    rules = [(rf"^{re.escape(name)}\.", f"decoder.upsamples.{index}.") for index, name in enumerate(order)]
    return converted(state, (*WAN_BLOCK, *rules, (r"^encoder\.down_blocks", "encoder.downsamples"), *WAN_VAE_OUTSIDE))


def wan22_vae(state: State, blocks: int) -> dict[str, torch.Tensor]:
    """The names of wan/modules/vae2_2.py; `blocks` is the number of residual blocks of each block of the encoder."""
    rules = (
        (r"^encoder\.down_blocks\.(\d+)\.resnets", r"encoder.downsamples.\1.downsamples"),
        (r"^encoder\.down_blocks\.(\d+)\.downsampler", rf"encoder.downsamples.\1.downsamples.{blocks}"),
        (r"^decoder\.up_blocks\.(\d+)\.resnets", r"decoder.upsamples.\1.upsamples"),
        (r"^decoder\.up_blocks\.(\d+)\.upsampler", rf"decoder.upsamples.\1.upsamples.{blocks + 1}"),
    )
    return converted(state, (*WAN_BLOCK, *rules, *WAN_VAE_OUTSIDE))


def kl_vae(state: State) -> dict[str, torch.Tensor]:
    """The names of latent diffusion: attention of convolutions, blocks of the decoder counted from the output."""
    last = max(int(m[1]) for name in state if (m := re.match(r"decoder\.up_blocks\.(\d+)", name)))
    up = [(rf"^decoder\.up_blocks\.{i}\.", f"decoder.up.{last - i}.") for i in range(last + 1)]
    rules = (
        *up,
        (r"^encoder\.down_blocks\.", "encoder.down."),
        (r"\.resnets\.", ".block."),
        (r"\.downsamplers\.0\.", ".downsample."),
        (r"\.upsamplers\.0\.", ".upsample."),
        (r"\.conv_shortcut\.", ".nin_shortcut."),
        (r"\.conv_norm_out\.", ".norm_out."),
        (r"\.mid_block\.block\.0", ".mid.block_1"),
        (r"\.mid_block\.block\.1", ".mid.block_2"),
        (r"\.mid_block\.attentions\.0\.group_norm", ".mid.attn_1.norm"),
        (r"\.mid_block\.attentions\.0\.to_([qkv])", r".mid.attn_1.\1"),
        (r"\.mid_block\.attentions\.0\.to_out\.0", ".mid.attn_1.proj_out"),
    )
    made = converted(state, rules)
    return {
        name: tensor[:, :, None, None] if re.search(r"attn_1\.(q|k|v|proj_out)\.weight", name) else tensor
        for name, tensor in made.items()
    }


WAN_T5: Rules = (
    (r"^shared\.", "token_embedding."),
    (r"^encoder\.block\.", "blocks."),
    (r"layer\.0\.SelfAttention\.relative_attention_bias", "pos_embedding.embedding"),
    (r"layer\.0\.SelfAttention\.", "attn."),
    (r"layer\.0\.layer_norm", "norm1"),
    (r"layer\.1\.layer_norm", "norm2"),
    (r"layer\.1\.DenseReluDense\.wi_0", "ffn.gate.0"),
    (r"layer\.1\.DenseReluDense\.wi_1", "ffn.fc1"),
    (r"layer\.1\.DenseReluDense\.wo", "ffn.fc2"),
    (r"^encoder\.final_layer_norm", "norm"),
)


def without(name: str) -> Any:
    """A layout that lacks one name of a tied tensor."""
    return lambda state: {key: tensor for key, tensor in state.items() if key != name}


def wan_t5(state: State) -> dict[str, torch.Tensor]:
    """The names of wan/modules/t5.py."""
    return converted(without("encoder.embed_tokens.weight")(state), WAN_T5)


def comfy_t5(state: State) -> dict[str, torch.Tensor]:
    """ComfyUI keeps the tokenizer beside the weights."""
    return {**without("encoder.embed_tokens.weight")(state), "spiece_model": torch.zeros(100, dtype=torch.uint8)}


def comfy_clip(state: State) -> dict[str, torch.Tensor]:
    """The names before transformers 5, with the rest of `clip_l.safetensors`."""
    made = {f"text_model.{name}": tensor for name, tensor in state.items()}
    made["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    return {**made, "text_projection.weight": torch.ones(4, 4), "logit_scale": torch.ones(())}


def causal(state: State) -> dict[str, torch.Tensor]:
    """A language model with its last layer, around the model that is used."""
    return {**{f"model.{name}": tensor for name, tensor in state.items()}, "lm_head.weight": torch.ones(4, 4)}


def older_qwen_vl(state: State) -> dict[str, torch.Tensor]:
    """The names before transformers 4.52."""
    return converted(state, ((r"^model\.language_model\.", "model."), (r"^model\.visual\.", "visual.")))


def prefixed(prefix: str, layout: Callable[[State], Mapping[str, torch.Tensor]] = same) -> Any:
    """A layout whose names begin with a prefix."""
    return lambda state: {prefix + name: tensor for name, tensor in layout(state).items()}


def filled(module: Any, seed: int = 0) -> Any:
    """The module with random numbers in every parameter: norms of ones and biases of zeros would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.empty(parameter.shape).normal_(0, 0.5, generator=generator))
    return module


def source(folder: Path, pipeline: str, **modules: Any) -> Path:
    """A folder in diffusers' layout with the configurations of modules and without any weights."""
    index: dict[str, Any] = {"_class_name": pipeline}
    for part, module in modules.items():
        (folder / part).mkdir(parents=True)
        if hasattr(type(module), "config_class"):
            module.config.save_pretrained(folder / part)
        else:
            module.save_config(folder / part)
        index[part] = [type(module).__module__.split(".")[0], type(module).__name__]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder
