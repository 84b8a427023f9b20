"""Keeps libraries from printing. Their settings are those of the process: the first block sets, the last restores."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager


class Switch:
    """A setting of the process that blocks of several threads need at the same time.

    Args:
        on: Sets it, and returns a function that restores it.
    """

    def __init__(self, on: Callable[[], Callable[[], object]]) -> None:
        self._on = on
        self._lock = threading.Lock()
        self._users = 0
        self._restore: Callable[[], object] = bool

    @contextmanager
    def held(self) -> Iterator[None]:
        """The setting inside the block. The last thread that leaves restores the value before the first entered."""
        with self._lock:
            if not self._users:
                self._restore = self._on()
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    self._restore()


def _silence() -> Callable[[], object]:
    import diffusers.utils.logging as diffusers_logging
    import transformers.utils.logging as transformers_logging

    stack = ExitStack()
    for module in (diffusers_logging, transformers_logging):
        stack.callback(module.set_verbosity, module.get_verbosity())
        module.set_verbosity_error()
        if module.is_progress_bar_enabled():
            stack.callback(module.enable_progress_bar)
            module.disable_progress_bar()
    return stack.close


_LIBRARIES = Switch(_silence)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep diffusers and transformers from printing; sgd raises its own errors and warnings."""
    with _LIBRARIES.held():
        yield


class QuietLogger(Switch):
    """Keeps one logger from printing warnings: `with logger.held():`."""

    def __init__(self, name: str) -> None:
        def on() -> Callable[[], object]:
            logger = logging.getLogger(name)
            level = logger.level
            logger.setLevel(logging.ERROR)
            return lambda: logger.setLevel(level)

        super().__init__(on)
