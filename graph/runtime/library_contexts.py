"""The contexts of node libraries around a run, a plan or a warm-up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from ..compiler.plan import Plan
from ..contract import kernel_caches
from .context import Context


@contextmanager
def around_run(plan: Plan, run: Context) -> Iterator[None]:
    """Enter the contexts that the libraries of a plan put around a run. Compiled kernels have their places then."""
    kernel_caches.prepare(plan.libraries)
    with ExitStack() as stack:
        for library in plan.libraries:
            stack.enter_context(library.around_run(run))
        yield
