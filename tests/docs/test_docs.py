"""What the documentation shows is what the project does."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "workflows/models/tiny-wan/README.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_named_files_exist(page: Path) -> None:
    named = re.findall(r"`((?:docs|workflows|training|tests|graph|nodes)/[\w./-]+)`", page.read_text())
    assert [n for n in named if not (ROOT / n).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_whole_workflows_in_the_documentation_pass_the_check(page: Path, tmp_path: Path) -> None:
    from sgd.graph.compiler.compile import check

    shutil.copytree(ROOT / "workflows", tmp_path / "workflows", ignore=shutil.ignore_patterns("models"))
    (tmp_path / "workflows" / "models").symlink_to(ROOT / "workflows" / "models")
    # A file under "Wrong:" has a problem on purpose; test_reference.py looks for it.
    text = page.read_text().replace("Wrong:\n\n```yaml", "```")
    for number, block in enumerate(re.findall(r"```yaml\n((?:# .*\n)*sgd: 1\n.*?)```", text, re.DOTALL)):
        file = tmp_path / "workflows" / f"doc-{number}.yaml"
        file.write_text(block)
        assert [d.message for d in check(file).errors] == []


def test_readme_names_the_two_commands_first() -> None:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert "sgd exec quickstart" in blocks[0]
    assert blocks[1].rstrip().endswith("pytest")
