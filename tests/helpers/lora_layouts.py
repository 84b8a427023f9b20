"""Random adapters in the layouts that trainers write, and the weights that they make, merged by hand.

The names of layers in the original repositories are written down here a second time, from the converters of single
files in diffusers (loaders/single_file_utils.py), so that the package's own table is not compared with itself.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

import torch

Tensors = dict[str, torch.Tensor]
Layers = dict[str, tuple[str, ...]]
"""Layers of the model that the rows of one layer in a file belong to, in order."""


def _double(block: int, **names: str) -> Layers:
    """A block of two streams; `names` are those in which FLUX and HunyuanVideo differ."""
    here, there = f"transformer_blocks.{block}", f"double_blocks.{block}"
    image, text = (f"{there}.img_attn{names['dot']}", f"{there}.txt_attn{names['dot']}")
    return {
        f"{image}qkv": (f"{here}.attn.to_q", f"{here}.attn.to_k", f"{here}.attn.to_v"),
        f"{image}proj": (f"{here}.attn.to_out.0",),
        f"{text}qkv": (f"{here}.attn.add_q_proj", f"{here}.attn.add_k_proj", f"{here}.attn.add_v_proj"),
        f"{text}proj": (f"{here}.attn.to_add_out",),
        f"{there}.img_mod.{names['mod']}": (f"{here}.norm1.linear",),
        f"{there}.txt_mod.{names['mod']}": (f"{here}.norm1_context.linear",),
        f"{there}.img_mlp.{names['first']}": (f"{here}.ff.net.0.proj",),
        f"{there}.txt_mlp.{names['second']}": (f"{here}.ff_context.net.2",),
    }


def _single(block: int, modulation: str) -> Layers:
    here, there = f"single_transformer_blocks.{block}", f"single_blocks.{block}"
    attention = tuple(f"{here}.attn.to_{letter}" for letter in "qkv")
    return {
        f"{there}.linear1": (*attention, f"{here}.proj_mlp"),
        f"{there}.linear2": (f"{here}.proj_out",),
        f"{there}.modulation.{modulation}": (f"{here}.norm.linear",),
    }


SWAPPED = "swapped:"
"""Before a layer whose halves are in the other order in the original."""

ORIGINAL: dict[str, Layers] = {
    "wan": {
        "patch_embedding": ("patch_embedding",),
        "time_embedding.0": ("condition_embedder.time_embedder.linear_1",),
        "time_projection.1": ("condition_embedder.time_proj",),
        "text_embedding.2": ("condition_embedder.text_embedder.linear_2",),
        "head.head": ("proj_out",),
        "blocks.0.self_attn.q": ("blocks.0.attn1.to_q",),
        "blocks.0.self_attn.o": ("blocks.0.attn1.to_out.0",),
        "blocks.1.cross_attn.v": ("blocks.1.attn2.to_v",),
        "blocks.1.ffn.0": ("blocks.1.ffn.net.0.proj",),
        "blocks.1.ffn.2": ("blocks.1.ffn.net.2",),
    },
    "flux": {
        **_double(0, dot=".", mod="lin", first="0", second="2"),
        **_single(1, "lin"),
        "img_in": ("x_embedder",),
        "txt_in": ("context_embedder",),
        "time_in.in_layer": ("time_text_embed.timestep_embedder.linear_1",),
        "vector_in.out_layer": ("time_text_embed.text_embedder.linear_2",),
        "guidance_in.in_layer": ("time_text_embed.guidance_embedder.linear_1",),
        "final_layer.linear": ("proj_out",),
        "final_layer.adaLN_modulation.1": (f"{SWAPPED}norm_out.linear",),
    },
    "hunyuan_video": {
        **_double(1, dot="_", mod="linear", first="fc1", second="fc2"),
        **_single(0, "linear"),
        "img_in.proj": ("x_embedder.proj",),
        "time_in.mlp.0": ("time_text_embed.timestep_embedder.linear_1",),
        "vector_in.in_layer": ("time_text_embed.text_embedder.linear_1",),
        "guidance_in.mlp.2": ("time_text_embed.guidance_embedder.linear_2",),
        "txt_in.input_embedder": ("context_embedder.proj_in",),
        "txt_in.t_embedder.mlp.2": ("context_embedder.time_text_embed.timestep_embedder.linear_2",),
        "txt_in.c_embedder.linear_1": ("context_embedder.time_text_embed.text_embedder.linear_1",),
        "txt_in.individual_token_refiner.blocks.0.self_attn_qkv": tuple(
            f"context_embedder.token_refiner.refiner_blocks.0.attn.to_{letter}" for letter in "qkv"
        ),
        "txt_in.individual_token_refiner.blocks.0.mlp.fc2": (
            "context_embedder.token_refiner.refiner_blocks.0.ff.net.2",
        ),
        "txt_in.individual_token_refiner.blocks.0.adaLN_modulation.1": (
            "context_embedder.token_refiner.refiner_blocks.0.norm_out.linear",
        ),
        "final_layer.linear": ("proj_out",),
        "final_layer.adaLN_modulation.1": (f"{SWAPPED}norm_out.linear",),
    },
    "qwen_image": {
        name: (name,)
        for name in (
            *("img_in", "txt_in", "time_text_embed.timestep_embedder.linear_1", "proj_out", "norm_out.linear"),
            *("transformer_blocks.0.attn.to_q", "transformer_blocks.0.attn.add_k_proj"),
            *("transformer_blocks.1.attn.to_out.0", "transformer_blocks.1.attn.to_add_out"),
            *("transformer_blocks.0.img_mod.1", "transformer_blocks.0.txt_mod.1"),
            *("transformer_blocks.1.img_mlp.net.0.proj", "transformer_blocks.1.txt_mlp.net.2"),
        )
    },
    "z_image": {
        "x_embedder": ("all_x_embedder.2-1",),
        "final_layer.linear": ("all_final_layer.2-1.linear",),
        "final_layer.adaLN_modulation.1": ("all_final_layer.2-1.adaLN_modulation.1",),
        "t_embedder.mlp.0": ("t_embedder.mlp.0",),
        "cap_embedder.1": ("cap_embedder.1",),
        "layers.0.attention.qkv": tuple(f"layers.0.attention.to_{letter}" for letter in "qkv"),
        "layers.0.attention.out": ("layers.0.attention.to_out.0",),
        "layers.1.feed_forward.w2": ("layers.1.feed_forward.w2",),
        "layers.1.adaLN_modulation.0": ("layers.1.adaLN_modulation.0",),
        "noise_refiner.0.feed_forward.w1": ("noise_refiner.0.feed_forward.w1",),
        "context_refiner.0.attention.out": ("context_refiner.0.attention.to_out.0",),
    },
}

BUILDERS = {
    "wan": ("tiny", "wan_transformer"),
    "flux": ("tiny_flux", "transformer"),
    "hunyuan_video": ("tiny_hunyuan_video", "transformer"),
    "qwen_image": ("tiny_qwen_image", "transformer"),
    "z_image": ("tiny_z_image", "transformer"),
}


def transformer(family: str) -> Any:
    """A tiny transformer of a family."""
    module, function = BUILDERS[family]
    build = getattr(importlib.import_module(f"helpers.{module}"), function)
    return build(True) if family == "flux" else build()


def own_layers(family: str) -> Layers:
    """The same layers under the model's own names."""
    layers = [layer.removeprefix(SWAPPED) for layers in ORIGINAL[family].values() for layer in layers]
    return {layer: (layer,) for layer in layers}


