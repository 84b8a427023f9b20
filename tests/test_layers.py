"""Which way imports point: the node library needs the node contract, and nothing that compiles or runs a file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import sgd

ROOT = Path(sgd.__file__).parent
CONTRACT = {"calibration", "device", "ir", "node", "ports", "report", "source"}
# cache.library reads configuration files of another package, as the language reads YAML; `sgd init` lists workflows.
READERS = {"cache/library_options.py": {"passes", "tree"}, "initial.py": {"library"}}


def imported(package: str) -> Iterator[tuple[str, str]]:
    """Each module of `sgd` that a package imports, relative to the root, with the file that does."""
    for file in sorted((ROOT / package).rglob("*.py")):
        path = file.relative_to(ROOT)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = path.parts[: len(path.parts) - node.level]
                for name in [node.module] if node.module else [alias.name for alias in node.names]:
                    yield "/".join(path.parts[1:]), ".".join((*base, name))


def test_nodes_import_the_contract_alone() -> None:
    seen = set()
    for file, module in imported("nodes"):
        first, _, rest = module.partition(".")
        if first == "graph" and rest:
            seen.add(rest.split(".")[0])
            assert rest.split(".")[0] in CONTRACT | READERS.get(file, set()), f"{file} imports {module}"
    assert seen >= CONTRACT


def test_the_contract_imports_no_command() -> None:
    needed: dict[str, set[str]] = {}
    for file, module in imported("graph"):
        needed.setdefault(file.removesuffix(".py"), set()).add(module.removeprefix("graph.").split(".")[0])
    work, reached = list(CONTRACT), set()
    while work:
        name = work.pop()
        if name not in reached:
            reached.add(name)
            work += needed.get(name, ())
    assert not reached & {"cli", "commands", "compile", "run", "execute", "document", "tree"}


def test_the_language_imports_no_node() -> None:
    assert not [(file, module) for file, module in imported("graph") if module.split(".")[0] == "nodes"]
