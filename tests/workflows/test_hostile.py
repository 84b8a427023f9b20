"""Input that no honest user gives, and some that they do: an answer in words and the right exit code, no traceback."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.in_process import sgd
from PIL import Image

LONG = "x" * 5000
SAVE = """
sgd: 1
nodes:
  a: {{uses: image.load, with: {{path: a.png}}}}
  b: {{uses: image.save, with: {{frames: $a, path: "{path}"}}}}
"""


def refused(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == code, done.stderr
    for word in words:
        assert word in done.stderr


def model(source: str, more: str = "") -> str:
    return f'sgd: 1\nnodes:\n  m: {{uses: model.load, with: {{source: "{source}"{more}}}}}\noutputs: {{m: $m}}\n'


@pytest.mark.parametrize("revision", ["/bin/ls", "../../../tmp", "a/../../b", LONG])
def test_a_revision_is_no_path(tmp_path: Path, revision: str) -> None:
    (tmp_path / "w.yaml").write_text(model("org/name", f', revision: "{revision}"'))
    refused(sgd("check", "w.yaml", cwd=tmp_path), 2, "is not a revision")


def test_a_source_too_long_for_a_path(tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text(model(LONG))
    refused(sgd("check", "w.yaml", cwd=tmp_path), 2, "is not a path")


def test_a_model_index_nested_without_end(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model_index.json").write_text("[" * 100_000)
    (tmp_path / "w.yaml").write_text(model("./m"))
    refused(sgd("check", "w.yaml", cwd=tmp_path), 2, "model_index.json")


@pytest.mark.parametrize(("path", "word"), [(f"{LONG}.png", "255 bytes"), ("x\\0.png", "NUL")])
def test_file_names_that_cannot_be(tmp_path: Path, path: str, word: str) -> None:
    (tmp_path / "w.yaml").write_text(SAVE.format(path=path))
    refused(sgd("check", "w.yaml", cwd=tmp_path), 2, word, "w.yaml:5:")


@pytest.mark.parametrize("out", [LONG, ""])
def test_output_folders_that_cannot_be(tmp_path: Path, out: str) -> None:
    (tmp_path / "w.yaml").write_text(SAVE.format(path="b.png"))
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    refused(sgd("exec", "w.yaml", "--out", out, cwd=tmp_path), 2, "--out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "w.yaml"]


def test_a_profile_nested_without_end(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("[" * 100_000)
    refused(sgd("graph", "quickstart", "--profile", "run.json", cwd=tmp_path), 2, "not the record")


@pytest.mark.parametrize("code", [0, 3])
def test_a_library_that_exits(tmp_path: Path, code: int) -> None:
    (tmp_path / "l.py").write_text(f"raise SystemExit({code})\n")
    refused(sgd("check", "quickstart", "--library", "l.py", cwd=tmp_path), 2, "SystemExit")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "sgd.graph.cli.main", "schema"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    refused(done, 1, "No space left")


def test_a_setting_of_a_parameter_that_is_not_written_has_a_place(tmp_path: Path) -> None:
    refused(sgd("exec", "quickstart", "--set", "sheet.columns=0", cwd=tmp_path), 2, "quickstart.yaml:22:")


def test_work_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    huge = ["--set", "noise.batch=1000000000000"]
    refused(sgd("exec", "quickstart", *huge, "--out", "o", "--device", "cpu", cwd=tmp_path), 4, "less memory")


@pytest.mark.slow
def test_a_component_that_is_a_pipeline_is_not_read(tmp_path: Path) -> None:
    """Pipelines would read files that the rules for weights never see, pickles among them."""
    source = Path(__file__).parents[2] / "workflows" / "models" / "tiny-wan"
    folder = tmp_path / "m"
    folder.mkdir()
    for part in source.iterdir():
        if part.is_dir() and part.name != "tokenizer":
            (folder / part.name).symlink_to(part)
    shutil.copytree(source / "tokenizer", folder / "tokenizer")
    index = json.loads((source / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "tokenizer": ["diffusers", "DiffusionPipeline"]}))
    (folder / "tokenizer" / "vae").mkdir()
    nested = {"_class_name": "WanPipeline", "vae": ["diffusers", "AutoencoderKLWan"]}
    (folder / "tokenizer" / "model_index.json").write_text(json.dumps(nested))
    (folder / "tokenizer" / "vae" / "config.json").write_text((source / "vae" / "config.json").read_text())
    (folder / "tokenizer" / "vae" / "diffusion_pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    done = sgd("exec", "quickstart", "steps=1", "--set", f"model.source={folder}", "--out", "o", cwd=tmp_path)
    refused(done, 1, "DiffusionPipeline, which is not a component class")
    assert not (tmp_path / "pwned").exists()


LOOP = """
sgd: 1
inputs: {pictures: {type: "list[path]", default: [there.png, missing.png]}}
nodes:
  loop:
    for: {picture: $pictures, number: [1, 2]}
    body:
      image: {uses: image.load, with: {path: $picture}}
      save: {uses: image.save, with: {frames: $image, path: "o-${number}.png"}}
    yield: {file: $save}
  literal:
    for: {picture: [gone.png, there.png]}
    body:
      image: {uses: image.load, with: {path: $picture}}
      save: {uses: image.save, with: {frames: $image, path: "p-${index}.png"}}
    yield: {file: $save}
