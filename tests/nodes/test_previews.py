"""Previews of latents: the map of every family, the clip that a step predicts, and what it looks like when decoded."""

from __future__ import annotations

import json
import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from sgd.graph.cli.main import main
from sgd.graph.compiler.ir import Call
from sgd.nodes.families import by_name
from sgd.nodes.library.latent_previews import MOST_CLIPS, LatentPreviews, encoded, middle_frame, to_bytes
from sgd.nodes.support.preview_colours import KNOWN, colours_of
from sgd.nodes.values import Latents, Size, Step, Velocity
from skimage.metrics import peak_signal_noise_ratio

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "nodes/models/repository/configs"
TINY = ROOT / "workflows/models/tiny-wan"


def config(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / "vae/config.json").read_text())
    return found


@pytest.mark.parametrize("folder", sorted({f.parents[1] for f in CONFIGS.glob("*/*/vae/config.json")}), ids=str)
def test_every_model_of_the_bundled_workflows_has_a_map(folder: Path) -> None:
    names = {
        "Qwen-Image": "Wan 2.1 and Qwen-Image",
        "Wan2.2-TI2V-5B-Diffusers": "Wan 2.2 TI2V",
        "Z-Image-Turbo": "FLUX.1 and Z-Image",
        "FLUX.1-dev": "FLUX.1 and Z-Image",
        "HunyuanVideo": "HunyuanVideo",
    }
    found = colours_of(config(folder))
    assert found is not None
    assert found.vae == names.get(folder.name, "Wan 2.1 and Qwen-Image")
    assert all(len(row) == 3 for row in (*found.factors, found.bias))


def test_a_vae_fits_one_map_and_others_fit_none() -> None:
    tiny = config(TINY)
    assert [known.vae for known in KNOWN if known.fits(tiny)] == ["tiny-wan"]
    assert colours_of({}) is None
    assert colours_of({**tiny, "latents_mean": [0.0] * 16}) is None
    assert colours_of({**tiny, "latents_mean": None}) is None
    assert colours_of({"latent_channels": 16, "scaling_factor": 1.5305, "shift_factor": 0.0609}) is None  # SD 3
    assert colours_of({"latent_channels": 4, "scaling_factor": 0.3611, "shift_factor": 0.1159}) is None


def test_the_map_is_linear_with_a_bias_and_clamps() -> None:
    factors = torch.tensor([[1.0, 0.0, -1.0], [0.0, 0.5, 0.0]])
    bias = torch.tensor([0.0, 0.1, 0.0])
    latents = torch.tensor([[0.5, 3.0], [1.0, -4.0]]).view(1, 2, 1, 2)
    found = to_bytes(latents, factors, bias)
    expected = np.array([[0.5, 0.6, -0.5], [3.0, -1.9, -3.0]]).clip(-1, 1)
    assert found.shape == (1, 1, 2, 3)
    assert np.array_equal(found[0, 0].numpy(), np.round((expected + 1) * 127.5).astype(np.uint8))


class Predicts:
    """A model as the previews see it: its family and configurations."""

    def __init__(self, folder: Path, family: str) -> None:
        self.family, self.folder = by_name(family), folder

    def config(self, part: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / part / "config.json").read_text())
        return found


def a_call(type: str) -> Call:
    from sgd.graph.language.registry import standard

    return Call(id=f"l.{type.split('.')[1]}", type=standard().nodes[type], args={})


SOURCES = {
    "wan": "Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
    "flux": "black-forest-labs/FLUX.1-dev",
    "qwen-image": "Qwen/Qwen-Image",
    "z-image": "Tongyi-MAI/Z-Image-Turbo",
    "hunyuan-video": "hunyuanvideo-community/HunyuanVideo",
}


@pytest.mark.parametrize("family", SOURCES)
def test_a_noisy_step_shows_the_clip_without_the_noise(family: str) -> None:
    """Every family's layout: the picture of noisy latents and their velocity is that of the clean latents."""
    model = Predicts(CONFIGS / SOURCES[family], family)
    configs = {part: model.config(part) for part in ("vae", "transformer")}
    size = model.family.size(64, 96, 9 if "wan" in family or "hunyuan" in family else 1, configs)
    shape = model.family.latent_shape(size, 2, configs)
    clip, noise = torch.randn(shape), torch.randn(shape)
    sigma = 0.875
    pack = model.family.pack
    noisy, velocity = pack((1 - sigma) * clip + sigma * noise), pack(noise - clip)
    previews = LatentPreviews()
    previews.started(a_call("denoiser.predict"), {"model": model})
    step = Step(0, 1, sigma, 875.0, torch.tensor(875.0), 1000, (875.0,), "FlowMatchEulerDiscreteScheduler")
    made = {"latents": Latents(noisy, family, size), "velocity": Velocity(velocity), "step": step}
    previews.started(a_call("schedule.step"), made)
    picture = previews.picture(a_call("schedule.step"))
    assert picture is not None
    shown = np.asarray(Image.open(BytesIO(picture())))
    assert shown.shape == (96, 2 * 64, 3)
    colours = colours_of(model.config("vae"))
    assert colours is not None
    clean = to_bytes(middle_frame(clip), torch.tensor(colours.factors), torch.tensor(colours.bias))
    expected = np.asarray(Image.open(BytesIO(encoded(clean, size.width, size.height))))
    assert np.abs(shown.astype(int) - expected).max() <= 3
    assert previews.picture(a_call("schedule.step")) is None, "the arguments were not dropped"


