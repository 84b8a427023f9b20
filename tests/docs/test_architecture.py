"""The pages for contributors name places that exist, and every folder says what it is for."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = sorted(file for package in ("graph", "nodes") for file in (ROOT / package).rglob("__init__.py"))
PATH = re.compile(r"`((?:graph|nodes|tests|docs|workflows|training)/[\w./-]*)`")


@pytest.mark.parametrize("page", ["docs/architecture.md", "CONTRIBUTING.md", "docs/adding-a-family.md"])
def test_the_places_it_names_exist(page: str) -> None:
    named = PATH.findall((ROOT / page).read_text(encoding="utf-8"))
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("file", FOLDERS, ids=lambda file: file.parent.relative_to(ROOT).as_posix())
def test_each_folder_says_what_it_is_for_and_what_belongs_elsewhere(file: Path) -> None:
    said = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    assert len(re.findall(r"\.(?:\s|$)", said)) >= 2
