"""An installation holds the files of the tree."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_packages_are_the_folders_with_modules() -> None:
    tops = ("graph", "nodes", "workflows")
    folders = {p.parent.relative_to(ROOT) for top in tops for p in (ROOT / top).rglob("*.py")}
    expected = {"sgd", *(".".join(("sgd", *folder.parts)) for folder in folders)}
    assert set(CONFIG["tool"]["setuptools"]["packages"]) == expected


@pytest.mark.slow
def test_wheel_holds_workflows_model_and_configs(tmp_path: Path) -> None:
    build(tmp_path, "--wheel")
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    tracked = files("workflows", "nodes", "graph")
    missing = {f"sgd/{name}" for name in tracked} - names
    assert not missing
    assert "sgd/py.typed" in names
    assert not [n for n in names if n.startswith(("sgd/tests", "tests/"))]
    assert wheel.stat().st_size < 25_000_000


@pytest.mark.slow
def test_source_distribution_holds_the_tests(tmp_path: Path) -> None:
    build(tmp_path, "--sdist")
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.split("/", 1)[-1] for name in tar.getnames()}
    root = ("CHANGELOG.md", "CONTRIBUTING.md", "Makefile", ".pre-commit-config.yaml", ".ci")
    missing = set(files("tests", "workflows", "nodes", "graph", "docs", "training", *root)) - names
    assert not missing


def build(out: Path, what: str) -> None:
    command = [sys.executable, "-m", "build", what, "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def files(*folders: str) -> list[str]:
    """The files under version control below these folders."""
    listed = subprocess.run(["git", "ls-files", *folders], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return listed.stdout.split()
