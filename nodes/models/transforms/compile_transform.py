"""The transform that compiles a transformer's blocks, or the whole transformer."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from time import perf_counter
from typing import Any, ClassVar

from ....graph.contract.errors import NodeError
from ....graph.contract.node import Run
from ...support.quiet import Switch
from ..memory.component_views import entrance
from ..memory.latest_run import present


@dataclass(frozen=True)
class Compile:
    """The transform: torch.compile on the repeated blocks of a component, or on its whole forward.

    Attributes:
        component: Name in the repository.
        region: `blocks` or `whole`.
        mode: Mode of torch.compile.
        dynamic: See torch.compile.
        copies: Whether results are copied. A CUDA graph writes each result over that of the call before, and guidance
            needs the results of all branches.
    """

    kind: ClassVar[str] = "compile"

    component: str
    region: str
    mode: str
    dynamic: bool | None
    copies: bool = False

    def apply(self, module: Any, run: Run) -> None:
        import torch

        options: dict[str, Any] = {"mode": self.mode, "dynamic": self.dynamic}
        forward = entrance(module)
        if self.region == "blocks":
            try:
                module.compile_repeated_blocks(**options)
            except (ValueError, AttributeError) as error:
                raise NodeError(
                    f"{type(module).__name__} does not name its repeated blocks", help="set region: whole"
                ) from error
        else:
            forward.inner = torch.compile(forward.inner, **options)
        if self.copies:
            forward.layers.append(_copied)
        forward.layers.append(CompileTimer(run).around)


def _copied(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function that is recorded as a CUDA graph, and copy its results out of the graph's memory."""
    import torch
    from torch.utils._pytree import tree_map_only

    torch.compiler.cudagraph_mark_step_begin()
    return tree_map_only(torch.Tensor, torch.Tensor.clone, call(*args, **kwargs))


class CompileTimer:
    """Reports the time that a view's calls spend on compiling.

    Args:
        run: Receives the seconds.
        strict: Whether every size must be compiled.
    """

    def __init__(self, run: Run, strict: bool = True) -> None:
        self.run = run
        self.strict = strict
        self.seconds = 0.0
        self.told: weakref.ref[Run] = weakref.ref(present(run))

    def around(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with compiling() as seconds, _all_compiled() if self.strict else nullcontext():
            result = call(*args, **kwargs)
        if seconds():
            if self.told() is not present(self.run):
                self.told, self.seconds = weakref.ref(present(self.run)), 0.0
            self.seconds += seconds()
            self.run.detail(compile_seconds=round(self.seconds, 3))
        return result


@contextmanager
def compiling() -> Iterator[Callable[[], float]]:
    """Measure torch's compile time inside `with`. Yields a function for the seconds so far."""
    from torch._dynamo.callback import callback_handler

    spent = [0.0]
    began: list[float] = []

    def start(_: Any) -> None:
        began.append(perf_counter())

    def end(_: Any) -> None:
        if began:
            spent[0] += perf_counter() - began.pop()

    callback_handler.register_start_callback(start)
    callback_handler.register_end_callback(end)
    try:
        with _NO_ADVICE.held():
            yield lambda: spent[0]
    finally:
        callback_handler.remove_start_callback(start)
        callback_handler.remove_end_callback(end)


def _ignore_advice() -> Callable[[], object]:
    """torch suggests float32 on tensor cores, which would change the result."""
    stack = ExitStack()
    stack.enter_context(warnings.catch_warnings())
    warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores")
    return stack.close


def _raise_limit() -> Callable[[], object]:
    from torch._dynamo import config

    before = config.recompile_limit, config.fail_on_recompile_limit_hit

    def restore() -> None:
        config.recompile_limit, config.fail_on_recompile_limit_hit = before

    config.recompile_limit, config.fail_on_recompile_limit_hit = config.accumulated_recompile_limit, True
    return restore


_NO_ADVICE, _NO_LIMIT = Switch(_ignore_advice), Switch(_raise_limit)


@contextmanager
def _all_compiled() -> Iterator[None]:
    """Compile every call inside `with`, for any number of sizes.

    By default torch compiles one function for 8 sizes (`recompile_limit`, which all models of a class share) and runs
    other sizes uncompiled. Its limit for the process (256) stays and becomes an error. The code sets `config` directly
    since `config.patch` takes a third of a millisecond at each call.
    """
    from torch._dynamo import config
    from torch._dynamo.exc import FailOnRecompileLimitHit

    try:
        with _NO_LIMIT.held():
            yield
    except FailOnRecompileLimitHit as error:
        raise NodeError(
            f"torch has compiled this for {config.accumulated_recompile_limit} sizes, the most in one process",
            help="set `dynamic: true` of model.compile, which compiles once for all sizes",
        ) from error
