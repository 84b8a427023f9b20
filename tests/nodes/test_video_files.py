"""video.load on files of many kinds: colours, times and turns that were written are compared with the frames."""

import itertools
import re
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from helpers import node_facts
from helpers.video_files import TAGS, number_of, numbered_frames, plain_frame, stored, with_matrix, write
from PIL import Image, features
from sgd.graph.contract.errors import NodeError
from sgd.nodes import video
from sgd.nodes.values import Frames

COLOURS = [(0.9, 0.2, 0.4), (0.1, 0.8, 0.3), (0.0, 0.0, 1.0), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (0.55, 0.5, 0.45)]


def read(run, path, **options):
    frames, fps = video.load(run, path, **options)
    assert frames.tensor.dtype == torch.float32
    assert frames.tensor.shape[0] == 1
    return frames.tensor[0].numpy(), fps


@pytest.mark.parametrize("name", ["bt601", "bt709", "bt2020"])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(("pixel_format", "bits"), [("yuv420p", 8), ("yuv444p", 8), ("yuv422p10le", 10)])
def test_colours_follow_matrix_range_and_depth_of_the_file(run, tmp_path, name, full, pixel_format, bits):
    numbers = [stored(colour, name, full, bits) for colour in COLOURS]
    path = write(
        tmp_path / "a.mkv", [plain_frame(n, pixel_format) for n in numbers], colours=(TAGS[name], 2 if full else 1)
    )
    found, fps = read(run, path)
    assert fps == 25
    assert found.shape == (6, 48, 64, 3)
    # Half a unit of rounding in luma, and up to 1.9 halves of one in a colour difference.
    allowed = 1.45 * 2.2 / (219 * 2 ** (bits - 8))
    assert np.abs(found - np.array(COLOURS)[:, None, None]).max() < allowed
    assert run.warnings == []


@pytest.mark.parametrize(("height", "name"), [(48, "bt601"), (720, "bt709")])
def test_a_file_without_a_matrix_is_read_as_players_do_with_a_warning(run, tmp_path, height, name):
    numbers = stored(COLOURS[0], name, False, 8)
    path = write(tmp_path / "a.mp4", [plain_frame(numbers, "yuv420p", height=height)] * 2)
    found, _ = read(run, path)
    assert np.abs(found - np.array(COLOURS[0])).max() < 0.01
    assert f"{name.upper().replace('BT', 'BT.')} is assumed" in run.warnings[0]


def test_a_matrix_that_is_not_supported_is_an_error(run, tmp_path):
    path = write(tmp_path / "a.mkv", [plain_frame(np.array([90, 100, 110]), "yuv444p")] * 2, colours=(8, 1))
    with pytest.raises(NodeError, match=r"matrix 8 of ITU-T H\.273"):
        video.load(run, path)


@pytest.mark.parametrize(("trc", "primaries", "said"), [(16, 9, "HDR (PQ)"), (18, 9, "HDR (HLG)"), (14, 9, "BT.2020")])
def test_hdr_and_wide_colours_are_a_warning(run, tmp_path, trc, primaries, said):
    numbers = stored(COLOURS[0], "bt2020", False, 10)
    path = write(
        tmp_path / "a.mp4",
        [plain_frame(numbers, "yuv420p10le")] * 2,
        colours=(9, 1),
        characteristics=(primaries, trc),
    )
    read(run, path)
    (warning,) = run.warnings
    assert said in warning


@pytest.mark.parametrize(("width", "height"), [(63, 47), (1, 5), (65, 2)])
def test_odd_sizes_keep_every_pixel(run, tmp_path, width, height):
    pixels = np.random.default_rng(0).integers(0, 256, (3, height, width, 3)).astype(np.uint8)
    frames = [av.VideoFrame.from_ndarray(image, format="rgb24") for image in pixels]
    found, _ = read(run, write(tmp_path / "a.mov", frames, codec="png"))
    assert np.abs(found - pixels / 255).max() < 1e-6
    plain = [plain_frame(stored(colour, "bt601", False, 8), "yuv420p", width, height) for colour in COLOURS]
    found, _ = read(run, write(tmp_path / "a.webm", plain, codec="libvpx-vp9", colours=(5, 1), options={"crf": "0"}))
    assert found.shape == (6, height, width, 3)
    assert np.abs(found - np.array(COLOURS)[:, None, None]).max() < 0.03
    assert run.warnings == []


SIGNS = list(itertools.product((1, -1), repeat=2))