Layout = tuple[Callable[[str], Layers], Callable[[str], str], dict[str, str]]


def _flat(prefix: str) -> Callable[[str], str]:
    return lambda layer: prefix + layer.replace(".", "_")


DOWN_UP = {"down": "lora_down.weight", "up": "lora_up.weight"}
A_B = {"down": "lora_A.weight", "up": "lora_B.weight"}

LAYOUTS: dict[str, Layout] = {
    "diffusers": (own_layers, "transformer.{}".format, A_B),
    "no prefix": (own_layers, str, A_B),
    "peft": (
        own_layers,
        "base_model.model.{}".format,
        {"down": "lora_A.default.weight", "up": "lora_B.default.weight"},
    ),
    "old diffusers": (
        own_layers,
        "transformer.{}".format,
        {"down": "lora.down.weight", "up": "lora.up.weight"},
    ),
    "lycoris": (own_layers, _flat("lycoris_"), DOWN_UP),
    "OneTrainer": (own_layers, _flat("lora_transformer_"), DOWN_UP),
    "ComfyUI": (ORIGINAL.__getitem__, "diffusion_model.{}".format, DOWN_UP),
    "original, no prefix": (ORIGINAL.__getitem__, str, A_B),
    "original, peft": (ORIGINAL.__getitem__, "base_model.model.{}".format, A_B),
    "kohya": (ORIGINAL.__getitem__, _flat("lora_unet_"), DOWN_UP),
    "VideoX-Fun": (ORIGINAL.__getitem__, _flat("lora_unet__"), DOWN_UP),
    "HunyuanVideo-I2V": (ORIGINAL.__getitem__, _flat("Hunyuan_video_I2V_lora_"), DOWN_UP),
    "compiled": (own_layers, "transformer._orig_mod.{}".format, A_B),
    "whole checkpoint": (ORIGINAL.__getitem__, "model.diffusion_model.{}".format, DOWN_UP),
}
"""Names of layers, their spelling, and the names of the two parts of a LoRA."""


