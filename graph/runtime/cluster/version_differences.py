"""Compare the packages of a worker with those of the machine that deals the jobs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ...language.registry import Library
from ...store.fingerprints import packages_of


def version_differences(versions: Mapping[str, str | None], library: Library) -> Iterator[str]:
    """A sentence for each package that has another version here.

    Args:
        versions: The versions of the machine that deals the jobs.
        library: The node types of the worker.
    """
    now = packages_of(library.libraries.values())
    for name, version in versions.items():
        if now.get(name) != version:
            mine = now.get(name) or "not installed"
            yield f"{name} is {mine}, and {version or 'not installed'} where the command runs; results may differ"
