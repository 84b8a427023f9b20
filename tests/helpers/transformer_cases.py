"""A tiny transformer of each family, with inputs for one forward."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from . import tiny, tiny_flux, tiny_hunyuan_video, tiny_qwen_image, tiny_z_image


def random(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def flux(rows: int) -> dict[str, Any]:
    return {
        "hidden_states": random(rows, 12, 16),
        "encoder_hidden_states": random(rows, 5, 32),
        "pooled_projections": random(rows, 24),
        "timestep": torch.full((rows,), 0.5),
        "guidance": torch.full((rows,), 3.0),
        "img_ids": random(12, 3),
        "txt_ids": torch.zeros(5, 3),
    }


def hunyuan_video(rows: int) -> dict[str, Any]:
    mask = torch.ones(rows, 6)
    mask[1:, 4:] = 0
    return {
        "hidden_states": random(rows, 4, 3, 4, 4),
        "timestep": torch.full((rows,), 500.0),
        "encoder_hidden_states": random(rows, 6, 16),
        "encoder_attention_mask": mask,
        "pooled_projections": random(rows, 8),
        "guidance": torch.full((rows,), 6000.0),
    }


def qwen_image(rows: int) -> dict[str, Any]:
    mask = torch.arange(6) < torch.tensor([[6], [4]])
    return {
        "hidden_states": random(rows, 12, 16),
        "timestep": torch.full((rows,), 0.5),
        "encoder_hidden_states": random(rows, 6, 16),
        "encoder_hidden_states_mask": None if rows == 1 else mask,
        "img_shapes": [[(1, 3, 4)]] * rows,
    }


def z_image(rows: int) -> dict[str, Any]:
    prompts = [random(30, 16), random(60, 16)][:rows]
    return {"x": list(random(rows, 16, 1, 8, 8)), "t": torch.full((rows,), 0.5), "cap_feats": prompts}


def wan(rows: int) -> dict[str, Any]:
    return {
        "hidden_states": random(rows, 16, 3, 4, 4),
        "timestep": torch.full((rows,), 500.0),
        "encoder_hidden_states": random(rows, 7, 32),
    }


def wan_image(rows: int) -> dict[str, Any]:
    picture = random(rows, 257, 24)
    return wan(rows) | {"encoder_hidden_states": random(rows, 512, 32), "encoder_hidden_states_image": picture}


def wan_tokens(rows: int) -> dict[str, Any]:
    return wan(rows) | {"timestep": torch.full((rows, 12), 500.0)}


def wan_first_frame(rows: int) -> dict[str, Any]:
    timestep = torch.full((rows, 12), 500.0)
    timestep[:, :4] = 0
    return wan(rows) | {"timestep": timestep}


def wan_any_timestep(rows: int) -> dict[str, Any]:
    return wan(rows) | {"timestep": 1000 * random(rows, 12).sigmoid()}


CASES: Mapping[str, tuple[Callable[[], Any], Callable[[int], dict[str, Any]], int]] = {
    "flux": (lambda: tiny_flux.transformer(True), flux, 4),
    "hunyuan-video": (tiny_hunyuan_video.transformer, hunyuan_video, 4),
    "qwen-image": (tiny_qwen_image.transformer, qwen_image, 2),
    "z-image": (tiny_z_image.transformer, z_image, 4),
    "wan": (tiny.wan_transformer, wan, 2),
    "wan with an image encoder": (lambda: tiny.wan_transformer(image_dim=24, added_kv_proj_dim=24), wan_image, 2),
    "wan with a timestep for each token": (tiny.wan_transformer, wan_tokens, 2),
    "wan with a first frame": (tiny.wan_transformer, wan_first_frame, 2),
    "wan with any timesteps": (tiny.wan_transformer, wan_any_timestep, 2),
}
"""A transformer, its inputs for a number of rows, and its number of blocks."""


def shaken(module: Any) -> Any:
    """A module in which no weight is zero or one, so that every weight matters."""
    generator = torch.Generator().manual_seed(3)
    for parameter in module.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return module.eval().requires_grad_(False)


def called(module: Any, inputs: dict[str, Any]) -> torch.Tensor:
    with torch.no_grad():
        made = module(**inputs, return_dict=False)[0]
    return torch.stack(made) if isinstance(made, list) else made


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())
