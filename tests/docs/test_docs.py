"""The project does as the documentation shows."""

from __future__ import annotations

import re
import shutil
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "workflows/models/tiny-wan/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
LINK = re.compile(r"\]\(([^)#\s]*)(#[^)\s]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for link, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" not in link:
            target = page.parent / link if link else page
            assert target.exists(), link
            assert not anchor or anchor[1:] in anchors(target), link + anchor


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_reached_from_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    linked = {(ROOT / "docs" / link).resolve() for link, _ in LINK.findall(index)}
    assert [
        page.name for page in PAGES if "models" not in page.parts and page not in {*linked, ROOT / "docs/README.md"}
    ] == []
    assert re.findall(r"^## (.+)$", index, re.MULTILINE) == ["Guides", "Reference", "Evidence", "For contributors"]


def test_readme_is_read_in_three_minutes() -> None:
    text = re.sub(r"```.*?```", "", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len([word for line in text.splitlines() if not line.startswith("|") for word in line.split()]) < 700


def test_the_readme_shows_the_nodes_of_quickstart() -> None:
    """The README shows the bundled file, without the descriptions of its inputs."""
    shown = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0])
    bundled = yaml.safe_load((ROOT / "workflows" / "quickstart.yaml").read_text())
    assert (shown["nodes"], shown["outputs"]) == (bundled["nodes"], bundled["outputs"])
    for name, entry in bundled["inputs"].items():
        assert shown["inputs"][name] == {key: value for key, value in entry.items() if key != "about"}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_named_files_exist(page: Path) -> None:
    named = re.findall(r"`((?:docs|workflows|training|tests|graph|nodes)/[\w./-]+)`", page.read_text())
    # A changelog names files of earlier versions too.
    gone = {"docs/nodes.md"} if page.name == "CHANGELOG.md" else set()
    assert [n for n in named if not (ROOT / n).exists() and n not in gone] == []


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


def test_the_changelog_has_the_version_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## \[(.+?)\]", changes, re.MULTILINE)[:2] == ["Unreleased", project["version"]]
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.+)$", changes, re.MULTILINE)) <= kinds


def test_the_tasks_of_contributing_are_those_of_the_makefile() -> None:
    tasks = re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    told = re.findall(r"^\| `make (\w+)`", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(tasks) == {*told, "help"}


def test_hooks_of_pre_commit_are_local() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert {repo["repo"] for repo in hooks["repos"]} == {"local"}
