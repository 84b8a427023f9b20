"""A pause of Python's garbage collector while a command starts. Imports next to nothing: `main` loads it first."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Run the block without the collector, and spare the objects that exist after it from later collections.

    Imported modules and a compiled graph live as long as the process: collections would walk through them in vain.
    `gc.unfreeze` undoes the second part.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()
