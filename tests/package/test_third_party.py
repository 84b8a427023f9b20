"""An installed package adds node types and workflow parts; a file named on the command line adds node types."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import av
import pytest

ROOT = Path(__file__).parents[2]

WORKFLOW = """
sgd: 1
inputs: {image: {type: path}}
nodes:
  still: {uses: image.load, with: {path: $image}}
  video: {uses: "boomerang:boomerang_video", with: {frames: $still, times: 3}}
outputs: {video: $video}
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    source = tmp_path_factory.mktemp("source")
    subprocess.run(["cp", "-r", str(ROOT / "docs" / "example-nodes"), str(source / "example")], check=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--target", str(target), str(source / "example")], check=True)
    return target


def sgd(*arguments: str, path: Path | None = None, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    before = os.environ.get("PYTHONPATH")
    added = {"PYTHONPATH": os.pathsep.join([str(path), *([before] if before else [])])} if path else {}
    environment = {**os.environ, **added}
    command = [sys.executable, "-m", "sgd.graph.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd)


def test_installed_package_is_listed_with_its_documentation(installed: Path) -> None:
    assert "no node type" in sgd("nodes", "frames.boomerang").stderr
    shown = sgd("nodes", "frames.boomerang", path=installed)
    assert shown.returncode == 0, shown.stderr
    assert "sgd_boomerang" in shown.stdout
    assert "How often to go there and back" in shown.stdout
    assert "at most 20" in shown.stdout


def test_installed_nodes_and_parts_run_in_a_workflow(installed: Path, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (32, 16), (200, 30, 30)).save(tmp_path / "red.png")
    file = tmp_path / "workflow.yaml"
    file.write_text(WORKFLOW)
    done = sgd("exec", str(file), "image=red.png", "--out", "run", path=installed, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with av.open(str(tmp_path / "run" / "boomerang.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 1  # a still has no way back: 1 + 2 * 3 * 0
    assert abs(int(frames[0][8, 16, 0]) - 200) < 12


def test_bounds_of_a_third_party_node_are_checked_with_position(installed: Path, tmp_path: Path) -> None:
    file = tmp_path / "workflow.yaml"
    file.write_text(WORKFLOW)
    done = sgd("exec", str(file), "image=red.png", "--set", "video.both.times=50", path=installed, cwd=tmp_path)
    assert done.returncode == 2
    assert "wired" in done.stderr
    done = sgd("exec", str(file), "image=red.png", "--set", "video.times=0", path=installed, cwd=tmp_path)
    assert done.returncode == 2
    assert "below the minimum" in done.stderr


def test_library_file_adds_nodes(tmp_path: Path) -> None:
    library = tmp_path / "mine.py"
    library.write_text(
        "from sgd.nodes import node\n\n\n"
        '@node("text.shout")\ndef shout(text: str) -> str:\n    """Make text loud."""\n    return text.upper()\n'
    )
    shown = sgd("nodes", "text.shout", "--library", str(library))
    assert shown.returncode == 0, shown.stderr
    assert "Make text loud." in shown.stdout


def test_broken_library_file_is_an_error_without_traceback(tmp_path: Path) -> None:
    library = tmp_path / "broken.py"
    library.write_text("import nothing_of_that_name\n")
    done = sgd("nodes", "--library", str(library))
    assert done.returncode == 2
    assert "nothing_of_that_name" in done.stderr
    assert "Traceback" not in done.stderr


BROKEN = """

@node("frames.fade")
def fade(frames: Frames) -> Frames:
    \"\"\"Darken the clip.\"\"\"
    return Frames(frames.tensor.mul_(0.5))


@node("frames.crop")
def crop(frames: Frames) -> Frames:
    \"\"\"Cut the clip.\"\"\"
    from .sizes import cut

    return Frames(cut(frames.tensor))
"""
SIZES = """
import torch


def cut(tensor):
    return torch.nn.functional.interpolate(tensor, size=(7,))
"""


@pytest.fixture(scope="module")
def broken(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed package with two more node types, which are wrong."""
    folder = tmp_path_factory.mktemp("broken")
    subprocess.run(["cp", "-r", f"{installed}/.", str(folder)], check=True)
    module = folder / "sgd_boomerang" / "__init__.py"
    module.write_text(module.read_text() + BROKEN)
    (module.parent / "sizes.py").write_text(SIZES)
    return folder


def run_broken(node: str, *more: str, path: Path, folder: Path) -> str:
    """The message of a workflow with one of the wrong node types."""
    from PIL import Image

    Image.new("RGB", (32, 16), (200, 30, 30)).save(folder / "red.png")
    (folder / "workflow.yaml").write_text(
        "sgd: 1\nnodes:\n  still: {uses: image.load, with: {path: ./red.png}}\n"
        f"  wrong: {{uses: {node}, with: {{frames: $still}}}}\n"
        "  sheet: {uses: frames.grid, with: {frames: $still}}\n"
        "outputs: {sheet: $sheet, wrong: $wrong}\n"
    )
    done = sgd("exec", "workflow.yaml", "--out", "run", "--overwrite", *more, path=path, cwd=folder)
    assert done.returncode == 1
    return done.stderr


def test_a_node_of_a_package_that_changes_its_input_is_named(broken: Path, tmp_path: Path) -> None:
    told = run_broken("frames.fade", path=broken, folder=tmp_path)
    assert "wrong (frames.fade) failed: it changed `tensor` of its input `frames` in place" in told
    assert "sgd_boomerang/__init__.py:" in told
    assert "Traceback" not in told


def test_the_failing_line_of_a_package_is_named_and_its_calls_come_first(broken: Path, tmp_path: Path) -> None:
    told = run_broken("frames.crop", "--traceback", path=broken, folder=tmp_path)
    assert "sgd_boomerang/sizes.py:6 in cut: return torch.nn.functional.interpolate(tensor, size=(7,))" in told
    own, everything = told.split("Calls in the code of frames.crop")[1].split("All calls:")
    assert own.index("in crop") < own.index("in cut")
    assert "torch/nn/functional.py" not in own
    assert "torch/nn/functional.py" in everything
