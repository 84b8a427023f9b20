"""Recipes in pictures, clips and latents: other programs find them, equal runs give equal bytes, damage is told."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import av
import pytest
import torch
from helpers.direct import DirectRun
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from sgd.graph.compiler.compile import check
from sgd.graph.contract.errors import NodeError
from sgd.nodes import image, latents, video
from sgd.nodes.library.recipe_reading import recipe_text
from sgd.nodes.models.repository import component_notes, hub
from sgd.nodes.models.repository.repository import find
from sgd.nodes.values import Frames, Latents, Size

RECIPE = json.dumps(
    {
        "recipe": 1,
        "files": [{"name": "w.yaml", "text": "sgd: 1\nname: \u732b\nnodes: {}\n"}],
        "inputs": {"p": "a=;#\\ \n"},
    },
    separators=(",", ":"),
)
PICTURES = ("a.png", "a.jpg", "a.webp", "a.gif")
CLIPS = ("a.mp4", "a.mov", "a.mkv", "a.webm")
FILES = (*PICTURES, *CLIPS, "a.safetensors")
FRAMES = Frames(torch.linspace(0, 1, 4 * 16 * 16 * 3).reshape(1, 4, 16, 16, 3))


class RecipeKeeper(DirectRun):
    """A run with a recipe."""

    def __init__(self, folder: Path, recipe: str | None = RECIPE) -> None:
        super().__init__(folder)
        self.text = recipe
        self.used: list[tuple] = []

    def recipe(self) -> str | None:
        return self.text

    def used_file(self, path, role="input_files", *, source=None, name=None, sha256=None):
        self.used.append((source, name, sha256))


def saved(folder: Path, name: str, recipe: str | None = RECIPE) -> Path:
    folder.mkdir(exist_ok=True)
    run = RecipeKeeper(folder, recipe)
    if name.endswith(".safetensors"):
        return latents.save(run, Latents(torch.zeros(1, 16, 1, 2, 2), "wan", Size(16, 16, 1)), Path(name)).path
    if name in PICTURES and not name.endswith(".gif"):
        return image.save(run, FRAMES, Path(name), frame=0)[0].path
    return video.save(run, FRAMES, Path(name), fps=8)[0].path


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    return {name: saved(folder, name) for name in FILES}


@pytest.mark.parametrize("name", FILES)
def test_what_was_written_is_read(files, name):
    assert recipe_text(files[name]) == RECIPE


@pytest.mark.parametrize("name", FILES)
def test_equal_runs_give_equal_bytes(files, name, tmp_path):
    assert saved(tmp_path / "other folder", name).read_bytes() == files[name].read_bytes()


@pytest.mark.parametrize("name", FILES)
def test_without_a_recipe_nothing_is_written(name, tmp_path):
    plain = saved(tmp_path, name, None)
    assert recipe_text(plain) == ""
    assert b"recipe" not in plain.read_bytes()


@pytest.mark.parametrize("name", [*PICTURES, *CLIPS])
def test_the_pixels_do_not_change(files, name, tmp_path):
    def pixels(path: Path) -> list[bytes]:
        with av.open(str(path)) as opened:
            return [frame.to_ndarray(format="rgb24").tobytes() for frame in opened.decode(video=0)]

    found = pixels(files[name])
    assert found == pixels(saved(tmp_path, name, None))
    assert len(found) == (1 if name in ("a.png", "a.jpg", "a.webp") else 4)


@pytest.mark.parametrize("name", PICTURES)
def test_pillow_finds_it_in_pictures(files, name):
    with Image.open(files[name]) as opened:
        if name == "a.png":
            assert opened.info["sgd"] == RECIPE
        elif name == "a.gif":
            assert opened.info["comment"] == RECIPE.encode()
        else:
            assert opened.getexif().get_ifd(0x8769)[0x9286] == b"ASCII\0\0\0" + RECIPE.encode()


@pytest.mark.parametrize("name", CLIPS)
def test_ffprobe_finds_it_in_clips(files, name):
    if shutil.which("ffprobe") is None:
        pytest.skip("ffprobe is not installed")
    words = ["ffprobe", "-v", "error", "-show_format", "-of", "json", str(files[name])]
    tags = json.loads(subprocess.run(words, check=True, capture_output=True).stdout)["format"]["tags"]
    assert {key.lower(): value for key, value in tags.items()}["sgd"] == RECIPE


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.gif", "a.mp4", "a.mov"])
def test_exiftool_finds_it(files, name):
    if shutil.which("exiftool") is None:
        pytest.skip("exiftool is not installed")
    words = ["exiftool", "-json", "-b", str(files[name])]
    found = json.loads(subprocess.run(words, check=True, capture_output=True).stdout)[0]
    tag = {"a.jpg": "UserComment", "a.webp": "UserComment", "a.gif": "Comment"}.get(name, "Sgd")
    value = found[tag]
    assert (json.loads(value) if isinstance(value, str) else value) == json.loads(RECIPE)


def test_safetensors_has_it_in_its_metadata(files):
    with safe_open(files["a.safetensors"], "pt") as opened:
        assert opened.metadata()["sgd"] == RECIPE


def test_an_mp4_still_starts_before_it_is_loaded(files):
    data = files["a.mp4"].read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


def test_a_recipe_too_long_for_jpeg_is_left_out_with_a_word(tmp_path):
    run = RecipeKeeper(tmp_path, '{"recipe":1,' + " " * 70_000)
    path = image.save(run, FRAMES, Path("a.jpg"), frame=0)[0].path
    assert "does not fit into a JPEG file, which holds 60 kB" in run.warnings[0]
    assert recipe_text(path) == ""


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.gif", "a.mp4", "a.mkv"])
def test_a_long_recipe_fits_into_other_files(tmp_path, name):
    text = RECIPE[:-1] + ',"x":"' + "y" * 1_200_000 + '"}'
    path = saved(tmp_path, name, text)
    assert recipe_text(path) == text
    with av.open(str(path)) as opened:
        next(opened.decode(video=0))
    if name in PICTURES:
        with Image.open(path) as opened:
            opened.load()


def test_other_files_are_not_asked(tmp_path):
    for name, data in (("a.yaml", b"sgd: 1\n"), ("b.bin", b""), ("c.txt", b"\x00" * 40), ("d.png", b"sgd: 1\n")):
        (tmp_path / name).write_bytes(data)
        assert recipe_text(tmp_path / name) is None
    assert recipe_text(tmp_path / "none") is None


@pytest.mark.parametrize("comment", [b"made with love", b'{"prompt": {}}', b"\xff\xfe{", b""])
def test_comments_of_other_programs_are_no_recipes(tmp_path, comment):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.gif", comment=comment)
    assert recipe_text(tmp_path / "a.gif") == ""
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0" + comment
    Image.new("RGB", (4, 4)).save(tmp_path / "a.jpg", exif=exif)
    assert recipe_text(tmp_path / "a.jpg") == ""


@given(st.sampled_from(FILES), st.floats(0, 1), st.booleans(), st.binary(min_size=1, max_size=8))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_files_give_a_recipe_or_a_clear_error(files, tmp_path, name, place, cut, noise):
    data = files[name].read_bytes()
    at = int(place * len(data))
    path = tmp_path / name
    path.write_bytes(data[:at] if cut else data[:at] + noise + data[at + len(noise) :])
    with suppress(NodeError):
        found = recipe_text(path)
        assert found is None or isinstance(found, str)
    check(path)  # has diagnostics, or none


@pytest.mark.parametrize("line", ["file:/etc/passwd", "http://127.0.0.1:9/x", "concat:/etc/passwd", "/dev/zero"])
def test_a_clip_cannot_name_another_file(tmp_path, line, monkeypatch):
    """What FFmpeg would take for a playlist is no clip here, and a name is never an address."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "concat:x.mp4"
    path.write_bytes(b"\0\0\0\x14ftypisom\n" + f"#EXTM3U\n{line}\n".encode())
    with pytest.raises(NodeError, match="cannot be read as a clip"):
        recipe_text(Path("concat:x.mp4"))


