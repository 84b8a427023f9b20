"""The registry of node types: the standard library, installed packages, and files the caller names.

A library is a module. Its node types are the functions in its namespace that `@node` made, and those of its
`node_modules`. The module may have one object of a class derived from `NodeLibrary`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from ..contract.errors import LibraryError
from ..contract.node import NodeType
from ..contract.node_library import NodeLibrary
from ..contract.ports import Port, Type
from .library_objects import STANDARD, STANDARD_MODULE, installed_packages, library_object


class Library:
    """Node types by name, port types by name, and folders of reusable workflows by library name."""

    def __init__(self) -> None:
        self.nodes: dict[str, NodeType] = {}
        self.ports: dict[str, type[Port]] = {}
        self.libraries: dict[str, NodeLibrary] = {}
        self.warnings: list[str] = []

    def add(self, name: str, module: ModuleType) -> None:
        """Add all node types of a module.

        Raises:
            LibraryError: If a name is already taken by another library, or the module has two library objects.
        """
        self.libraries[name] = own = library_object(module)
        for node_type in _node_types(module, own):
            other = self.nodes.get(node_type.name)
            if other is not None and other.function is not node_type.function:
                raise LibraryError(f"node type {node_type.name} of {name} is already defined by {other.library}")
            self.nodes[node_type.name] = replace(node_type, library=name)
            for type in [i.type for i in node_type.inputs.values()] + [o.type for o in node_type.outputs]:
                self._add_port(type)

    def _add_port(self, type: Type) -> None:
        while type.item is not None:
            type = type.item
        if type.kind == "port" and type.cls is not None and type.name not in self.ports:
            self.ports[type.name] = type.cls
            if type.element is not None:
                self._add_port(type.element)

    def add_file(self, path: Path) -> None:
        """Add the node types of a Python file, which runs it.

        Raises:
            LibraryError: If it cannot be imported.
        """
        name = f"sgd_library_{path.stem}"
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None or not path.is_file():
            raise LibraryError(f"--library {path}: no Python file there")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            del sys.modules[name]
            raise LibraryError(f"--library {path}: {type(error).__name__}: {error}") from error
        self.add(str(path), module)

    def libraries_of(self, names: set[str]) -> list[NodeLibrary]:
        """The libraries that define these node types, each once."""
        used = {self.nodes[n].library for n in names if n in self.nodes}
        return [library for n, library in self.libraries.items() if n in used]


def _node_types(module: ModuleType, library: NodeLibrary) -> Iterator[NodeType]:
    listed = [importlib.import_module(f".{name}", module.__name__) for name in library.node_modules]
    for part in [module, *listed]:
        for value in list(vars(part).values()):
            found = getattr(value, "node", None) if callable(value) else None
            if isinstance(found, NodeType) and found.function is value:
                yield found


def standard() -> Library:
    """The standard library alone."""
    library = Library()
    library.add(STANDARD, importlib.import_module(STANDARD_MODULE))
    return library


def installed(files: tuple[Path, ...] = ()) -> Library:
    """Load the standard library, every installed package with the entry point group `sgd.nodes`, and `files`.

    An installed package that cannot be loaded is a warning, since the workflow may not need it. A file that cannot be
    loaded is an error, since the caller asked for it.

    Raises:
        LibraryError: If one of `files` cannot be loaded.
    """
    library = standard()
    for point in installed_packages():
        try:
            library.add(point.name, point.load())
        except (Exception, SystemExit) as error:
            library.warnings.append(
                f"library {point.name} ({point.value}) was left out: {type(error).__name__}: {error}"
            )
    for path in files:
        library.add_file(path)
    return library
