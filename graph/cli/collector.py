"""A pause of Python's garbage collector while a command starts. Imports next to nothing: `main` loads it first."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Pause the garbage collector inside `with`. Later collections skip all objects that exist at its end.

    Imported modules and a compiled graph live as long as the process, so collections would find no garbage among them.
    After `gc.unfreeze`, collections look at these objects again.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()
