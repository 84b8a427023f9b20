"""Calls of rebuilt transformers and VAEs at their full widths, with one block of each kind and without values.

Tensors are on the meta device. `missing_cards.through_kernels` sends them to the Triton kernels, so sgd's own code
gives each kernel its options. Inside `compiled_kernels.compiling`, a call compiles the kernels that a card launches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from sgd.nodes.models.attention.centred_e4m3 import centred_e4m3
from sgd.nodes.models.decoders.rebuilt_vae import rebuild as rebuild_vae
from sgd.nodes.models.memory.component_views import view
from sgd.nodes.models.rebuilt.rebuilding import rebuild
from sgd.nodes.models.row_kernels import heads
from sgd.nodes.models.row_kernels.head_norms import HeadNorms
from sgd.nodes.models.row_kernels.quantized_products import QuantizedLinear
from sgd.nodes.models.transforms import sensitive_layers


def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """A tensor without values."""
    return torch.empty(shape, dtype=dtype, device="meta")


def _flux(rows: int) -> dict[str, Any]:
    return {
        "hidden_states": empty(rows, 64, 64),
        "encoder_hidden_states": empty(rows, 32, 4096),
        "pooled_projections": empty(rows, 768),
        "timestep": empty(rows),
        "guidance": empty(rows),
        "img_ids": empty(64, 3, dtype=torch.float32),
        "txt_ids": empty(32, 3, dtype=torch.float32),
    }


def _hunyuan_video(rows: int) -> dict[str, Any]:
    return {
        "hidden_states": empty(rows, 16, 3, 8, 8),
        "timestep": empty(rows, dtype=torch.int64),
        "encoder_hidden_states": empty(rows, 32, 4096),
        "encoder_attention_mask": empty(rows, 32, dtype=torch.bool),
        "pooled_projections": empty(rows, 768),
        "guidance": empty(rows),
    }


def _qwen_image(rows: int) -> dict[str, Any]:
    return {
        "hidden_states": empty(rows, 64, 64),
        "timestep": empty(rows),
        "encoder_hidden_states": empty(rows, 32, 3584),
        "encoder_hidden_states_mask": None,
        "img_shapes": [[(1, 8, 8)]] * rows,
    }


def _z_image(rows: int) -> dict[str, Any]:
    return {
        "x": [empty(16, 1, 16, 16) for _ in range(rows)],
        "t": empty(rows),
        "cap_feats": [empty(32, 2560) for _ in range(rows)],
    }


def _wan(rows: int, channels: int = 16) -> dict[str, Any]:
    return {
        "hidden_states": empty(rows, channels, 3, 8, 8),
        "timestep": empty(rows, dtype=torch.int64),
        "encoder_hidden_states": empty(rows, 512, 4096),
    }


def _wan_image(rows: int) -> dict[str, Any]:
    return _wan(rows, 36) | {"encoder_hidden_states_image": empty(rows, 257, 1280)}


Inputs = Callable[[int], dict[str, Any]]
TRANSFORMERS: Mapping[str, tuple[str, dict[str, Any], Inputs]] = {
    "FLUX.1": ("FluxTransformer2DModel", {"num_layers": 1, "num_single_layers": 1, "guidance_embeds": True}, _flux),
    "HunyuanVideo": ("HunyuanVideoTransformer3DModel", {"num_layers": 1, "num_single_layers": 1}, _hunyuan_video),
    "Qwen-Image": ("QwenImageTransformer2DModel", {"num_layers": 1}, _qwen_image),
    "Z-Image": ("ZImageTransformer2DModel", {"n_layers": 1, "n_refiner_layers": 1}, _z_image),
    "Wan 1.3B": ("WanTransformer3DModel", {"num_layers": 1, "num_attention_heads": 12, "ffn_dim": 8960}, _wan),
    "Wan 14B": ("WanTransformer3DModel", {"num_layers": 1}, _wan),
    "Wan 14B with an image": (
        "WanTransformer3DModel",
        {"num_layers": 1, "in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 5120},
        _wan_image,
    ),
    "Wan 5B": (
        "WanTransformer3DModel",
        {"num_layers": 1, "num_attention_heads": 24, "ffn_dim": 14336, "in_channels": 48, "out_channels": 48},
        lambda rows: _wan(rows, 48),
    ),
}
"""Transformers by names: class in diffusers, what differs from its default configuration, and inputs for a number of
rows. The default configurations are those of the published models."""


def call_transformer(name: str, rows: int, quantized: bool) -> None:
    """Call a rebuilt transformer once, in bfloat16.

    Args:
        name: A key of `TRANSFORMERS`.
        rows: Rows of the batch.
        quantized: Whether layers are in fp8.
    """
    import diffusers

    kind, config, inputs = TRANSFORMERS[name]
    with torch.device("meta"):
        made = getattr(diffusers, kind)(**config).to(torch.bfloat16).eval().requires_grad_(False)
    keep = set(made._keep_in_fp32_modules or ())
    for path, parameter in made.named_parameters():
        if keep & set(path.split(".")):
            parameter.data = parameter.data.float()
    module = view(made)
    if quantized:
        for path in sensitive_layers.select(module).quantized:
            outer, _, last = path.rpartition(".")
            layer = QuantizedLinear.of(module.get_submodule(path), "fp8", "meta")
            setattr(module.get_submodule(outer), last, layer)
    assert rebuild(module, join=True)
    with torch.no_grad():
        module(**inputs(rows), return_dict=False)


VAES: Mapping[str, tuple[str, dict[str, Any]]] = {
    "HunyuanVideo": ("AutoencoderKLHunyuanVideo", {}),
    "Wan 2.1": ("AutoencoderKLWan", {}),
    "Wan 2.2": (
        "AutoencoderKLWan",
        {
            "base_dim": 160,
            "decoder_base_dim": 256,
            "z_dim": 48,
            "is_residual": True,
            "in_channels": 12,
            "out_channels": 12,
            "patch_size": 2,
            "scale_factor_spatial": 16,
            "latents_mean": [0.0] * 48,
            "latents_std": [1.0] * 48,
        },
    ),
}
"""VAEs by names: class in diffusers, and what differs from its default configuration."""


def call_vae(name: str, dtype: torch.dtype) -> None:
    """Decode a few latents with a rebuilt VAE, and encode a clip of their size.

    Args:
        name: A key of `VAES`.
        dtype: Dtype of the VAE. Wan's decoders work in float16 if it is float32.
    """
    import diffusers

    kind, config = VAES[name]
    with torch.device("meta"):
        made = getattr(diffusers, kind)(**config).to(dtype).eval().requires_grad_(False)
    module = view(made)
    assert rebuild_vae(module, print) is None
    with torch.no_grad():
        latents = empty(1, module.config.get("z_dim") or module.config["latent_channels"], 3, 16, 16, dtype=dtype)
        found = module.decode(latents).sample
        if kind == "AutoencoderKLWan":
            module.encode(found)


HEADS = (12, 24, 30, 40)
"""Heads of the transformers, each of 128 elements."""


def call_attention(count: int) -> None:
    """Quantise the operands of an attention in fp8, in bfloat16, and add the means to its result.

    Args:
        count: The number of heads.
    """
    query, key, value = empty(1, 64, 3, count, 128).unbind(2)
    weight = empty(1, 128)
    for norms in (None, HeadNorms(weight, weight)):
        made = centred_e4m3(query, key, value, norms)
    heads.add_means_(empty(1, 64, count, 128), made.means)


def full_size_calls(vae_dtypes: Mapping[str, Sequence[torch.dtype]]) -> Iterator[tuple[str, Callable[[], None]]]:
    """All calls of this module, each with a name.

    Args:
        vae_dtypes: For each key of `VAES`, the dtypes of its decodes.
    """
    for name in TRANSFORMERS:
        for quantized in (False, True):
            yield f"{name}{' in fp8' * quantized}", partial(call_transformer, name, 1, quantized)
    for count in HEADS:
        yield f"{count} heads in fp8", partial(call_attention, count)
    for name, dtypes in vae_dtypes.items():
        for dtype in dtypes:
            yield f"VAE of {name} in {str(dtype).removeprefix('torch.')}", partial(call_vae, name, dtype)