class Maker:
    """A source of random tensors."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def random(self, *shape: int) -> torch.Tensor:
        return 0.2 * torch.randn(shape, generator=self.generator)


Made = tuple[Tensors, Callable[[torch.Tensor, float], torch.Tensor]]
"""Tensors by part, and the weight that a weight becomes at some scale."""


def lora(make: Maker, shape: tuple[int, ...], rank: int = 4, alpha: float | None = None) -> Made:
    tensors = {"down": make.random(rank, *shape[1:]), "up": make.random(shape[0], rank, *[1] * (len(shape) - 2))}
    if alpha is not None:
        tensors["alpha"] = torch.tensor(alpha)
    change = (tensors["up"].flatten(1) @ tensors["down"].flatten(1)).reshape(shape)
    factor = 1.0 if alpha is None else alpha / rank
    return tensors, lambda weight, scale: weight + scale * factor * change


def dora(make: Maker, shape: tuple[int, ...], name: str, by_input: bool = False) -> Made:
    tensors, add = lora(make, shape, alpha=2.0)
    size = [1, shape[1], *[1] * (len(shape) - 2)] if by_input else [shape[0], *[1] * (len(shape) - 1)]
    magnitude = 1 + make.random(*size).abs()
    tensors[name] = magnitude.flatten() if name == "lora_magnitude_vector" else magnitude
    others = [d for d in range(len(shape)) if d != (1 if by_input else 0)]

    def made(weight: torch.Tensor, scale: float) -> torch.Tensor:
        changed = add(weight, scale)
        return magnitude * changed / changed.pow(2).sum(dim=others, keepdim=True).sqrt()

    return tensors, made


def loha(make: Maker, shape: tuple[int, ...]) -> Made:
    rank, columns = 3, math.prod(shape[1:])
    tensors = {
        "hada_w1_a": make.random(shape[0], rank),
        "hada_w1_b": make.random(rank, columns),
        "hada_w2_a": make.random(shape[0], rank),
        "hada_w2_b": make.random(rank, columns),
        "alpha": torch.tensor(1.5),
    }
    change = (tensors["hada_w1_a"] @ tensors["hada_w1_b"]) * (tensors["hada_w2_a"] @ tensors["hada_w2_b"])
    return tensors, lambda weight, scale: weight + scale * 1.5 / rank * change.reshape(shape)


def loha_tucker(make: Maker, shape: tuple[int, ...]) -> Made:
    rank = 3
    tensors = {f"hada_w{n}_a": make.random(rank, shape[0]) for n in (1, 2)}
    tensors |= {f"hada_w{n}_b": make.random(rank, shape[1]) for n in (1, 2)}
    tensors |= {f"hada_t{n}": make.random(rank, rank, *shape[2:]) for n in (1, 2)}
    one, two = (
        torch.einsum("ij...,ip,jr->pr...", tensors[f"hada_t{n}"], tensors[f"hada_w{n}_a"], tensors[f"hada_w{n}_b"])
        for n in (1, 2)
    )
    return tensors, lambda weight, scale: weight + scale * one * two


def _small(shape: tuple[int, ...]) -> tuple[int, int]:
    """The first factor of a Kronecker product: 2 where the size is even."""
    return 2 - shape[0] % 2, 2 - shape[1] % 2


def lokr(make: Maker, shape: tuple[int, ...], factored: str = "") -> Made:
    """A Kronecker product of a small matrix and the rest, whose factors in `factored` are products of two."""
    first = _small(shape)
    rank, tensors = 2, {"alpha": torch.tensor(3.0)}
    sizes = {"1": first, "2": (shape[0] // first[0], math.prod(shape[1:]) // first[1])}
    for number, (rows, width) in sizes.items():
        if number in factored:
            tensors[f"lokr_w{number}_a"] = make.random(rows, rank)
            tensors[f"lokr_w{number}_b"] = make.random(rank, width)
        else:
            tensors[f"lokr_w{number}"] = make.random(rows, width)
    factors = [
        tensors[f"lokr_w{n}_a"] @ tensors[f"lokr_w{n}_b"] if n in factored else tensors[f"lokr_w{n}"] for n in "12"
    ]
    if "2" not in factored:  # LyCORIS stores the second factor in the shape of the layer
        tensors["lokr_w2"] = tensors["lokr_w2"].reshape(shape[0] // first[0], shape[1] // first[1], *shape[2:])
    change = torch.kron(*factors).reshape(shape)
    factor = 3.0 / rank if factored else 1.0
    return tensors, lambda weight, scale: weight + scale * factor * change


def lokr_tucker(make: Maker, shape: tuple[int, ...]) -> Made:
    rank, small = 2, _small(shape)
    tensors = {
        "lokr_w1": make.random(*small),
        "lokr_w2_a": make.random(rank, shape[0] // small[0]),
        "lokr_w2_b": make.random(rank, shape[1] // small[1]),
        "lokr_t2": make.random(rank, rank, *shape[2:]),
        "alpha": torch.tensor(1.0),
    }
    second = torch.einsum("ij...,ip,jr->pr...", tensors["lokr_t2"], tensors["lokr_w2_a"], tensors["lokr_w2_b"])
    first = tensors["lokr_w1"].reshape(*small, *[1] * (len(shape) - 2))
    change = torch.kron(first, second.contiguous())
    return tensors, lambda weight, scale: weight + scale / rank * change


def locon_tucker(make: Maker, shape: tuple[int, ...]) -> Made:
    ones = [1] * (len(shape) - 2)
    tensors = {
        "down": make.random(3, shape[1], *ones),
        "up": make.random(shape[0], 3, *ones),
        "lora_mid.weight": make.random(3, 3, *shape[2:]),
    }
    up, down = tensors["up"].flatten(1), tensors["down"].flatten(1)
    change = torch.einsum("oi,ij...,jn->on...", up, tensors["lora_mid.weight"], down)
    return tensors, lambda weight, scale: weight + scale * change


def diff(make: Maker, shape: tuple[int, ...]) -> Made:
    tensors = {"diff": make.random(*shape)}
    return tensors, lambda weight, scale: weight + scale * tensors["diff"]


FORMS: dict[str, Callable[[Maker, tuple[int, ...]], Made]] = {
    "lora": lora,
    "alpha below rank": lambda make, shape: lora(make, shape, rank=8, alpha=2.0),
    "alpha above rank": lambda make, shape: lora(make, shape, rank=2, alpha=16.0),
    "dora": lambda make, shape: dora(make, shape, "dora_scale"),
    "dora of peft": lambda make, shape: dora(make, shape, "lora_magnitude_vector"),
    "dora by input": lambda make, shape: dora(make, shape, "dora_scale", by_input=True),
    "loha": loha,
    "lokr": lokr,
    "lokr, second factored": lambda make, shape: lokr(make, shape, "2"),
    "lokr, both factored": lambda make, shape: lokr(make, shape, "12"),
    "diff": diff,
    "loha with a core": loha_tucker,
    "lokr with a core": lokr_tucker,
    "lora with a core": locon_tucker,
}


def taken_apart(weight: torch.Tensor, layers: tuple[str, ...], state: Tensors, of: str = "weight") -> Tensors:
    """The parameters of a model's layers, from the rows of a layer as a file has it."""
    found: Tensors = {}
    for layer in layers:
        name = f"{layer.removeprefix(SWAPPED)}.{of}"
        rows, weight = weight[: len(state[name])], weight[len(state[name]) :]
        found[name] = torch.cat(rows.chunk(2)[::-1]) if layer.startswith(SWAPPED) else rows
    assert not len(weight)
    return found


