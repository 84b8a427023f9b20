"""Files of frames, read back with PyAV and Pillow; contact sheets; errors."""

import av
import numpy as np
import pytest
import torch
from helpers import node_facts
from PIL import Image
from sgd.graph.contract.errors import NodeError
from sgd.nodes import image, video
from sgd.nodes.values import Frames


def clip(batch=1, frames=5, height=48, width=64):
    """A red square on a gradient, 8 pixels further right in every frame."""
    made = torch.zeros(batch, frames, height, width, 3)
    made[..., 1] = torch.linspace(0, 1, height).view(1, 1, height, 1)
    for b in range(batch):
        made[b, ..., 2] = b / max(batch - 1, 1)
        for f in range(frames):
            made[b, f, 10:22, 4 + 8 * f : 16 + 8 * f, 0] = 1.0
    return Frames(made)


def names(run):
    return sorted(path.name for path in run.folder.iterdir())


@pytest.mark.parametrize(
    ("name", "codec", "container"),
    [
        ("a.mp4", "h264", "mp4"),
        ("a.mov", "h264", "mov"),
        ("a.mkv", "h264", "matroska"),
        ("a.webm", "vp9", "webm"),
        ("a.MP4", "h264", "mp4"),
    ],
)
def test_a_video_has_the_declared_rate_and_size(run, name, codec, container):
    given = clip()
    (file,) = video.save(run, given, name, fps=12, crf=8)
    assert names(run) == [name]
    with av.open(str(file.path)) as opened:
        stream = opened.streams.video[0]
        assert container in opened.format.name.split(",")
        assert stream.codec_context.codec.canonical_name == codec
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert stream.average_rate == 12
        pixels = np.stack([f.to_ndarray(format="rgb24") for f in opened.decode(stream)])
    assert pixels.shape == (5, 48, 64, 3)
    # Chroma is stored at half the resolution: pixels beside an edge differ much, most others little.
    assert np.abs(pixels / 255 - given.tensor[0].numpy()).mean() < 0.03


@pytest.mark.parametrize("name", ["a.mp4", "a.webm"])
def test_colours_follow_the_tags_of_the_file(run, name):
    """BT.709, limited range: ITU-R BT.709-6, sections 3 and 4."""
    colour = torch.tensor([0.9, 0.2, 0.4])
    (file,) = video.save(run, Frames(colour.expand(1, 3, 32, 32, 3)), name, crf=1)
    with av.open(str(file.path)) as opened:
        context = opened.streams.video[0].codec_context
        assert (context.colorspace, context.color_range) == (1, 1)
        luma = next(opened.decode(video=0)).to_ndarray()[8, 8]
    expected = 16 + 219 * (torch.tensor([0.2126, 0.7152, 0.0722]) * colour).sum()
    assert abs(int(luma) - expected) <= 1.5
    assert (video.load(run, file.path).frames.tensor - colour).abs().max() < 3 / 255


