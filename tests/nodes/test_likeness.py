"""How alike two files are, compared with scikit-image on pixels that PyAV and Pillow decode."""

from __future__ import annotations

import json
import math

import av
import numpy
import pytest
from PIL import Image
from sgd.graph.contract.errors import NodeError
from sgd.nodes import standard_library
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

SIZE = (48, 64)


def moving(count=6, seed=0, noise=0.0, size=SIZE):
    """A clip uint8 [F, H, W, 3]: a bright square on a gradient, moving right."""
    height, width = size
    random = numpy.random.default_rng(seed)
    frames = []
    for index in range(count):
        frame = numpy.repeat(numpy.linspace(20, 200, width)[None, :, None], height, 0).repeat(3, 2)
        frame[10:22, 4 + 5 * index : 16 + 5 * index] = (250, 40, 90)
        frames.append(frame + noise * (index + 1) * random.standard_normal(frame.shape))
    return numpy.clip(numpy.round(frames), 0, 255).astype(numpy.uint8)


def write_clip(path, frames, **options):
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=8)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv444p"
        stream.options = {"crf": "1", **options}
        for frame in frames:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        output.mux(stream.encode(None))
    return path


def decoded(path):
    with av.open(str(path)) as container:
        return numpy.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def likeness(before, after):
    seen: list[int] = []
    found = standard_library.likeness(before, after, seen.append)
    assert found is None or seen == list(range(1, max(found.frames) + 1))
    return found


def ssim(one, other):
    return structural_similarity(
        one / 255,
        other / 255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=1,
        channel_axis=-1,
    )


def test_pictures_are_compared_as_scikit_image_does(tmp_path):
    one, other = moving(1)[0], moving(1, noise=9)[0]
    before, after = tmp_path / "a.png", tmp_path / "b.webp"
    Image.fromarray(one).save(before)
    Image.fromarray(other).save(after, lossless=True)
    found = likeness(before, after)
    assert found.psnr == pytest.approx(peak_signal_noise_ratio(one, other), abs=1e-5)
    assert found.ssim == pytest.approx(ssim(one, other), abs=1e-6)
    assert (found.frames, found.sizes, found.worst_frame, found.problem) == ((1, 1), ((64, 48), (64, 48)), 0, None)
    assert found.text() == f"PSNR {found.psnr:.2f} dB, SSIM {found.ssim:.4f}"


def test_clips_are_compared_frame_by_frame(tmp_path):
    before = write_clip(tmp_path / "a.mp4", moving())
    after = write_clip(tmp_path / "b.mp4", moving(noise=3))
    found = likeness(before, after)
    one, other = decoded(before), decoded(after)
    each = [peak_signal_noise_ratio(x, y) for x, y in zip(one, other, strict=True)]
    similar = [ssim(x, y) for x, y in zip(one, other, strict=True)]
    # PyAV rounds colours to 8 bits; sgd reads them at full depth.
    assert found.psnr == pytest.approx(peak_signal_noise_ratio(one, other), abs=0.05)
    assert found.worst_psnr == pytest.approx(min(each), abs=0.05)
    assert found.worst_frame == each.index(min(each)) == 5
    assert found.ssim == pytest.approx(sum(similar) / 6, abs=2e-3)
    assert found.worst_ssim == pytest.approx(min(similar), abs=2e-3)
    assert "in frame 5" in found.text()


def test_equal_pixels_in_two_formats_are_equal(tmp_path):
    frame = moving(1)[0]
    Image.fromarray(frame).save(tmp_path / "a.png")
    Image.fromarray(frame).save(tmp_path / "b.png", compress_level=0)
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()
    found = likeness(tmp_path / "a.png", tmp_path / "b.png")
    assert found.equal
    assert (found.psnr, found.ssim, found.text()) == (math.inf, 1, "equal pixels")
    written = json.loads(json.dumps(found.json(), allow_nan=False))
    assert (written["psnr"], written["equal"]) == (None, True)


def test_other_lengths_and_sizes_are_told(tmp_path):
    whole = write_clip(tmp_path / "a.mp4", moving())
    short = write_clip(tmp_path / "b.mp4", moving(4))
    small = write_clip(tmp_path / "c.mp4", moving(size=(32, 64)))
    found = likeness(whole, short)
    assert (found.frames, found.problem, found.equal) == ((6, 4), "6 frames against 4", False)
    assert found.psnr > 30
    found = likeness(whole, small)
    assert (found.psnr, found.ssim, found.problem) == (None, None, "64x48 pixels against 64x32")
    assert found.text() == found.problem


def test_frames_below_the_window_have_no_ssim(tmp_path):
    for name, value in (("a", 10), ("b", 20)):
        Image.new("RGB", (8, 8), (value, value, value)).save(tmp_path / f"{name}.png")
    found = likeness(tmp_path / "a.png", tmp_path / "b.png")
    assert found.psnr == pytest.approx(20 * math.log10(255 / 10))
    assert (found.ssim, found.worst_ssim) == (None, None)


def test_gifs_are_clips(tmp_path):
    for name, count in (("a", 5), ("b", 5)):
        first, *rest = map(Image.fromarray, moving(count))
        first.save(tmp_path / f"{name}.gif", save_all=True, append_images=rest, duration=100)
    found = likeness(tmp_path / "a.gif", tmp_path / "b.gif")
    assert (found.frames, found.equal) == ((5, 5), True)


def test_other_files_are_not_compared(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"x")
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    assert likeness(tmp_path / "a.safetensors", tmp_path / "a.safetensors") is None
    assert likeness(tmp_path / "a.png", tmp_path / "a.safetensors") is None


@pytest.mark.parametrize("name", ["broken.png", "broken.mp4", "missing.mp4"])
def test_files_that_cannot_be_read_are_errors(tmp_path, name):
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    if not name.startswith("missing"):
        (tmp_path / name).write_bytes(b"not a picture")
    with pytest.raises(NodeError, match=name):
        likeness(tmp_path / "a.png", tmp_path / name)