outputs: {files: $loop, more: $literal}
"""


def test_check_finds_each_file_of_a_list_that_is_not_there(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "there.png")
    (tmp_path / "w.yaml").write_text(LOOP)
    done = sgd("check", "w.yaml", cwd=tmp_path)
    refused(done, 2, "there is no file missing.png", "there is no file gone.png", "w.yaml:12:", "w.yaml:6:")
    assert done.stderr.count("error[") == 2


MODEL = """
sgd: 1
nodes:
  model: {uses: model.load, with: {source: ./m}}
  noise: {uses: latents.noise, with: {model: $model, width: 32, height: 32, frames: 5}}
  frames: {uses: vae.decode, with: {model: $model, latents: $noise}}
  video: {uses: video.save, with: {frames: $frames, path: a.mp4}}
outputs: {video: $video}
"""


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """A copy of the small model, with a workflow that reads its VAE alone."""
    source = Path(__file__).parents[2] / "workflows" / "models" / "tiny-wan"
    shutil.copytree(source, tmp_path / "m", ignore=shutil.ignore_patterns("README.md"))
    (tmp_path / "w.yaml").write_text(MODEL)
    return tmp_path


@pytest.mark.parametrize("command", ["check", "exec"])
def test_a_truncated_file_of_a_component_is_found_before_the_run(model_folder: Path, command: str) -> None:
    file = model_folder / "m" / "vae" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    done = sgd(command, "w.yaml", cwd=model_folder)
    refused(done, 2, f"{file} is truncated", "w.yaml:4:", "help: ")
    assert done.stderr.count("error[") == 1
    assert not (model_folder / "outputs").exists()


def test_a_component_that_nothing_reads_may_be_broken(model_folder: Path) -> None:
    shutil.rmtree(model_folder / "m" / "text_encoder")
    (model_folder / "m" / "tokenizer" / "tokenizer.json").unlink()
    (model_folder / "m" / "transformer" / "diffusion_pytorch_model.safetensors").write_bytes(b"no")
    done = sgd("check", "w.yaml", cwd=model_folder)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_broken_config_is_found_even_if_its_component_is_not_loaded(model_folder: Path) -> None:
    (model_folder / "m" / "transformer" / "config.json").write_text('{"num_layers": 4,')
    refused(sgd("check", "w.yaml", cwd=model_folder), 2, "transformer/config.json:1:1: `{` is not closed")


def test_an_option_that_a_class_does_not_have_is_a_warning(model_folder: Path) -> None:
    file = model_folder / "m" / "vae" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "z_dims": 4}))
    done = sgd("check", "w.yaml", cwd=model_folder)
    assert done.returncode == 0, done.stderr
    assert "warning[unknown-key]" in done.stderr
    assert "AutoencoderKLWan has no option `z_dims`" in done.stderr


@pytest.mark.slow
def test_weights_of_another_shape_end_the_run_with_one_message(model_folder: Path) -> None:
    file = model_folder / "m" / "vae" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "base_dim": 5}))
    done = sgd("exec", "w.yaml", "--quiet", cwd=model_folder)
    refused(done, 1, "vae/diffusion_pytorch_model.safetensors: tensor ", "has shape", "vae/config.json", "help: ")
    assert not list(model_folder.rglob("*.mp4"))
