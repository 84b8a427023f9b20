"""A pause of Python's garbage collector while a command starts. Imports next to nothing: `main` loads it first."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused(always: bool = True) -> Iterator[None]:
    """Pause the garbage collector inside `with`. Later collections skip all objects that exist at its end.

    Imported modules and a compiled graph live as long as the process, so collections would find no garbage among them.
    After `gc.unfreeze`, collections look at these objects again.

    Args:
        always: Whether later collections skip the objects even if nothing was imported meanwhile.
    """
    enabled, modules = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if always or len(sys.modules) > modules:
            gc.freeze()
        if enabled:
            gc.enable()


@contextmanager
def collector_waiting() -> Iterator[None]:
    """Pause the garbage collector inside `with`, and have it look at all objects afterwards."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
