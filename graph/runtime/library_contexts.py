"""The contexts of node libraries around a run, a plan or a warm-up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from ..compiler.plan import Plan
from ..contract.importing import importing
from .context import Context


@contextmanager
def around_run(plan: Plan, run: Context, packages: bool = True) -> Iterator[None]:
    """Enter the contexts that the libraries of a plan put around a run. Compiled kernels have their places then.

    `packages`: the packages that nodes need are imported too.
    """
    with ExitStack() as stack:
        with importing(plan.libraries):
            for library in plan.libraries:
                stack.enter_context(library.around_run(run))
            if packages:
                import_packages(plan, run)
        yield


def import_packages(plan: Plan, run: Context) -> None:
    """Import the packages that the nodes of a plan need."""
    with importing(plan.libraries):
        for library in plan.libraries:
            library.import_packages(run)
