"""Stages one and three: the autoencoder, then its decoder once more.

The loss compares pixels (absolute and squared), edges (spatial differences) and changes from frame
to frame, and pulls the latents a little towards a unit normal. In the last stage the encoder is
frozen, so that latents stay what the transformer has learned; the decoder then also learns to put
up with the small errors that generated latents have.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import vae_math
from clips import HELD_OUT, render, sample_clips
from loop import Compiled, Loop
from torch import Tensor

_KL = 1e-4
_LATENT_NOISE = 0.06  # of a latent channel's spread, in the decoder stage


def reconstruction_loss(error: Tensor) -> Tensor:
    """Of an error [B, 3, F, H, W]: level, outliers, edges, and flicker."""
    edges = (error[..., 1:] - error[..., :-1]).abs().mean() + (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    flicker = (error[:, :, 1:] - error[:, :, :-1]).abs().mean()
    return error.abs().mean() + 2 * error.square().mean() + 0.5 * edges + 0.25 * flicker


def full_loss(vae: Any, video: Tensor, noise: Tensor) -> Tensor:
    mean, log_variance = vae_math.encode(vae, video)
    mean, log_variance = mean.float(), log_variance.float()
    latents = mean + noise * (0.5 * log_variance).exp()
    error = vae_math.decode(vae, latents).float() - video
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    return reconstruction_loss(error) + _KL * kl


def decoder_loss(vae: Any, video: Tensor, noise: Tensor, spread: Tensor) -> Tensor:
    with torch.no_grad():
        latents = vae_math.encode(vae, video)[0].float() + _LATENT_NOISE * spread * noise
    return reconstruction_loss(vae_math.decode(vae, latents).float() - video)


@torch.no_grad()
def psnr(vae: Any, device: torch.device, clips: int = 64, seed: int = 99) -> float:
    """Mean over held-out clips in decibels, peak to peak 1, of clamped reconstructions in full precision."""
    generator = torch.Generator().manual_seed(seed)
    values: list[float] = []
    for _ in range(0, clips, 8):
        video = render(sample_clips(min(8, clips), generator, HELD_OUT).to(device))
        again = vae_math.decode(vae, vae_math.encode(vae, video)[0]).clamp(-1, 1)
        squares = ((again - video) / 2).square().mean((1, 2, 3, 4))
        values += [-10 * math.log10(s) for s in squares.tolist()]
    return sum(values) / len(values)


@torch.no_grad()
def measure_latents(vae: Any, device: torch.device, clips: int, seed: int = 5) -> None:
    """Write mean and spread of every latent channel into the configuration, where pipelines look."""
    generator = torch.Generator().manual_seed(seed)
    means = []
    for _ in range(0, clips, 32):
        video = render(sample_clips(32, generator).to(device))
        means.append(vae_math.encode(vae, video)[0].float())
    latents = torch.cat(means)
    mean, spread = latents.mean((0, 2, 3, 4)), latents.std((0, 2, 3, 4))
    vae.register_to_config(
        latents_mean=[round(v, 5) for v in mean.tolist()], latents_std=[round(v, 5) for v in spread.tolist()]
    )
    print("latent spread:", " ".join(f"{v:.2f}" for v in spread.tolist()), flush=True)


def spread_of(vae: Any, device: torch.device) -> tuple[Tensor, Tensor]:
    """(mean, spread) of the latent channels, [1, 16, 1, 1, 1] each."""
    mean = torch.tensor(vae.config.latents_mean, device=device).view(1, -1, 1, 1, 1)
    return mean, torch.tensor(vae.config.latents_std, device=device).view(1, -1, 1, 1, 1)


def train_vae(
    vae: Any, *, minutes: float, batch: int, folder: Path, device: torch.device, decoder_only: bool = False
) -> Any:
    """Train (or resume, or skip what is done) and return the averaged autoencoder."""
    name = "decoder" if decoder_only else "vae"
    if decoder_only:
        vae.requires_grad_(False)
        vae.decoder.requires_grad_(True)
        vae.post_quant_conv.requires_grad_(True)
    loop = Loop(
        name,
        vae,
        lambda n, p: p.ndim >= 4 and "gamma" not in n and p[0].numel() > 1,
        minutes=minutes,
        rate=1.5e-3 if decoder_only else 2e-3,
        folder=folder,
        device=device,
        seed=2 + decoder_only,
    )
    spread = spread_of(vae, device)[1] if decoder_only else None
    loss = Compiled(decoder_loss if decoder_only else full_loss, device)

    def step_loss() -> Tensor:
        video = render(sample_clips(batch, loop.generator).to(device))
        shape = (batch, 16, 1 + (video.shape[2] - 1) // 4, video.shape[3] // 8, video.shape[4] // 8)
        noise = torch.randn(shape, device=device)
        with loop.autocast():
            if spread is not None:
                result: Tensor = loss(vae, video, noise, spread)
            else:
                result = loss(vae, video, noise)
            return result

    while loop.running():
        report = loop.step(step_loss)
        if report and loop.steps % 500 == 0:
            loop.pause()
            print(f"{loop.line()}, PSNR {psnr(loop.average, device, 16):.2f} dB", flush=True)
        loop.save(every=60)
    loop.save()
    clips = 64 if device.type == "cuda" else 8
    print(f"{loop.line()}, done: PSNR {psnr(loop.average, device, clips):.2f} dB", flush=True)
    average: Any = loop.average
    average.register_to_config(**{k: vae.config[k] for k in ("latents_mean", "latents_std")})
    return average
