"""Decodes and encodes of `speed.py`: diffusers' VAE and the rebuilt one, in turns in one process, with random weights.

Both must be near float32 on a small clip, and near each other on the whole one, before anything is timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from benchmarks.kernel_times import kernels_of
from benchmarks.machine import peak, require_near, state, waited
from benchmarks.speed_results import Measured, Way
from sgd.nodes.models.decoders import rebuilt_vae
from sgd.nodes.models.memory.component_views import view

CONFIGS = Path(rebuilt_vae.__file__).parents[1] / "repository" / "configs"

WORK = {
    # repository, class, dtype of the workflow, latents [c, T, h, w] of the clip, and of a small one
    "hunyuan": (
        "hunyuanvideo-community/HunyuanVideo",
        "AutoencoderKLHunyuanVideo",
        torch.bfloat16,
        (16, 17, 60, 106),
        (16, 5, 16, 16),
    ),
    "wan2.1": (
        "Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
        "AutoencoderKLWan",
        torch.float32,
        (16, 21, 60, 104),
        (16, 5, 16, 16),
    ),
    "wan2.2": ("Wan-AI/Wan2.2-TI2V-5B-Diffusers", "AutoencoderKLWan", torch.float32, (48, 31, 44, 80), (48, 5, 8, 8)),
}

ENCODES = {
    # the row of the same VAE, pixels [3, F, H, W] of the clip that holds a first frame, and of a small one
    "wan2.1-encode": ("wan2.1", (3, 81, 480, 832), (3, 5, 64, 64)),
    "wan2.2-encode": ("wan2.2", (3, 1, 704, 1280), (3, 5, 64, 64)),
}


SMALL: dict[str, dict[str, Any]] = {
    "hunyuan": {"block_out_channels": (8, 8, 16, 16), "layers_per_block": 1, "norm_num_groups": 4},
    "wan2.1": {"base_dim": 8},
    "wan2.2": {"base_dim": 8, "decoder_base_dim": 16},
}
"""Settings that make the VAE of a model small, with the same latents."""


def vae_of(name: str, device: str, small: bool) -> Any:
    """The VAE of a model with random weights."""
    import diffusers

    source, kind, dtype, _, _ = WORK[name]
    cls = getattr(diffusers, kind)
    torch.manual_seed(0)
    config = dict(cls.load_config(CONFIGS / source / "vae")) | (SMALL[name] if small else {})
    with torch.device(device):
        made = cls.from_config(config)
    for key, parameter in made.named_parameters():
        if parameter.dim() > 1 and "gamma" not in key:  # as large as what comes in
            torch.nn.init.normal_(parameter, 0.0, (2.0 / parameter[0].numel()) ** 0.5)
        elif "gamma" in key or "norm" in key:
            torch.nn.init.normal_(parameter, 1.0, 0.1)
    return made.to(dtype).eval().requires_grad_(False)


BOUNDS = {"small": 0.05, "whole": 0.05}
"""Largest relative difference from float32 on a small clip, and of the rebuilt clip from diffusers'."""

LEAST_TURNS, MOST_TURNS = 3, 7


def without_tf32(call: Callable[[], torch.Tensor]) -> torch.Tensor:
    """The result of a call, in which float32 convolutions do not use TF32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        return call()
    finally:
        torch.backends.cudnn.allow_tf32 = before


def measure(
    work: str, found: Measured, *, device: str, small: bool, seconds: float, missed: Callable[[Measured], list[str]]
) -> None:
    """Errors, first calls, peaks and times of a decode or encode.

    Args:
        work: Name in `WORK` or `ENCODES`.
        found: Receives the results.
        device: `cuda` or `cpu`.
        small: Whether to take a small clip.
        seconds: How long the turns may take; each way has `LEAST_TURNS` in any case.
        missed: The ways of which the kernels are wanted.
    """
    encodes = work in ENCODES
    name, whole, little = ENCODES[work] if encodes else (work, *WORK[work][3:])
    if small and not encodes:
        little = (little[0], 2, 4, 4)
    dtype = WORK[name][2]

    def call(each: Any, given: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = each.encode(given).latent_dist.mode() if encodes else each.decode(given).sample
        return made

    vae = vae_of(name, device, small)
    rebuilt = view(vae)
    refused = rebuilt_vae.rebuild(rebuilt, found.notes.append)
    assert refused is None, refused
    both = {"diffusers": vae, "exact": rebuilt}
    sample = torch.randn(1, *little, device=device)
    wanted = without_tf32(lambda: call(vae_of(name, device, small).float(), sample))
    found.errors |= {way: require_near(call(each, sample.to(dtype)), wanted, BOUNDS["small"])
                     for way, each in both.items()}  # fmt: skip
    given = sample.to(dtype) if small else torch.randn(1, *whole, device=device, dtype=dtype)
    made: dict[str, torch.Tensor] = {}
    for way, each in both.items():
        first = waited(lambda each=each, way=way: made.update({way: call(each, given)}), device)  # type: ignore[misc]
        error = require_near(made[way], made["diffusers"], BOUNDS["whole"])
        found.ways[way] = Way(first=first, error=error, details={"dtype": str(dtype).removeprefix("torch.")})
    made.clear()
    for way, each in both.items():
        found.ways[way].peak = peak(lambda each=each: call(each, given), each, device)  # type: ignore[misc]
    began = time.time()
    for turn in range(1 if small else MOST_TURNS):
        if turn >= LEAST_TURNS and time.time() - began > seconds:
            break
        for way, each in both.items():
            found.ways[way].seconds.append(waited(lambda each=each: call(each, given), device))  # type: ignore[misc]
            found.ways[way].state = state() if device == "cuda" else ""
            print(f"{work}, turn {turn}: {way} {found.ways[way].seconds[-1]:.3f} s", flush=True)
    for way in missed(found):
        if device == "cuda":
            found.ways[way].kernels = kernels_of(lambda way=way: call(both[way], given))  # type: ignore[misc]
