"""The library objects of the standard library and of installed packages, without their node types.

The command line asks them for commands and options. This module and the ones that it imports load in milliseconds.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import suppress
from types import ModuleType
from typing import TYPE_CHECKING

from ..contract.errors import LibraryError
from ..contract.node_library import NodeLibrary

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

STANDARD, STANDARD_MODULE = "sgd", "sgd.nodes"


def library_object(module: ModuleType) -> NodeLibrary:
    """The library object of a module. A module without one gets an object with the defaults.

    Raises:
        LibraryError: If the module has several library objects.
    """
    found = {id(value): value for value in vars(module).values() if isinstance(value, NodeLibrary)}
    if len(found) > 1:
        raise LibraryError(f"{module.__name__} has {len(found)} library objects, and one is allowed")
    return next(iter(found.values()), None) or NodeLibrary()


def standard_object() -> NodeLibrary:
    """The library object of the standard library."""
    return library_object(importlib.import_module(STANDARD_MODULE))


def installed_objects() -> Iterator[NodeLibrary]:
    """The library objects of installed packages, without those that cannot be loaded."""
    for package in installed_packages():
        with suppress(Exception, SystemExit):
            yield library_object(package.load())


def installed_packages() -> list[EntryPoint]:
    """Entry points of installed node libraries by name, without that of the standard library."""
    from importlib.metadata import entry_points

    from ..contract.workflow_folders import NODES_GROUP

    return sorted((p for p in entry_points(group=NODES_GROUP) if p.name != STANDARD), key=lambda p: p.name)