def test_a_smaller_crf_makes_a_larger_file(run):
    noisy = Frames(torch.rand(1, 5, 48, 64, 3, generator=torch.Generator().manual_seed(0)))
    sizes = [video.save(run, noisy, f"{crf}.mp4", crf=crf)[0].path.stat().st_size for crf in (10, 30, 50)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 2 * sizes[2]


def test_a_fractional_frame_rate_is_kept(run):
    (file,) = video.save(run, clip(), "a.mp4", fps=23.976)
    with av.open(str(file.path)) as opened:
        assert float(opened.streams.video[0].average_rate) == pytest.approx(23.976, abs=1e-3)


def test_a_gif_has_the_frames_size_and_duration(run):
    (file,) = video.save(run, clip(), "a.gif", fps=10)
    with Image.open(file.path) as opened:
        assert opened.n_frames == 5  # type: ignore[attr-defined]
        assert opened.size == (64, 48)
        assert opened.info["duration"] == 100
        assert opened.info["loop"] == 0
        opened.seek(2)
        red = np.asarray(opened.convert("RGB"))[16, 26]
    assert red[0] > 200


def test_odd_sizes_are_made_even_with_a_warning(run):
    given = clip(height=47, width=63)
    (file,) = video.save(run, given, "a.mp4", crf=4)
    assert "63x47 is odd" in run.warnings[0]
    back = video.load(run, file.path).frames.tensor
    assert back.shape == (1, 5, 48, 64, 3)
    assert (back[0, :, :47, :63] - given.tensor[0]).abs().mean() < 0.03


def test_each_clip_of_a_batch_has_a_file(run):
    files = video.save(run, clip(batch=3), "deep/clip.mp4", crf=4)
    assert [f.path.name for f in files] == ["clip-0.mp4", "clip-1.mp4", "clip-2.mp4"]
    blues = [video.load(run, f.path).frames.tensor[..., 2].mean().item() for f in files]
    assert blues == pytest.approx([0, 0.5, 1], abs=0.05)


@pytest.mark.parametrize(
    ("known", "parameter"),
    [
        ({"path": "a.avi"}, "path"),
        ({"path": "a"}, "path"),
        ({"path": "a.gif", "crf": 3}, "crf"),
        ({"path": "a.mp4", "crf": 60}, "crf"),
    ],
)
def test_impossible_video_files_are_an_error(run, known, parameter):
    (problem,) = node_facts.check(video.save, **known)
    assert (problem.code, problem.parameter) == ("bad-value", parameter)
    with pytest.raises(NodeError):
        video.save(run, clip(), **known)
    assert not run.folder.exists()


def test_possible_video_files_give_no_diagnostic():
    for known in ({"path": "a.webm", "crf": 60}, {"path": "a.mp4"}, {"crf": 3}, {}):
        assert not list(node_facts.check(video.save, **known))


def test_an_interrupted_save_leaves_no_file(run, monkeypatch):
    made = av.VideoFrame.from_ndarray
    calls = []

    def interrupted(*args, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return made(*args, **options)

    class Frame:
        from_ndarray = staticmethod(interrupted)

    monkeypatch.setattr(video.av, "VideoFrame", Frame, raising=False)
    with pytest.raises(KeyboardInterrupt):
        video.save(run, clip(), "a.mp4")
    assert names(run) == []


def test_a_file_that_cannot_be_written_is_an_error(run):
    run.folder.mkdir()
    (run.folder / "a.mp4").mkdir()
    with pytest.raises(NodeError, match="cannot be written"):
        video.save(run, clip(), "a.mp4")
    assert names(run) == ["a.mp4"]


def test_loading_part_of_a_video(run):
    (file,) = video.save(run, clip(frames=6), "a.mp4", fps=10, crf=4)
    whole, fps = video.load(run, file.path)
    assert fps == 10
    assert whole.tensor.shape == (1, 6, 48, 64, 3)
    part = video.load(run, file.path, first=2, count=3).frames.tensor
    assert torch.equal(part, whole.tensor[:, 2:5])
    with pytest.raises(NodeError, match="has fewer than 3 frames from frame 4 on"):
        video.load(run, file.path, first=4, count=3)
    with pytest.raises(NodeError, match="has no frame 9"):
        video.load(run, file.path, first=9)


def test_missing_files_and_text_files_are_an_error(run, tmp_path):
    with pytest.raises(NodeError, match="there is no file"):
        video.load(run, tmp_path / "none.mp4")
    (tmp_path / "text.mp4").write_text("this is text")
    with pytest.raises(NodeError, match="cannot be read as a video"):
        video.load(run, tmp_path / "text.mp4")


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.jpg"])
def test_an_image_has_the_saved_pixels(run, name):
    given = clip(frames=1)
    (file,) = image.save(run, given, name)
    with Image.open(file.path) as opened:
        pixels = np.asarray(opened.convert("RGB"))
    expected = np.round(given.tensor[0, 0].numpy() * 255)
    back = image.load(run, file.path).tensor
    assert back.shape == (1, 1, 48, 64, 3)
    assert torch.equal(back[0, 0], torch.from_numpy(pixels.copy()) / 255)
    if name == "a.png":
        assert np.array_equal(pixels, expected)
    else:
        assert np.abs(pixels - expected).mean() < 6


def test_pixels_are_rounded_as_diffusers_rounds_them(run):
    from diffusers.image_processor import VaeImageProcessor

    given = torch.rand(1, 1, 8, 8, 3, generator=torch.Generator().manual_seed(0))
    (file,) = image.save(run, Frames(given), "a.png")
    (expected,) = VaeImageProcessor.numpy_to_pil(given[0].numpy())
    with Image.open(file.path) as opened:
        assert np.array_equal(np.asarray(opened), np.asarray(expected))


def test_higher_quality_makes_larger_files(run):
    noisy = Frames(torch.rand(1, 1, 48, 64, 3, generator=torch.Generator().manual_seed(0)))
    sizes = [image.save(run, noisy, f"{q}.jpg", quality=q)[0].path.stat().st_size for q in (20, 60, 95)]
    assert sizes == sorted(sizes)


def test_frame_chooses_the_frame_of_the_image(run):
    given = clip(batch=2)
    with pytest.raises(NodeError, match="5 frames, but an image has one"):
        image.save(run, given, "a.png")
    with pytest.raises(NodeError, match="there is no frame 5"):
        image.save(run, given, "a.png", frame=5)
    files = image.save(run, given, "a.png", frame=-1)
    assert [f.path.name for f in files] == ["a-0.png", "a-1.png"]
    for index, file in enumerate(files):
        assert torch.allclose(image.load(run, file.path).tensor[0, 0], given.tensor[index, 4], atol=0.5 / 255 + 1e-6)


@pytest.mark.parametrize(
    ("known", "parameter"), [({"path": "a.bmp"}, "path"), ({"path": "a.png", "quality": 5}, "quality")]
)
def test_impossible_image_files_are_an_error(run, known, parameter):
    (problem,) = node_facts.check(image.save, **known)
    assert (problem.code, problem.parameter) == ("bad-value", parameter)
    with pytest.raises(NodeError):
        image.save(run, clip(frames=1), **known)


def test_transparency_becomes_white_and_exif_orientation_is_applied(run, tmp_path):
    Image.new("RGBA", (3, 2), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert torch.equal(image.load(run, tmp_path / "clear.png").tensor, torch.ones(1, 1, 2, 3, 3))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    Image.new("RGB", (30, 20)).save(tmp_path / "turned.jpg", exif=exif)
    assert image.load(run, tmp_path / "turned.jpg").tensor.shape == (1, 1, 30, 20, 3)
    with pytest.raises(NodeError, match="there is no file"):
        image.load(run, tmp_path / "none.png")
    (tmp_path / "text.png").write_text("this is text")
    with pytest.raises(NodeError, match="cannot be read as an image"):
        image.load(run, tmp_path / "text.png")


@pytest.mark.parametrize("load", [image.load, video.load], ids=["image", "video"])
def test_check_finds_a_file_that_is_not_there(tmp_path, run, load):
    (tmp_path / "boat.png").write_bytes(b"")
    faults = {
        "boot.png": "there is no file",
        "no/boat.png": "there is no file",
        "boat.png": "is empty",
        ".": "it is a folder",
    }
    for name, words in faults.items():
        (problem,) = node_facts.check(load, path=str(tmp_path / name))
        assert (problem.code, problem.parameter) == ("bad-value", "path")
        assert words in problem.message
        with pytest.raises(NodeError, match=words):
            load(run, tmp_path / name)
    (misspelt,) = node_facts.check(load, path=str(tmp_path / "boot.png"))
    assert misspelt.help == "did you mean `boat.png`?"
    assert node_facts.check(load) == []
