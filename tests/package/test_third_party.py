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
    environment = {**os.environ, **({"PYTHONPATH": str(path)} if path else {})}
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
