"""The numbers of `sgd exec --preview` for the embedded model: a linear map from its latents to colours.

    python training/preview_colours.py [--clips 192] [--seed 7]

Least squares over encoded training clips: a latent position, with a constant, against the mean colour of its 8 x 8
pixels in the middle frame of the frames that it stands for, in [-1, 1]. Other clips measure the error. The result
stands in nodes/support/preview_colours.py.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from clips import TRAIN, render, sample_clips
from torch import Tensor

VAE = Path(__file__).parent.parent / "workflows" / "models" / "tiny-wan" / "vae"


def pairs(vae: Any, video: Tensor) -> tuple[Tensor, Tensor]:
    """Normalised latents [N, C] and the colours of their pixels [N, 3] in [-1, 1], for clips [B, 3, F, H, W]."""
    shape = (1, vae.config.z_dim, 1, 1, 1)
    mean, std = (torch.tensor(value).view(shape) for value in (vae.config.latents_mean, vae.config.latents_std))
    latents = (vae.encode(video).latent_dist.mode() - mean) / std  # [B, C, f, h, w]
    small = torch.nn.functional.avg_pool3d(video, (1, 8, 8))
    # The first latent frame is the first frame; each later one stands for four.
    frames = [0, *(4 * k - 1 for k in range(1, latents.shape[2]))]
    colours = small[:, :, frames]
    return latents.movedim(1, -1).flatten(0, -2), colours.movedim(1, -1).flatten(0, -2)


def fit(latents: Tensor, colours: Tensor) -> tuple[Tensor, Tensor]:
    """Factors [C, 3] and bias [3] with the least squared error."""
    ones = torch.ones(len(latents), 1, dtype=torch.float64)
    solved = torch.linalg.lstsq(torch.cat([latents.double(), ones], 1), colours.double()).solution
    return solved[:-1].float(), solved[-1].float()


def psnr(latents: Tensor, colours: Tensor, factors: Tensor, bias: Tensor) -> float:
    """PSNR in dB of the colours of a map, clamped to [-1, 1], on a scale of [0, 1]."""
    error = ((latents @ factors + bias).clamp(-1, 1) - colours) / 2
    return -10 * math.log10(float(error.square().mean()))


@torch.no_grad()
def measured(clips: int, seed: int) -> tuple[Tensor, Tensor, float]:
    """Fit on `clips` clips; the PSNR is that of as many others."""
    from diffusers import AutoencoderKLWan

    vae = AutoencoderKLWan.from_pretrained(VAE, torch_dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)

    def made() -> tuple[Tensor, Tensor]:
        found = []
        for start in range(0, clips, 16):
            count = min(16, clips - start)
            found.append(pairs(vae, render(sample_clips(count, generator, TRAIN))))
        latents, colours = zip(*found, strict=True)
        return torch.cat(latents), torch.cat(colours)

    factors, bias = fit(*made())
    factors, bias = factors.mul(1e4).round().div(1e4), bias.mul(1e4).round().div(1e4)
    return factors, bias, psnr(*made(), factors, bias)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=192)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    factors, bias, found = measured(options.clips, options.seed)
    for row in factors.tolist():
        print(f"        ({', '.join(f'{value:.4f}' for value in row)}),")
    print(f"    ({', '.join(f'{value:.4f}' for value in bias.tolist())}),")
    print(f"PSNR of other clips: {found:.2f} dB")


if __name__ == "__main__":
    main()
