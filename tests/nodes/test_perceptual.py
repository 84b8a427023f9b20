"""LPIPS. The tests do not need the packages lpips and torchvision: a stand-in of the same shapes takes their place. The
last test runs only where they are installed.
"""

from __future__ import annotations

import json
import sys
from pathlib import PurePosixPath
from types import ModuleType
from typing import Any

import numpy
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from sgd.graph.cli import main
from sgd.graph.contract.errors import NodeError, UnfitNetwork
from sgd.nodes import standard_library
from sgd.nodes.metrics import compare
from sgd.nodes.support import perceptual
from sgd.nodes.values import Frames
from torch.nn import functional as F

LAYERS = {
    0: (3, 64, 11, 4, 2),
    3: (64, 192, 5, 1, 2),
    6: (192, 384, 3, 1, 1),
    8: (384, 256, 3, 1, 1),
    10: (256, 256, 3, 1, 1),
}
"""Convolutions of AlexNet by number: channels in and out, kernel, stride, padding (Krizhevsky 2014)."""


def alexnet(seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights of AlexNet under the names of torchvision, with those of its classifier left out."""
    generator, found = torch.Generator().manual_seed(seed), {}
    for number, (inputs, outputs, size, _, _) in LAYERS.items():
        scale = (2 / (inputs * size * size)) ** 0.5
        found[f"features.{number}.weight"] = scale * torch.randn(outputs, inputs, size, size, generator=generator)
        found[f"features.{number}.bias"] = 0.1 * torch.randn(outputs, generator=generator)
    return found


class Double(torch.nn.Module):
    """Has the parameters of the package's AlexNet, and the distance of its first features."""

    def __init__(self, net: str, *, pnet_rand: bool, verbose: bool) -> None:
        super().__init__()
        assert (net, pnet_rand, verbose) == ("alex", True, False), "it would download weights, or print"
        self.net = torch.nn.Module()
        for place, (number, (inputs, outputs, size, stride, padding)) in enumerate(LAYERS.items(), 1):
            part = torch.nn.Module()
            part.add_module(str(number), torch.nn.Conv2d(inputs, outputs, size, stride, padding))
            self.net.add_module(f"slice{place}", part)

    def forward(self, x: torch.Tensor, y: torch.Tensor, *, normalize: bool) -> torch.Tensor:
        assert normalize, "values are in [0, 1]"
        first: Any = self.net.slice1
        return (first._modules["0"](x) - first._modules["0"](y)).square().mean()


@pytest.fixture
def package(monkeypatch):
    """The double, in place of the package."""
    made: Any = ModuleType("lpips")
    made.LPIPS = Double
    monkeypatch.setitem(sys.modules, "lpips", made)
    perceptual._network.cache_clear()
    yield
    perceptual._network.cache_clear()


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "alexnet.pth"
    torch.save(alexnet(), path)
    return path


def pair(count: int = 2, size: int = 32) -> tuple[Frames, Frames]:
    one, other = torch.rand(2, 1, count, size, size, 3, generator=torch.Generator().manual_seed(1))
    return Frames(one), Frames(other)


def wanted(one: torch.Tensor, other: torch.Tensor) -> list[float]:
    """The distance of the double for each frame, by its formula."""
    difference = (one - other).flatten(0, 1).permute(0, 3, 1, 2)
    made = F.conv2d(difference, alexnet()["features.0.weight"], stride=4, padding=2)
    return made.square().mean(dim=(1, 2, 3)).tolist()


@pytest.mark.parametrize("kind", ["torch", "safetensors"])
def test_the_weights_of_the_file_are_used(package, weights, tmp_path, run, kind):
    if kind == "safetensors":
        weights = tmp_path / "alexnet.safetensors"
        save_file(alexnet(), weights)
    one, other = pair()
    made = compare(run, one, other, weights=weights)
    assert made.lpips == pytest.approx(sum(wanted(one.tensor, other.tensor)) / 2, rel=1e-4)
    assert compare(run, one, one, weights=weights).lpips == 0
    assert compare(run, one, other).lpips is None


def test_unavailable_is_a_warning_with_the_reason(weights, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", None)  # its import fails
    one, other = pair()
    made = compare(run, one, other, weights=weights)
    assert (made.lpips, made.psnr is None) == (None, False)
    assert run.warnings == ["LPIPS is unavailable: the package lpips is not installed: `pip install 'sgd[lpips]'`"]


def test_small_frames_have_none(package, weights, run):
    one, other = pair(size=31)
    assert compare(run, one, other, weights=weights).lpips is None
    assert run.warnings == ["LPIPS is unavailable: it needs frames of at least 32x32 pixels"]


def changed(**values: Any) -> Any:
    return {**alexnet(), **{f"features.{name.replace('_', '.')}": value for name, value in values.items()}}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"other": torch.zeros(1)}, "holds no weights of AlexNet, SqueezeNet 1.1 or VGG16"),
        (changed(**{"3_weight": torch.zeros(2)}), "features.3.weight is missing, or has another shape"),
        ({key: value for key, value in alexnet().items() if "6.bias" not in key}, "features.6.bias is missing"),
        ([1, 2], "holds no table of tensors"),
        ({"features.0.weight": PurePosixPath("code")}, "cannot be read: Weights only load failed"),
    ],
)
def test_other_files_are_errors(package, tmp_path, run, content, said):
    path = tmp_path / "wrong.pth"
    torch.save(content, path)
    with pytest.raises(NodeError, match=said):
        compare(run, *pair(), weights=path)
    with pytest.raises(NodeError, match="there is no file"):
        compare(run, *pair(), weights=tmp_path / "missing.pth")


