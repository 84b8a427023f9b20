"""image.load on files of many kinds: numbers that were written are compared with numbers that are read."""

import io
import struct

import av
import numpy as np
import pytest
import sgd
import tifffile
import torch
from helpers import node_facts
from helpers.image_files import PNG_CHANNELS, chunk, cmyk_profile, jpeg2000, numbers, png16
from PIL import Image, ImageCms, ImageOps, features
from sgd.graph.contract.errors import NodeError
from sgd.nodes import image
from skimage.color import lab2rgb

NOTHING = 1e-6


def read(run, path, **options):
    made = image.load(run, path, **options).tensor
    assert made.dtype == torch.float32
    assert made.shape[:2] == (1, 1)
    return made[0, 0].numpy()


def grey(values):
    return np.repeat(values.reshape(*values.shape[:2], 1), 3, axis=2)


def over(colours, alpha, behind=(1.0, 1.0, 1.0)):
    """Porter and Duff's "over", on an opaque background."""
    return colours * alpha + np.array(behind) * (1 - alpha)


@pytest.mark.parametrize("colour_type", PNG_CHANNELS)
def test_png_files_of_16_bits_keep_every_bit(run, tmp_path, colour_type):
    pixels = numbers(9, 7, PNG_CHANNELS[colour_type])
    values = pixels / 65535
    expected = values if colour_type == 2 else grey(values[..., :1]) if colour_type in (0, 4) else values[..., :3]
    if colour_type in (4, 6):
        expected = over(expected, values[..., -1:])
    found = read(run, png16(tmp_path / "a.png", pixels, colour_type))
    assert np.abs(found - expected).max() < NOTHING
    assert len(run.warnings) == (colour_type in (4, 6))


@pytest.mark.parametrize("colour_type", [0, 2])
def test_a_transparent_colour_of_16_bits_is_compared_exactly(run, tmp_path, colour_type):
    pixels = numbers(9, 7, PNG_CHANNELS[colour_type])
    pixels[4, 4] = pixels[3, 2]
    pixels[4, 5] = pixels[3, 2] ^ 1  # equal in the upper 8 bits
    path = png16(tmp_path / "a.png", pixels, colour_type, chunk(b"tRNS", pixels[3, 2].astype(">u2").tobytes()))
    alpha = (pixels != pixels[3, 2]).any(axis=2, keepdims=True)
    assert alpha.sum() < 9 * 7 - 1
    expected = over(grey(pixels / 65535) if colour_type == 0 else pixels / 65535, alpha, (1, 0, 0))
    assert np.abs(read(run, path, background="red") - expected).max() < NOTHING
    assert run.warnings == []


def tiff(path, pixels, **options):
    tifffile.imwrite(path, pixels, **options)
    return path


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    "options", [{}, {"compression": "zlib"}, {"compression": "zlib", "predictor": True}, {"planarconfig": "separate"}]
)
def test_tiff_files_of_16_bit_colours_keep_every_bit(run, tmp_path, order, options):
    pixels = numbers(30, 20, 3)
    stored = pixels.transpose(2, 0, 1) if "planarconfig" in options else pixels
    path = tiff(tmp_path / "a.tif", stored, photometric="rgb", byteorder=order, **options)
    assert np.abs(read(run, path) - pixels / 65535).max() < NOTHING
    assert run.warnings == []


@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha"])
def test_tiff_files_of_16_bits_with_opacity_are_put_on_the_background(run, tmp_path, kind):
    values = numbers(30, 20, 4) / 65535
    if kind == "assocalpha":
        values[..., :3] *= values[..., 3:]
    pixels = np.round(values * 65535).astype(np.uint16)
    path = tiff(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=[kind])
    colours, alpha = pixels[..., :3] / 65535, pixels[..., 3:] / 65535
    expected = over(colours, alpha) if kind == "unassalpha" else colours + 1 - alpha
    assert np.abs(read(run, path) - expected).max() < NOTHING
    assert "`background` of image.load chooses the colour" in run.warnings[0]


