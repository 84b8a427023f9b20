"""The map from latents to colours that the embedded model's previews use: what the script fits stands in the code."""

from __future__ import annotations

import preview_colours
import pytest
import torch
from sgd.nodes.support.preview_colours import KNOWN


def test_least_squares_finds_a_map_that_is_there() -> None:
    torch.manual_seed(0)
    latents, factors, bias = torch.randn(500, 16), torch.randn(16, 3) / 10, torch.tensor([0.1, -0.2, 0.3])
    colours = (latents @ factors + bias).clamp(-1, 1)
    found, constant = preview_colours.fit(latents, latents @ factors + bias)
    assert torch.allclose(found, factors, atol=1e-5)
    assert torch.allclose(constant, bias, atol=1e-5)
    assert preview_colours.psnr(latents, colours, found, constant) > 80


@pytest.mark.slow
@torch.no_grad()
def test_the_numbers_of_the_code_fit_clips_they_were_not_made_of() -> None:
    """23 dB against the mean colours of 8 x 8 pixels, as the docstring says."""
    from clips import HELD_OUT, render, sample_clips
    from diffusers import AutoencoderKLWan

    vae = AutoencoderKLWan.from_pretrained(preview_colours.VAE, torch_dtype=torch.float32)
    video = render(sample_clips(16, torch.Generator().manual_seed(3), HELD_OUT))
    latents, colours = preview_colours.pairs(vae, video)
    known = next(known for known in KNOWN if known.vae == "tiny-wan")
    found = preview_colours.psnr(latents, colours, torch.tensor(known.factors), torch.tensor(known.bias))
    assert found == pytest.approx(23.2, abs=1.5)
    assert found > preview_colours.psnr(latents, colours, torch.zeros(16, 3), colours.mean(0)) + 5