def pictures(folder: Any) -> list[Any]:
    one, other = pair(1)
    paths = [folder / "a.png", folder / "b.png"]
    for path, frames in zip(paths, (one, other), strict=True):
        Image.fromarray((frames.tensor[0, 0] * 255).round().byte().numpy()).save(path)
    return paths


def test_files_have_it_when_weights_are_named(package, weights, tmp_path):
    before, after = pictures(tmp_path)
    found = standard_library.likeness(before, after, lambda _: None, weights)
    assert found is not None
    read = [torch.tensor(numpy.asarray(Image.open(path)))[None, None] / 255 for path in (after, before)]
    assert found.lpips == found.worst_lpips == pytest.approx(wanted(*read)[0], rel=1e-4)
    assert found.text().endswith(f"LPIPS {found.lpips:.4f}")
    json.dumps(found.json(), allow_nan=False)
    (tmp_path / "bad.pth").write_bytes(b"no weights")
    with pytest.raises(UnfitNetwork, match="cannot be read"):
        standard_library.likeness(before, after, lambda _: None, tmp_path / "bad.pth")


def test_without_the_package_files_say_so(weights, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", None)
    before, after = pictures(tmp_path)
    found = standard_library.likeness(before, after, lambda _: None, weights)
    assert found is not None
    assert found.text().endswith("LPIPS unavailable: the package lpips is not installed: `pip install 'sgd[lpips]'`")


def test_the_command_refuses_a_file_that_is_not_there(tmp_path, capsys):
    assert main.main(["report", "--compare", "a", "b", "--lpips", str(tmp_path / "none.pth")]) == 2
    assert f"--lpips: there is no file {tmp_path}/none.pth" in capsys.readouterr().err
    assert main.main(["report", "a", "--lpips", "none.pth"]) == 2
    assert "--fail-over, --min-psnr and --lpips belong to --compare" in capsys.readouterr().err


def test_the_package_itself_gives_the_distance_of_the_paper(weights):
    lpips = pytest.importorskip("lpips", exc_type=Exception)
    heads = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).lins
    found = alexnet()
    one, other = (each.tensor[0, 0] for each in pair(1, 64))
    mean, deviation = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    x = ((2 * torch.stack([one, other]) - 1 - mean) / deviation).permute(0, 3, 1, 2)
    total = 0.0
    for place, (number, (_, _, _, stride, padding)) in enumerate(LAYERS.items()):
        x = F.max_pool2d(x, 3, 2) if number in (3, 6) else x
        weight, bias = (found[f"features.{number}.{kind}"] for kind in ("weight", "bias"))
        x = F.conv2d(x, weight, bias, stride=stride, padding=padding).relu()
        unit = x / x.square().sum(1, keepdim=True).sqrt()
        head: Any = heads[place].model[-1]
        total += float((head.weight * (unit[0] - unit[1]).square()).sum(1).mean())
    assert perceptual.distance(one, other, weights) == pytest.approx(total, rel=1e-4)
