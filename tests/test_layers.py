"""The direction of imports, circles among them, and names of modules that stand twice.

Imports inside functions and for type checkers count like the others.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import networkx as nx
import sgd

ROOT = Path(sgd.__file__).parent
FILES = sorted(file for package in ("graph", "nodes") for file in (ROOT / package).rglob("*.py"))
LAYERS = ("contract", "language", "compiler", "resume", "store", "runtime", "cli")
"""The layers of `graph/`, lowest first: each may import those before it."""


def module_of(file: Path) -> str:
    """The dotted name of a file below the package, `graph.cli` for `graph/cli/__init__.py`."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(file): file for file in FILES}


def imported(module: str, file: Path) -> Iterator[str]:
    """Each module of the package that a file imports anywhere in it; other packages are left out."""
    package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (a.name.removeprefix("sgd.") for a in node.names if a.name.startswith("sgd."))
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])
            elif node.module is not None and node.module.startswith("sgd."):
                base = node.module.removeprefix("sgd.")
            else:
                continue
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield inner if inner in MODULES else base


IMPORTS = {module: set(imported(module, file)) for module, file in MODULES.items()}


def test_every_import_was_understood() -> None:
    assert sum(map(len, IMPORTS.values())) > 500
    unknown = {(m, name) for m, names in IMPORTS.items() for name in names if name not in MODULES}
    assert not unknown


def test_no_circle() -> None:
    graph = nx.DiGraph((module, name) for module, names in IMPORTS.items() for name in names)
    assert [sorted(knot) for knot in nx.strongly_connected_components(graph) if len(knot) > 1] == []
    assert list(nx.selfloop_edges(graph)) == []


def test_layers_import_downwards() -> None:
    def height(module: str) -> int:
        return LAYERS.index(module.split(".")[1])

    upward = [
        (module, name)
        for module, names in IMPORTS.items()
        for name in names
        if module.startswith("graph.") and name.startswith("graph.") and height(module) < height(name)
    ]
    assert upward == []


def test_nodes_import_the_contract_alone() -> None:
    seen = {(m, n) for m, names in IMPORTS.items() if m.startswith("nodes") for n in names if n.startswith("graph")}
    assert seen
    assert [(module, name) for module, name in seen if not name.startswith("graph.contract.")] == []


def test_the_language_imports_no_node() -> None:
    assert [
        (m, n) for m, names in IMPORTS.items() if m.startswith("graph") for n in names if n.startswith("nodes")
    ] == []


def test_the_language_names_nothing_of_diffusion() -> None:
    """Words of the standard library, in code, comments and docstrings of `graph/`."""
    words = r"prompt|latent|\bgates?\b|cache.dit|\bvae\b|denois|attention|diffus|guidance|sampler|\bhub\b|\bweights\b"
    found = [
        (module, line.strip())
        for module, file in MODULES.items()
        if module.split(".")[0] == "graph"
        for line in file.read_text(encoding="utf-8").splitlines()
        if re.search(words, line, re.IGNORECASE)
    ]
    assert found == []


def test_a_module_name_stands_once() -> None:
    names = Counter(module.rsplit(".", 1)[-1] for module, file in MODULES.items() if file.name != "__init__.py")
    assert [name for name, count in names.items() if count > 1] == []
