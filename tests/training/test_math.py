"""The fast forward passes of the training equal the library's; the optimiser orthogonalises."""

import pytest
import torch
import transformer_math
import vae_math
from models import make_tokenizer, make_transformer, make_vae
from muon import Muon, orthogonalise


def jitter(module, scale):
    torch.manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            p += scale * torch.randn_like(p)
    return module


@torch.no_grad()
def test_whole_clip_vae_equals_the_library():
    vae = jitter(make_vae(), 0.02)
    video = torch.rand(1, 3, 9, 32, 48) * 2 - 1
    mean, _ = vae_math.encode(vae, video)
    assert torch.allclose(mean, vae._encode(video).chunk(2, 1)[0], atol=1e-4)
    again = vae_math.decode(vae, mean)
    assert again.shape == video.shape
    assert torch.allclose(again.clamp(-1, 1), vae.decode(mean).sample, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("padded", [16, 20, 226])
def test_one_weighted_slot_stands_for_any_padding(padded):
    model = jitter(make_transformer(), 0.05)
    lengths, time = torch.tensor([5, 12]), torch.tensor([900.0, 30.0])
    text = torch.randn(2, 24, 128) * (torch.arange(24)[None] < lengths[:, None])[..., None]
    full = torch.zeros(2, padded, 128)
    full[:, : min(24, padded)] = text[:, : min(24, padded)]
    latents = torch.randn(2, 16, 3, 4, 6)
    bias = transformer_math.padding_bias(lengths, 24, torch.tensor([padded, padded]))
    ours = transformer_math.forward(model, latents, time, text, bias)
    theirs = model(latents, time, full, return_dict=False)[0]
    assert theirs.std() > 0.1
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_orthogonalise_flattens_the_spectrum():
    torch.manual_seed(0)
    for shape in ((3, 20, 50), (3, 50, 20)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
        assert values.min() > 0.5
        assert values.max() < 1.4


def test_muon_fits_a_matrix():
    torch.manual_seed(0)
    goal, found = torch.randn(8, 12), torch.nn.Parameter(torch.zeros(8, 12))
    optimiser = Muon([found], lr=0.1)
    for step in range(200):
        optimiser.param_groups[0]["lr"] = 0.1 * (1 - step / 200)
        (found - goal).square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()
    assert (found - goal).square().mean() < 0.02


def test_tokenizer_ignores_case_and_punctuation():
    tokenizer = make_tokenizer()
    plain = tokenizer("a red circle moving left on a blue background").input_ids
    assert tokenizer("A red circle, moving LEFT -- on a blue background!").input_ids == plain
    assert 2 not in plain
    assert tokenizer("fluffy").input_ids == [2, 1]
    assert tokenizer("").input_ids == [1]
