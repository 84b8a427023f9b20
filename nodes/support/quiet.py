"""Keeps libraries from printing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Keep diffusers and transformers from printing. sgd reports its own errors and warnings."""
    import diffusers.utils.logging as diffusers_logging
    import transformers.utils.logging as transformers_logging

    levels = [(m, m.get_verbosity()) for m in (diffusers_logging, transformers_logging)]
    bars = transformers_logging.is_progress_bar_enabled()
    for module, _ in levels:
        module.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        for module, level in levels:
            module.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
