"""Ranges around the blocks of a transformer, for profilers.

`torch.nn.Module.__call__` prefers the attribute `_compiled_call_impl` to the module's own code; `Module.compile` sets
it. A range stands there, around compiled code, hooks and offloading, and leaves the forward alone. Hooks of torch would
become part of compiled blocks and compile them again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from ...graph.contract.node import Run

WHOLE = "the transformer is compiled as a whole, so its blocks have no ranges"

_LOCK = threading.Lock()


class Ranged:
    """Stands in front of the call of a block. A run in another thread that uses the same block has its own entry."""

    def __init__(self, block: Any, name: str) -> None:
        self.name = name
        self.before: Callable[..., Any] | None = vars(block).get("_compiled_call_impl")
        self.inner: Callable[..., Any] = self.before or block._call_impl
        self.runs: dict[int, Run] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        run = self.runs.get(threading.get_ident())
        if run is None:
            return self.inner(*args, **kwargs)
        with run.range("block", self.name):
            return self.inner(*args, **kwargs)


def block_ranges(run: Run, transformer: Any, lists: Iterable[str]) -> AbstractContextManager[None]:
    """Report a range for each block that is called inside `with`, if an observer listens to ranges.

    Args:
        run: Receives the ranges.
        transformer: The transformer. Its blocks are as before when the block of `with` ends, even after an error.
        lists: Names of its lists of blocks.
    """
    if not run.ranges:
        return nullcontext()
    if _is_compiled_whole(transformer):
        run.warn(WHOLE)
        return nullcontext()
    return _surrounded(run, transformer, lists)


@contextmanager
def _surrounded(run: Run, transformer: Any, lists: Iterable[str]) -> Iterator[None]:
    thread, blocks = threading.get_ident(), []
    try:
        for name in lists:
            for number, block in enumerate(getattr(transformer, name)):
                blocks.append(block)
                with _LOCK:
                    ranged = vars(block).get("_compiled_call_impl")
                    if not isinstance(ranged, Ranged):
                        ranged = Ranged(block, f"{name}.{number}")
                        block._compiled_call_impl = ranged
                    ranged.runs[thread] = run
        yield
    finally:
        for block in blocks:
            _leave(block, thread)


def _leave(block: Any, thread: int) -> None:
    with _LOCK:
        ranged = vars(block).get("_compiled_call_impl")
        if not isinstance(ranged, Ranged):
            return
        ranged.runs.pop(thread, None)
        if ranged.runs:
            return
        if ranged.before is None:
            del block._compiled_call_impl
        else:
            block._compiled_call_impl = ranged.before


def _is_compiled_whole(transformer: Any) -> bool:
    """Whether torch.compile made one function of the transformer: then there are no calls of blocks to surround."""
    forward = vars(transformer).get("forward")
    inner = getattr(forward, "inner", forward)
    return hasattr(inner, "_torchdynamo_orig_callable")
