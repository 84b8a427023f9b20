"""metrics.compare, compared with scikit-image."""

import json

import pytest
import torch
from helpers.direct import DirectRun
from sgd.graph.contract.errors import NodeError
from sgd.nodes.metrics import compare
from sgd.nodes.values import Frames
from skimage.metrics import peak_signal_noise_ratio, structural_similarity


def pair(kind, shape=(2, 3, 24, 40, 3)):
    generator = torch.Generator().manual_seed(0)
    one = torch.rand(shape, generator=generator)
    if kind == "smooth":
        one = torch.linspace(0, 1, shape[3]).view(1, 1, 1, -1, 1).expand(shape).contiguous()
    other = (one + 0.1 * torch.randn(shape, generator=generator)).clamp(0, 1)
    return one, other if kind != "unlike" else torch.rand(shape, generator=generator)


@pytest.mark.parametrize("kind", ["noise", "smooth", "unlike"])
def test_psnr_and_ssim_equal_those_of_scikit_image(kind):
    one, other = pair(kind)
    made = compare(DirectRun(), Frames(one), Frames(other))
    assert made.psnr == pytest.approx(
        peak_signal_noise_ratio(one.double().numpy(), other.double().numpy(), data_range=1), abs=1e-6
    )
    images = zip(one.flatten(0, 1).double().numpy(), other.flatten(0, 1).double().numpy(), strict=True)
    each = [
        structural_similarity(
            x, y, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1, channel_axis=-1
        )
        for x, y in images
    ]
    assert made.ssim == pytest.approx(sum(each) / len(each), abs=1e-6)
    assert made.largest == pytest.approx((one - other).abs().max().item())


def test_equal_frames_give_valid_json():
    one, _ = pair("noise")
    made = compare(DirectRun(), Frames(one), Frames(one.clone()))
    assert made == (None, pytest.approx(1.0), 0.0, None)
    json.dumps(made, allow_nan=False)


def test_frames_that_cannot_be_compared_are_an_error():
    one, _ = pair("noise")
    with pytest.raises(NodeError, match="cannot be compared"):
        compare(DirectRun(), Frames(one), Frames(one[:1]))
    with pytest.raises(NodeError, match="at least 11x11"):
        compare(DirectRun(), Frames(one[:, :, :10]), Frames(one[:, :, :10]))


def test_planning_compares_meta_tensors():
    meta = Frames(torch.empty(1, 2, 16, 16, 3, device="meta"))
    assert compare(DirectRun(), meta, meta).psnr is None