@pytest.mark.parametrize(("a", "b", "c", "d"), [(x, 0, 0, y) for x, y in SIGNS] + [(0, x, y, 0) for x, y in SIGNS])
def test_frames_are_turned_as_the_display_matrix_says(run, tmp_path, a, b, c, d):
    """A stored pixel (x, y) is shown at (a x + c y, b x + d y), moved into the picture."""
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:16, :16], pixels[:16, 48:], pixels[32:, :16] = 80, 160, 240
    path = write(tmp_path / "a.mp4", [av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")])
    with_matrix(path, (a, b, c, d))
    y, x = np.mgrid[:48, :64]
    right, down = a * x + c * y, b * x + d * y
    right, down = right - right.min(), down - down.min()
    expected = np.zeros((down.max() + 1, right.max() + 1, 3))
    expected[down, right] = pixels / 255
    found, _ = read(run, path)
    assert found.shape[1:] == expected.shape
    assert np.abs(found[0] - expected).mean() < 0.02


def test_frames_turned_by_another_angle_are_loaded_as_stored_with_a_warning(run, tmp_path):
    path = write(tmp_path / "a.mp4", numbered_frames(2))
    with_matrix(path, (0.866, 0.5, -0.5, 0.866))
    assert read(run, path)[0].shape == (2, 48, 64, 3)
    assert any("turned by 30 degrees" in warning for warning in run.warnings)


@pytest.mark.parametrize("rate", [Fraction(24000, 1001), Fraction(30000, 1001), 12, Fraction(25, 2), 60])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov"])
def test_frame_rates_are_those_that_were_written(run, tmp_path, rate, name):
    found, fps = read(run, write(tmp_path / name, numbered_frames(20), rate=rate))
    assert fps == pytest.approx(float(rate), rel=1e-6)
    assert [number_of(frame.mean()) for frame in found] == list(range(20))
    assert not any("varies" in warning for warning in run.warnings)


TIMES = [0, 40, 80, 400, 440, 500, 1000]  # milliseconds


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_varying_frame_rate_is_a_warning(run, tmp_path, name):
    path = write(tmp_path / name, numbered_frames(7), times=TIMES, time_base=Fraction(1, 1000), options={"bf": "0"})
    found, fps = read(run, path)
    assert [number_of(frame.mean()) for frame in found] == list(range(7))
    (warning,) = [w for w in run.warnings if "varies" in w]
    assert "`fps` of video.load takes frames at an even rate" in warning
    assert "0.04 to 0.5 seconds" in warning
    # The first two frames are shown for equal times.
    run.warnings.clear()
    _, fps = read(run, path, count=2)
    assert fps == pytest.approx(25)
    assert not any("varies" in warning for warning in run.warnings)


@pytest.mark.parametrize("fps", [5, 10, 24, 50])
def test_resampling_takes_the_frame_that_is_shown_at_each_moment(run, tmp_path, fps):
    path = write(tmp_path / "a.mkv", numbered_frames(7), times=TIMES, time_base=Fraction(1, 1000), options={"bf": "0"})
    found, made = read(run, path, fps=fps)
    assert made == fps
    moments = [index * 1000 / fps for index in range(len(found))]
    expected = [max(n for n, time in enumerate(TIMES) if time <= moment + 0.5) for moment in moments]
    assert [number_of(frame.mean()) for frame in found] == expected
    assert 1000 <= len(found) * 1000 / fps <= 1000 + 600  # the last frame is shown for a while
    part, _ = read(run, path, fps=fps, first=2, count=3)
    assert np.array_equal(part, found[2:5])


@pytest.mark.parametrize("fps", [8, 16, 24, 32])
def test_resampling_to_the_rate_of_the_file_changes_nothing(run, tmp_path, fps):
    for name in ("a.mp4", "a.mkv"):  # Matroska rounds times to milliseconds
        whole, own = read(run, write(tmp_path / name, numbered_frames(20), rate=fps))
        again, _ = read(run, tmp_path / name, fps=own)
        assert np.array_equal(whole, again)


def test_a_transparent_animation_is_put_on_the_background(run, tmp_path):
    frames = []
    for index in range(3):
        image = Image.new("RGBA", (24, 16))
        image.paste((255, 0, 0, 255), (8 * index, 0, 8 * index + 8, 16))
        frames.append(image)
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=100, disposal=2)
    found, fps = read(run, tmp_path / "a.gif", background="blue")
    assert fps == pytest.approx(10)
    for index, frame in enumerate(found):
        expected = np.tile([0.0, 0.0, 1.0], (16, 24, 1))
        expected[:, 8 * index : 8 * index + 8] = (1, 0, 0)
        assert np.abs(frame - expected).max() < 1e-6
    assert run.warnings == []
    read(run, tmp_path / "a.gif")
    assert "transparent pixels, which are put on white" in run.warnings[0]


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.avif", "a.webp"])
def test_animated_images_are_read_frame_by_frame_or_refused(run, tmp_path, name):
    if name == "a.avif" and not features.check("avif"):
        pytest.skip("this Pillow writes no AVIF")
    first, *rest = [Image.new("RGB", (24, 16), colour) for colour in ("red", "lime", "blue")]
    first.save(tmp_path / name, save_all=True, append_images=rest, duration=100)
    if name == "a.webp":
        with pytest.raises(NodeError, match="is a WebP file"):
            video.load(run, tmp_path / name)
    else:
        found, fps = read(run, tmp_path / name)
        assert fps == pytest.approx(10)
        assert np.abs(found.mean(axis=(1, 2)) - np.eye(3)).max() < 0.03


def test_a_still_moment_at_the_end_of_a_gif_is_a_warning(run, tmp_path):
    first, *rest = [Image.new("RGB", (24, 16), (40 * n, 0, 0)) for n in range(4)]
    first.save(tmp_path / "a.gif", save_all=True, append_images=rest, duration=[50, 50, 50, 2000])
    read(run, tmp_path / "a.gif")
    assert any("varies" in warning for warning in run.warnings)
    found, _ = read(run, tmp_path / "a.gif", fps=20)
    assert len(found) == 3 + 40


def test_pixels_that_are_not_square_are_a_warning(run, tmp_path):
    read(run, write(tmp_path / "a.mp4", numbered_frames(2), ratio=Fraction(4, 3)))
    assert any("players show them as 85x48" in warning for warning in run.warnings)


def test_one_of_several_streams_is_loaded_with_a_warning(run, tmp_path):
    with av.open(str(tmp_path / "a.mov"), "w") as output:
        streams = [output.add_stream("png", rate=5) for _ in range(2)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 24, 16, "rgb24"
        for _ in range(3):
            for number, stream in enumerate(streams):
                picture = np.full((16, 24, 3), 100 + 50 * number, np.uint8)
                output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
    found, _ = read(run, tmp_path / "a.mov")
    assert found.shape == (3, 16, 24, 3)
    assert np.abs(found - 100 / 255).max() < 1e-6
    assert "has 2 video streams; stream 0 is loaded" in run.warnings[0]


def test_a_file_of_sound_alone_is_an_error(run, tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as output:
        stream = output.add_stream("aac", rate=48000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.rate = 48000
        output.mux(stream.encode(sound))
        output.mux(stream.encode(None))
    with pytest.raises(NodeError, match=re.escape("has no video stream (it has sound)")):
        video.load(run, tmp_path / "a.mp4")


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.webm", "a.ts"])
def test_a_truncated_video_is_an_error_or_a_warning(run, tmp_path, name):
    """The frames that are loaded are those of the whole file."""
    pixels = np.random.default_rng(0).integers(0, 256, (50, 48, 64, 3)).astype(np.uint8)
    frames = [av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p") for image in pixels]
    path = write(tmp_path / name, frames, codec="libvpx-vp9" if name == "a.webm" else "libx264", colours=(5, 1))
    whole, _ = read(run, path)
    assert len(whole) == 50
    assert run.warnings == []
    content = path.read_bytes()
    for part in (0.2, 0.5, 0.9):
        path.write_bytes(content[: int(len(content) * part)])
        run.warnings.clear()
        try:
            found, _ = read(run, path)
        except NodeError as error:
            counted = re.search(r"`count: (\d+)`", error.help or "")
            if counted is None:
                continue
            found, _ = read(run, path, count=int(counted[1]))
        else:
            # A transport stream has no header, so one that ends between two frames is a shorter stream.
            assert name == "a.ts" or any("may be incomplete" in warning for warning in run.warnings)
        assert 0 < len(found) < 50
        assert np.array_equal(found, whole[: len(found)])


def test_a_size_that_changes_is_an_error(run, tmp_path):
    small, large = (write(tmp_path / f"{n}.ts", numbered_frames(4, n, 48), options={"bf": "0"}) for n in (64, 96))
    (tmp_path / "a.ts").write_bytes(small.read_bytes() + large.read_bytes())
    with pytest.raises(NodeError, match="changes its size at frame 4"):
        video.load(run, tmp_path / "a.ts")
    assert read(run, tmp_path / "a.ts", count=4)[0].shape == (4, 48, 64, 3)


@pytest.mark.parametrize(
    "content", ["#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n", "ffconcat version 1.0\nfile b\n"]
)
def test_a_list_of_other_files_is_an_error(run, tmp_path, content):
    (tmp_path / "a.mp4").write_text(content)
    with pytest.raises(NodeError, match="is a playlist"):
        video.load(run, tmp_path / "a.mp4")


def test_a_background_that_is_no_colour_is_an_error(run, tmp_path):
    (problem,) = node_facts.check(video.load, background="blu")
    assert (problem.code, problem.parameter) == ("bad-value", "background")


@pytest.mark.parametrize("name", ["a.mp4", "a.mov"])
def test_the_index_stands_before_the_frames(run, name):
    """Players can start before they have the whole file: ISO/IEC 14496-12, 8.2.1."""
    (file,) = video.save(run, Frames(torch.rand(1, 5, 32, 32, 3)), name)
    content, place, boxes = file.path.read_bytes(), 0, []
    while place < len(content):
        boxes.append(content[place + 4 : place + 8])
        place += int.from_bytes(content[place : place + 4], "big")
    assert boxes.index(b"moov") < boxes.index(b"mdat")


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.webm"])
def test_saved_colours_come_back_and_the_file_names_them(run, name):
    """PyAV gives the stored numbers; BT.709-6 gives their colours."""
    colours = torch.rand(30, 3, generator=torch.Generator().manual_seed(0))
    clip = colours.view(1, 30, 1, 1, 3).expand(1, 30, 32, 32, 3)
    (file,) = video.save(run, Frames(clip), name, crf=1)
    with av.open(str(file.path)) as opened:
        context = opened.streams.video[0].codec_context
        tags = context.colorspace, context.color_primaries, context.color_trc, context.color_range
        assert tags == (1, 1, 1, 1)
        frames = list(opened.decode(video=0))
        assert {(frame.colorspace, frame.color_range) for frame in frames} == {(1, 1)}
        lumas = np.array([frame.to_ndarray()[8, 8] for frame in frames])
        differences = np.array([[frame.to_ndarray()[32 + 8 * n + 2, 4] for n in (0, 1)] for frame in frames])
    numbers = np.array([stored(colour, "bt709", False, 8) for colour in colours.tolist()])
    assert np.abs(lumas - numbers[:, 0]).max() <= 1
    assert np.abs(differences - numbers[:, 1:]).max() <= 2
    assert np.abs(read(run, file.path)[0] - clip[0].numpy()).max() < 5 / 255
    assert run.warnings == []


@pytest.mark.parametrize("fps", [8, 12, 16, 24, 30, 50])
def test_a_gif_lasts_as_long_as_it_should(run, fps):
    clip = torch.linspace(0, 1, 48).view(1, 48, 1, 1, 1).expand(1, 48, 16, 16, 3)
    (file,) = video.save(run, Frames(clip), "a.gif", fps=fps)
    with Image.open(file.path) as opened:
        lengths = []
        for index in range(opened.n_frames):  # type: ignore[attr-defined]
            opened.seek(index)
            lengths.append(opened.info["duration"])
    assert len(lengths) == 48
    assert sum(lengths) == pytest.approx(48_000 / fps, abs=5)
    assert max(lengths) - min(lengths) <= 10
    _, read_fps = read(run, file.path)
    assert read_fps == pytest.approx(fps, rel=0.02)
    assert run.warnings == []


def test_settings_that_many_players_do_not_play_are_a_warning():
    (lossless,) = node_facts.check(video.save, path="a.mp4", crf=0)
    (fast,) = node_facts.check(video.save, path="a.gif", fps=60.0)
    assert (lossless.severity, lossless.parameter) == ("warning", "crf")
    assert (fast.severity, fast.parameter) == ("warning", "fps")
    assert not list(node_facts.check(video.save, path="a.webm", crf=0, fps=60.0))


def test_interlaced_frames_are_a_warning(run, tmp_path):
    path = write(tmp_path / "a.mp4", numbered_frames(3), colours=(5, 1), options={"x264-params": "interlaced=1"})
    read(run, path)
    (warning,) = run.warnings
    assert "is interlaced" in warning


def test_transparency_of_vp9_is_read_or_named(run, tmp_path):
    frames = [plain_frame(np.array([90, 128, 128, 40]), "yuva420p") for _ in range(3)]
    read(run, write(tmp_path / "a.webm", frames, codec="libvpx-vp9", colours=(5, 1)))
    assert any("transparent pixels" in warning for warning in run.warnings)


def test_transparency_of_a_video_is_put_on_the_background(run, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 24, 4)).astype(np.uint8)
    frames = [av.VideoFrame.from_ndarray(image, format="rgba") for image in pixels]
    found, _ = read(run, write(tmp_path / "a.mov", frames, codec="png"), background="#204060")
    values = pixels / 255
    expected = values[..., :3] * values[..., 3:] + np.array([0x20, 0x40, 0x60]) / 255 * (1 - values[..., 3:])
    assert np.abs(found - expected).max() < 1e-6