def put_together(layers: tuple[str, ...], state: Tensors, of: str = "weight") -> torch.Tensor:
    """A layer as a file has it, from the parameters of the model's layers."""
    parts = []
    for layer in layers:
        tensor = state[f"{layer.removeprefix(SWAPPED)}.{of}"]
        parts.append(torch.cat(tensor.chunk(2)[::-1]) if layer.startswith(SWAPPED) else tensor)
    return torch.cat(parts)


def adapted(
    state: Tensors, family: str, layout: str, form: str, *, scale: float = 1.0, seed: int = 0, only: str = ""
) -> tuple[Tensors, Tensors]:
    """Random adapters for some layers of every kind that a family has.

    Args:
        state: The parameters of the transformer.
        family: One of `BUILDERS`.
        layout: One of `LAYOUTS`.
        form: One of `FORMS`.
        scale: At which the adapters are merged.
        seed: Of the random numbers.
        only: Leave out layers whose names do not contain this.

    Returns:
        The tensors of the file, and the parameters that are merged by hand.
    """
    names, write, spelling = LAYOUTS[layout]
    make, file, merged = Maker(seed), {}, dict[str, torch.Tensor]()
    for name, layers in names(family).items():
        if only not in name:
            continue
        weight = put_together(layers, state)
        tensors, change = FORMS[form](make, tuple(weight.shape))
        for part, tensor in tensors.items():
            file[f"{write(name)}.{spelling.get(part, part)}"] = tensor.clone().contiguous()
        merged |= taken_apart(change(weight, scale), layers, state)
        if f"{layers[0].removeprefix(SWAPPED)}.bias" in state:
            bias = put_together(layers, state, "bias")
            file[f"{write(name)}.diff_b"] = added = make.random(*bias.shape)
            merged |= taken_apart(bias + scale * added, layers, state, "bias")
    return file, merged
