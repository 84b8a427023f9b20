"""The pages for contributors name places and functions that exist, and every folder says what it is for."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = sorted(file for package in ("graph", "nodes") for file in (ROOT / package).rglob("__init__.py"))
PATH = re.compile(r"`((?:graph|nodes|tests|docs|workflows|training)/[\w./-]*)`")
MODULES = sorted(
    file for folder in ("graph", "nodes", "tests", "docs", "training") for file in (ROOT / folder).rglob("*.py")
)


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", ["docs/architecture.md", "CONTRIBUTING.md", "docs/adding-a-family.md"])
def test_the_places_it_names_exist(page: str) -> None:
    named = PATH.findall(text_of(page))
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("file", FOLDERS, ids=lambda file: file.parent.relative_to(ROOT).as_posix())
def test_each_folder_states_its_purpose_and_the_place_of_other_code(file: Path) -> None:
    said = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    assert len(re.findall(r"\.(?:\s|$)", said)) >= 2


def test_the_files_that_docstrings_name_exist() -> None:
    """Paths in backticks, and Markdown pages, in the docstrings of modules, classes and functions."""
    missing = []
    for file in MODULES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                said = ast.get_docstring(node) or ""
                named = PATH.findall(said) + re.findall(r"\bdocs/[\w-]+\.md\b", said)
                missing += [(file.name, path) for path in named if not (ROOT / path).exists()]
    assert missing == []


def steps() -> list[tuple[str, str]]:
    """File and function of each row of the walk from the command to the file on disk."""
    return re.findall(r"^\| \d+ \| `([^`]+)` \| `(\w+)` \|", text_of("docs/architecture.md"), re.MULTILINE)


@pytest.mark.parametrize(("file", "function"), steps(), ids=lambda word: word)
def test_a_function_of_the_walk_exists(file: str, function: str) -> None:
    names = [n.name for n in ast.parse(text_of(file)).body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
    assert function in names


def test_the_walk_is_whole() -> None:
    numbers = [int(n) for n in re.findall(r"^\| (\d+) \| `", text_of("docs/architecture.md"), re.MULTILINE)]
    assert len(steps()) == len(numbers)
    assert sorted(set(numbers)) == list(range(1, max(numbers) + 1))


def test_the_picture_shows_every_folder_of_the_packages() -> None:
    picture = re.findall(r"```text\n(graph/\n.*?)```", text_of("docs/architecture.md"), re.DOTALL)[0]
    shown: set[str] = set()
    above: list[str] = []
    for line in picture.splitlines():
        match = re.match(r"( *)(\w+)/", line)
        if match:
            above = [*above[: len(match[1]) // 2], match[2]]
            shown.add("/".join(above))
    folders = {file.parent.relative_to(ROOT).as_posix() for file in FOLDERS}
    assert folders <= shown
    assert [folder for folder in shown if not (ROOT / folder).is_dir()] == []


def test_ten_questions_have_a_place() -> None:
    table = text_of("docs/architecture.md").split("## Ten questions")[1]
    rows = re.findall(r"^\| (.+\?) \| (.+) \|$", table, re.MULTILINE)
    assert len(rows) == 10
    assert all(PATH.search(place) for _, place in rows)
