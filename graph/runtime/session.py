"""`with sgd.session():` - what libraries loaded and compiled stays between the runs of one thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from ..contract.kept_values import Session


class _Shared:
    """A session, and the lock of the run that uses it."""

    def __init__(self) -> None:
        self.session = Session()
        self.turn = threading.Lock()


_current: ContextVar[_Shared | None] = ContextVar("sgd session", default=None)

BUSY = "another run of this session is under way, so this run shares nothing with it and keeps nothing"


@contextmanager
def session() -> Iterator[None]:
    """Keep what libraries loaded, compiled and chose between the runs inside `with`.

    Only runs that begin in this thread take part. A session inside another one is that one. Several runs at once: only
    the first takes part. All memory is freed at the end of the outermost `with`.
    """
    if _current.get() is not None:
        yield
        return
    shared = _Shared()
    token = _current.set(shared)
    try:
        yield
    finally:
        _current.reset(token)
        shared.session.close()


@contextmanager
def taken() -> Iterator[tuple[Session | None, bool]]:
    """The session for one run of this thread, and whether another run has it. None without a session."""
    shared = _current.get()
    if shared is None or not shared.turn.acquire(blocking=False):
        yield None, shared is not None
        return
    try:
        yield shared.session, False
    finally:
        shared.turn.release()