def test_a_large_batch_shows_some_clips_and_a_large_clip_is_small() -> None:
    model = Predicts(CONFIGS / SOURCES["wan"], "wan")
    latents = torch.zeros(6, 16, 1, 90, 160)
    previews = LatentPreviews()
    previews.started(a_call("denoiser.predict"), {"model": model})
    step = Step(0, 1, 0.5, 500.0, torch.tensor(500.0), 1000, (500.0,), "FlowMatchEulerDiscreteScheduler")
    made = {"latents": Latents(latents, "wan", Size(1280, 720, 1)), "velocity": Velocity(latents), "step": step}
    previews.started(a_call("schedule.step"), made)
    picture = previews.picture(a_call("schedule.step"))
    assert picture is not None
    assert Image.open(BytesIO(picture())).size == (512 * MOST_CLIPS, 288)


def test_the_last_preview_looks_like_the_decoded_clip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Against the frames of the VAE, in the small: PSNR by skimage, and correlation over all pixels and colours."""
    words = ["exec", "quickstart", "steps=8", "seed=1", "--preview", "4", "--out", str(tmp_path / "o")]
    assert main(words) == 0
    files = sorted((tmp_path / "o/previews").iterdir())
    assert [file.name for file in files] == ["denoise.loop-0004.png", "denoise.loop-0008.png"]
    assert "previews: " in capsys.readouterr().out
    with av.open(str(tmp_path / "o/clip.mp4")) as video:
        frames = [frame.to_image() for frame in video.decode(video=0)]
    decoded = small(frames[len(frames) // 2])
    likeness = [peak_signal_noise_ratio(decoded, small(Image.open(file)), data_range=255) for file in files]
    assert likeness[-1] > 17
    assert np.corrcoef(decoded.ravel(), small(Image.open(files[-1])).ravel())[0, 1] > 0.9
    other = small(frames[0].rotate(90))
    assert likeness[-1] > peak_signal_noise_ratio(other, small(Image.open(files[-1])), data_range=255)


def small(image: Image.Image) -> Any:
    return np.asarray(image.resize((12, 12), Image.Resampling.BOX), dtype=float)


@pytest.fixture
def unknown(tmp_path: Path) -> Path:
    """A workflow with a model whose VAE is none of the known ones."""
    shutil.copytree(TINY, tmp_path / "model")
    path = tmp_path / "model/vae/config.json"
    path.write_text(path.read_text().replace("-0.16502", "-0.17"))
    text = (ROOT / "workflows/quickstart.yaml").read_text()
    source = "sgd:models/tiny-wan" if "sgd:models/tiny-wan" in text else "models/tiny-wan"
    text = text.replace(f"./{source}" if f"./{source}" in text else source, str(tmp_path / "model"))
    (tmp_path / "w.yaml").write_text(text.replace("./parts/", "sgd:parts/"))
    return tmp_path


def test_a_vae_without_a_map_is_an_error_before_the_run(unknown: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["exec", str(unknown / "w.yaml"), "--out", str(unknown / "o")]
    assert main([*words, "--preview", "2"]) == 2
    said = capsys.readouterr().err
    assert "error[unavailable]: there are no previews for the VAE of wan" in said
    assert "cfg_denoise.yaml:" in said
    assert "leave out --preview" in said
    assert not (unknown / "o").exists()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_not_waited_for() -> None:
    """torch raises at an operation that waits for the device. Only the thread that writes may wait."""
    model = Predicts(CONFIGS / SOURCES["wan"], "wan")
    latents, velocity = (torch.randn(1, 16, 21, 60, 104, device="cuda") for _ in range(2))
    step = Step(0, 1, 0.5, 500.0, torch.tensor(500.0), 1000, (500.0,), "FlowMatchEulerDiscreteScheduler")
    made = {"latents": Latents(latents, "wan", Size(832, 480, 81)), "velocity": Velocity(velocity), "step": step}
    previews = LatentPreviews()
    previews.started(a_call("denoiser.predict"), {"model": model})
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        previews.started(a_call("schedule.step"), made)
        picture = previews.picture(a_call("schedule.step"))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert picture is not None
    colours = colours_of(model.config("vae"))
    assert colours is not None
    clean = middle_frame(latents - 0.5 * velocity).cpu()
    expected = encoded(to_bytes(clean, torch.tensor(colours.factors), torch.tensor(colours.bias)), 832, 480)
    shown, known = (np.asarray(Image.open(BytesIO(file)), dtype=int) for file in (picture(), expected))
    assert np.abs(shown - known).max() <= 2