def test_reading_imports_no_torch(files):
    code = (
        "import sys; from sgd.graph.cli.main import main; code = main(['check', sys.argv[1]])\n"
        "print(code, [m for m in ('torch', 'diffusers', 'transformers', 'numpy') if m in sys.modules])"
    )
    for name in ("a.png", "a.mp4"):
        words = [sys.executable, "-c", code, str(files[name])]
        found = subprocess.run(words, capture_output=True, text=True, timeout=60)
        assert found.stdout.strip().endswith(" []"), found


TINY = Path(image.__file__).parents[1] / "workflows" / "models" / "tiny-wan"


def test_files_of_a_bundled_model_have_bundled_names(tmp_path):
    run = RecipeKeeper(tmp_path)
    repository = find(str(TINY))
    component_notes.note_configs(repository, run)
    component_notes.note_component(repository, "tokenizer", [], run)
    component_notes.note_file(str(TINY / "vae" / "x.safetensors"), TINY / "vae" / "x.safetensors", run)
    assert ("sgd:models/tiny-wan", "model_index.json", None) in run.used
    assert ("sgd:models/tiny-wan", "tokenizer/tokenizer.json", None) in run.used
    assert run.used[-1] == ("sgd:models/tiny-wan/vae", "x.safetensors", None)


def test_files_of_a_folder_and_of_the_hub_have_no_folders(tmp_path, monkeypatch):
    run = RecipeKeeper(tmp_path)
    shutil.copytree(TINY, tmp_path / "mine")
    component_notes.note_configs(find(str(tmp_path / "mine")), run)
    component_notes.note_file("/loras/x.safetensors", Path("/loras/x.safetensors"), run)
    component_notes.note_file("owner/name/deep/x.gguf", tmp_path / "x.gguf", run)
    assert ("mine", "model_index.json", None) in run.used
    assert run.used[-2:] == [(None, "x.safetensors", None), ("owner/name", "deep/x.gguf", None)]


def test_a_large_file_of_the_hub_is_named_by_its_hash(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    digest = "ab" * 32
    blobs = tmp_path / "hub" / "models--o--n" / "blobs"
    blobs.mkdir(parents=True)
    for name in (digest, "cd" * 20):
        (blobs / name).write_bytes(b"x")
        link = tmp_path / name[:4]
        link.symlink_to(blobs / name)
    assert hub.blob_sha256(tmp_path / "abab") == digest
    assert hub.blob_sha256(tmp_path / "cdcd") is None, "a small file has the SHA-1 of Git"
    other = tmp_path / "blobs"
    other.mkdir()
    (other / digest).write_bytes(b"x")
    assert hub.blob_sha256(other / digest) is None, "any folder may be called blobs"