@pytest.mark.parametrize(
    ("pixels", "expected", "options"),
    [
        (numbers(9, 7), numbers(9, 7) / 65535, {}),
        (numbers(9, 7), numbers(9, 7) / 65535, {"byteorder": ">"}),
        (numbers(9, 7), 1 - numbers(9, 7) / 65535, {"photometric": "miniswhite"}),
        (numbers(9, 7).astype(np.uint32) * 65537, numbers(9, 7) / 65535, {}),
        ((numbers(9, 7) // 2).astype(np.int16), (numbers(9, 7) // 2) / 32767, {}),
        (
            (numbers(9, 7) // 2).astype(np.int32) * 65537,
            (numbers(9, 7) // 2).astype(np.int64) * 65537 / (2**31 - 1),
            {},
        ),
        ((numbers(9, 7) / 65535).astype(np.float32), numbers(9, 7) / 65535, {}),
        ((numbers(9, 7) // 256 // 2).astype(np.int8), (numbers(9, 7) // 256 // 2) / 127, {}),
    ],
    ids=["16", "16-big-endian", "16-white-is-zero", "u32", "i16", "i32", "float", "i8"],
)
def test_grey_tiff_files_are_divided_by_the_maximum_of_their_format(run, tmp_path, pixels, expected, options):
    found = read(run, tiff(tmp_path / "a.tif", pixels, **options))
    assert np.abs(found - grey(expected)).max() < NOTHING
    assert run.warnings == []


@pytest.mark.parametrize("maximum", [255, 1023, 65535])
@pytest.mark.parametrize("channels", [1, 3])
def test_netpbm_files_are_divided_by_the_maximum_that_they_name(run, tmp_path, maximum, channels):
    pixels = numbers(9, 7, channels, maximum=maximum)
    path = tmp_path / "a.pnm"
    content = pixels.astype(">u2" if maximum > 255 else "u1").tobytes()
    path.write_bytes(b"P%d\n7 9\n%d\n" % (6 if channels == 3 else 5, maximum) + content)
    expected = pixels / maximum if channels == 3 else grey(pixels / maximum)
    # FFmpeg and Pillow scale to whole numbers of 16 bits.
    assert np.abs(read(run, path) - expected).max() <= 1 / 65535
    assert run.warnings == []


@pytest.mark.skipif(not features.check("jpg_2000"), reason="this Pillow reads no JPEG 2000")
def test_jpeg_2000_files_of_16_bits_keep_every_bit(run, tmp_path):
    pixels = numbers(32, 32)
    Image.fromarray(pixels).save(tmp_path / "a.jp2", irreversible=False)
    assert np.abs(read(run, tmp_path / "a.jp2") - grey(pixels / 65535)).max() < NOTHING
    colours = numbers(32, 32, 3)
    (tmp_path / "b.jp2").write_bytes(jpeg2000(colours, "rgb48le"))
    assert np.abs(read(run, tmp_path / "b.jp2") - colours / 65535).max() < NOTHING
    fewer = numbers(32, 32, maximum=1023)
    (tmp_path / "c.jp2").write_bytes(jpeg2000(fewer, "gray10le"))
    assert np.abs(read(run, tmp_path / "c.jp2") - grey(fewer / 1023)).max() < NOTHING
    assert run.warnings == []


def test_an_sgi_file_of_16_bits_keeps_them(run, tmp_path):
    picture("RGB").save(tmp_path / "a.sgi", bpc=2)  # Pillow writes 256 v
    assert np.abs(read(run, tmp_path / "a.sgi") - np.asarray(picture("RGB")) * (256 / 65535)).max() < NOTHING
    assert run.warnings == []


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
@pytest.mark.skipif("libsvtav1" not in av.codecs_available, reason="this PyAV writes no AV1")
@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv420p10le"])
def test_an_avif_file_of_10_bits_says_that_8_of_them_are_read(run, tmp_path, pixel_format):
    with av.open(str(tmp_path / "a.avif"), "w", format="avif") as output:
        stream = output.add_stream("libsvtav1", rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, 64, pixel_format
        frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 128, np.uint8), format="rgb24")
        output.mux([*stream.encode(frame.reformat(format=pixel_format)), *stream.encode(None)])
    assert np.abs(read(run, tmp_path / "a.avif") - 128 / 255).max() < 0.02
    assert [w.partition("; ")[2] for w in run.warnings] == ["8 of them are read"] * ("10" in pixel_format)


def test_values_that_are_not_those_of_an_image_are_an_error(run, tmp_path):
    for value, message in (
        (np.nan, "NaN or infinite"),
        (np.inf, "NaN or infinite"),
        (1.5, "between 0 and 1"),
        (-0.1, "0 and 1"),
    ):
        pixels = np.full((4, 4), 0.5, np.float32)
        pixels[1, 2] = value
        with pytest.raises(NodeError, match=message):
            read(run, tiff(tmp_path / "a.tif", pixels))
    with pytest.raises(NodeError, match="between 0 and 1"):
        read(run, tiff(tmp_path / "a.tif", np.array([[-5, 7]], np.int16)))


def test_an_image_of_tiles_that_is_read_with_8_bits_says_so(run, tmp_path):
    pixels = numbers(70, 50, 3)
    path = tiff(tmp_path / "a.tif", pixels, photometric="rgb", tile=(16, 16))
    assert np.abs(read(run, path) - pixels / 65535).max() < 1 / 255
    assert "8 of them are read" in run.warnings[0]


def picture(mode):
    """A picture of 24 x 16 in a mode of Pillow, with all opacities if it has opacity."""
    colours = np.random.default_rng(1).integers(0, 256, (16, 24, 4)).astype(np.uint8)
    whole = Image.fromarray(colours)
    return whole if mode == "RGBA" else whole.convert(mode) if mode != "P" else whole.convert("RGB").quantize(7)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA"])
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp", "a.gif", "a.bmp", "a.tga"])
def test_ordinary_images_equal_what_pillow_shows(run, tmp_path, mode, name):
    try:
        picture(mode).save(tmp_path / name, **({"lossless": True, "exact": True} if name == "a.webp" else {}))
    except OSError:
        pytest.skip(f"Pillow writes no {mode} as {name}")
    with Image.open(tmp_path / name) as opened:
        shown = np.asarray(opened.convert("RGBA")) / 255
    found = read(run, tmp_path / name)
    assert np.abs(found - over(shown[..., :3], shown[..., 3:])).max() < NOTHING
    assert len(run.warnings) == (shown[..., 3].min() < 1)


@pytest.mark.parametrize("transparency", [3, bytes([255, 0, 128, 7])])
def test_transparent_entries_of_a_palette_are_put_on_the_background(run, tmp_path, transparency):
    made = picture("P")
    made.save(tmp_path / "a.png", transparency=transparency)
    alphas = np.full(256, 1.0)
    if isinstance(transparency, int):
        alphas[transparency] = 0
    else:
        alphas[: len(transparency)] = np.frombuffer(transparency, np.uint8) / 255
    palette = np.array(made.getpalette()).reshape(-1, 3) / 255
    indices = np.asarray(made)
    expected = over(palette[indices], alphas[indices][..., None], (0, 128 / 255, 0))
    assert np.abs(read(run, tmp_path / "a.png", background="green") - expected).max() < NOTHING
    assert run.warnings == []
    read(run, tmp_path / "a.png")
    assert "transparent pixels, which are put on white" in run.warnings[0]


def test_an_opaque_image_with_an_alpha_channel_gives_no_warning(run, tmp_path):
    picture("RGB").convert("RGBA").save(tmp_path / "a.png")
    assert np.abs(read(run, tmp_path / "a.png") - np.asarray(picture("RGB")) / 255).max() < NOTHING
    assert run.warnings == []


@pytest.mark.parametrize("background", ["#12", "blu", "#ff00ff80", ""])
def test_a_background_that_is_no_colour_is_an_error(run, tmp_path, background):
    (problem,) = node_facts.check(image.load, background=background)
    assert (problem.code, problem.parameter) == ("bad-value", "background")
    picture("RGB").save(tmp_path / "a.png")
    with pytest.raises(NodeError, match="is not a colour"):
        image.load(run, tmp_path / "a.png", background=background)


def test_colours_of_a_background_give_no_diagnostic():
    for background in ("#123456", "#fff", "black", "rgb(1, 2, 3)", None):
        assert not list(node_facts.check(image.load, background=background))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif", "deep.png", "deep.tif"])
def test_images_are_turned_upright(run, tmp_path, name, orientation):
    """The directions of the EXIF standard, table 6: the first row and the first column of the stored picture."""
    towards = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: a.swapaxes(0, 1)[:, ::-1],
        7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
        8: lambda a: a.swapaxes(0, 1)[::-1],
    }
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[:8, :8], pixels[:8, 16:], pixels[8:, :8] = (200, 0, 0), (0, 180, 0), (0, 0, 160)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / name
    if name == "deep.png":
        png16(path, pixels.astype(np.uint16) * 257, 2, chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")))
    elif name == "deep.tif":
        extratags = [(0x0112, 3, 1, orientation, True)]
        tiff(path, pixels.astype(np.uint16) * 257, photometric="rgb", extratags=extratags)
    else:
        options = {"quality": 95, "subsampling": 0} if name == "a.jpg" else {}
        options = {"lossless": True} if name == "a.webp" else options
        Image.fromarray(pixels).save(path, exif=exif, **options)
    expected = towards[orientation](pixels) / 255
    found = read(run, path)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < (0.06 if name == "a.jpg" else NOTHING)
    if not name.startswith("deep"):
        with Image.open(path) as opened:
            assert np.abs(found - np.asarray(ImageOps.exif_transpose(opened).convert("RGB")) / 255).max() < NOTHING
    assert run.warnings == []


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_an_image_with_broken_exif_data_is_not_turned(run, tmp_path):
    picture("RGB").save(tmp_path / "a.png", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    found = read(run, tmp_path / "a.png")
    assert np.abs(found - np.asarray(picture("RGB")) / 255).max() < NOTHING


@pytest.mark.parametrize("name", ["a.jpg", "a.tif"])
def test_cmyk_without_a_profile_is_converted_with_a_warning(run, tmp_path, name):
    """(1 - C)(1 - K) for red, and so on. Pillow writes Adobe's inverted CMYK into JPEG files."""
    inks = np.repeat(np.repeat(np.random.default_rng(2).integers(0, 256, (4, 4, 4)), 16, 0), 16, 1).astype(np.uint8)
    Image.fromarray(inks, "CMYK").save(tmp_path / name, **({"quality": 100, "subsampling": 0} if "jpg" in name else {}))
    left = 1 - inks / 255
    found = read(run, tmp_path / name)
    assert np.abs(found - left[..., :3] * left[..., 3:]).max() < (0.03 if "jpg" in name else 0.01)
    assert "is CMYK, and it has no colour profile" in run.warnings[0]


def test_cmyk_with_a_profile_has_the_colours_of_the_profile(run, tmp_path):
    """The profile names the colour of each ink; skimage converts L*a*b* to sRGB."""
    lab = np.zeros((2, 2, 2, 2, 3))
    lab[..., 1:] = 128  # no colour
    lab[0, 0, 0, 0, 0] = 255  # paper
    colours = {(1, 0, 0, 0): (60, 20, 15), (0, 1, 0, 0): (70, -20, 10), (0, 0, 1, 0): (40, 5, -20)}
    for inks, (light, a, b) in colours.items():
        lab[inks] = (light * 255 / 100, a + 128, b + 128)
    pixels = np.array([list(colours)], np.uint8) * 255
    Image.fromarray(pixels, "CMYK").save(tmp_path / "a.tif", icc_profile=cmyk_profile(np.round(lab)))
    stored = np.array([[np.round(lab[inks]) for inks in colours]])
    expected = lab2rgb(np.stack([stored[..., 0] * 100 / 255, *(stored[..., n] - 128 for n in (1, 2))], -1))
    assert np.abs(read(run, tmp_path / "a.tif") - expected).max() < 0.03
    assert run.warnings == []


def test_an_image_in_lab_has_its_colours(run, tmp_path):
    """TIFF stores a* and b* as signed bytes; skimage converts them to sRGB."""
    colours = [(60, 20, 15), (70, -20, 10), (40, 5, -20), (100, 0, 0), (0, 0, 0)]
    stored = np.array([[(round(light * 255 / 100), a % 256, b % 256) for light, a, b in colours]], np.uint8)
    tiff(tmp_path / "a.tif", stored, photometric="cielab")
    expected = lab2rgb(np.array([colours], float))
    assert np.abs(read(run, tmp_path / "a.tif") - expected).max() < 0.03
    assert run.warnings == []


def test_a_profile_like_srgb_gives_no_warning_and_another_one_does(run, tmp_path):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture("RGB").save(tmp_path / "a.png", icc_profile=srgb)
    read(run, tmp_path / "a.png")
    assert run.warnings == []
    swapped = srgb.replace(b"rXYZ", b"tmp.", 1).replace(b"gXYZ", b"rXYZ", 1).replace(b"tmp.", b"gXYZ", 1)
    picture("RGB").save(tmp_path / "b.png", icc_profile=swapped)
    assert np.abs(read(run, tmp_path / "b.png") - np.asarray(picture("RGB")) / 255).max() < NOTHING
    assert "which is not applied" in run.warnings[0]
    picture("RGB").save(tmp_path / "c.png", icc_profile=b"no profile")
    read(run, tmp_path / "c.png")
    assert "the colour profile" in run.warnings[1]
    assert "cannot be read" in run.warnings[1]


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.tif"])
def test_the_first_frame_of_several_is_loaded_with_a_warning(run, tmp_path, name):
    first, second = (Image.new("RGB", (24, 16), colour) for colour in ("red", "blue"))
    options = {"lossless": True} if name == "a.webp" else {}
    first.save(tmp_path / name, save_all=True, append_images=[second, first], **options)
    assert np.abs(read(run, tmp_path / name) - np.array([1.0, 0, 0])).max() < NOTHING
    (warning,) = run.warnings
    assert "3 images; the first is loaded" in warning if name == "a.tif" else "it has 3 frames" in warning


def test_files_that_are_no_whole_image_are_an_error(run, tmp_path, monkeypatch):
    for name in ("a.png", "a.jpg", "a.webp", "a.tif", "deep.png"):
        path = tmp_path / name
        if name == "deep.png":
            png16(path, numbers(64, 64, 3), 2)
        else:
            Image.fromarray(numbers(64, 64, 3, maximum=255).astype(np.uint8)).save(path)
        content = path.read_bytes()
        for length in (len(content) * 2 // 3, len(content) // 3, 30, 4, 0):
            path.write_bytes(content[:length])
            with pytest.raises(NodeError, match="cannot be read as an image"):
                image.load(run, path)
    with pytest.raises(NodeError, match="is a folder"):
        image.load(run, tmp_path)
    empty = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 0, 0, 8, 2, 0, 0, 0)) + chunk(b"IEND", b"")
    (tmp_path / "empty.png").write_bytes(empty)
    with pytest.raises(NodeError):
        image.load(run, tmp_path / "empty.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    picture("RGB").save(tmp_path / "large.png")
    with pytest.raises(NodeError, match="too large for an image"):
        image.load(run, tmp_path / "large.png")


@pytest.mark.filterwarnings("ignore:::PIL")
def test_bytes_that_were_changed_never_give_a_traceback(run, tmp_path, monkeypatch):
    """Each file has random bytes changed: it is read, or it is a NodeError."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    random = np.random.default_rng(0)
    for name in ("a.png", "a.gif", "a.tif", "a.jpg", "a.bmp", "a.webp", "a.ppm", "a.tga", "a.ico"):
        stream = io.BytesIO()
        picture("RGB").save(stream, format=Image.registered_extensions()[f".{name[2:]}"])
        for _ in range(20):
            content = bytearray(stream.getvalue())
            for place in random.integers(0, min(len(content), 200), 3):
                content[place] = random.integers(0, 256)
            (tmp_path / name).write_bytes(content)
            try:
                found = image.load(run, tmp_path / name).tensor
            except NodeError:
                continue
            assert found.min() >= 0
            assert found.max() <= 1


def test_a_warning_names_the_place_of_the_file(tmp_path):
    picture("RGBA").save(tmp_path / "a.png")
    file = tmp_path / "mine.yaml"
    lines = [
        "sgd: 1",
        "inputs: {picture: {type: path, default: a.png}}",
        "nodes:",
        "  first: {uses: image.load, with: {path: a.png}}",
        "  second: {uses: image.load, with: {path: $picture, background: black}}",
        "  third: {uses: image.load, with: {path: $picture}}",
        "  saved: {uses: image.save, with: {frames: $first, path: saved.png}}",
        "  other: {uses: image.save, with: {frames: $second, path: other.png}}",
    ]
    file.write_text("\n".join(lines))
    done = sgd.run(sgd.compile(file), out=tmp_path / "out")
    (warning,) = [w for w in done.record["warnings"] if "transparent" in w]
    assert warning.startswith("first: ")
    assert warning.endswith(f"({file}:4:42)")
    assert (
        np.abs(
            np.asarray(Image.open(tmp_path / "out" / "other.png"))
            - np.asarray(
                Image.alpha_composite(Image.new("RGBA", (24, 16), "black"), picture("RGBA")).convert("RGB")
            ).astype(int)
        ).max()
        <= 1
    )
