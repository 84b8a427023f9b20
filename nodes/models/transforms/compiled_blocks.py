"""Blocks compiled by torch where they cannot be rebuilt. What cannot be compiled runs uncompiled, and nothing fails."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, cast

from ....graph.contract.node import Run
from ..memory.component_views import entrance
from . import compiler_check
from .compile_transform import CompileTimer


def compile_blocks(module: Any, run: Run) -> str | None:
    """Compile the repeated blocks of a view at their first call.

    Args:
        module: A view of a transformer.
        run: Receives the time of compiling, and a warning if torch cannot compile a block.

    Returns:
        None, or the reason why the blocks are not compiled.
    """
    lacking = compiler_check.lacking(run.device.startswith("cuda"))
    if lacking is not None:
        return lacking.message
    if not getattr(module, "_repeated_blocks", None):
        return f"{type(module).__name__} does not name its repeated blocks"
    module.compile_repeated_blocks(backend=_or_uncompiled(run), dynamic=False)
    entrance(module).layers.append(CompileTimer(run, strict=False).around)
    return None


def _or_uncompiled(run: Run) -> Callable[[Any, Any], Callable[..., Any]]:
    """torch's own compiler, which leaves a graph as it is if it cannot compile it."""

    def backend(graph: Any, inputs: Any) -> Callable[..., Any]:
        import torch
        from torch._inductor import compile_fx

        # The compiler changes the graph before it fails.
        uncompiled = torch.fx.GraphModule(graph, copy.deepcopy(graph.graph))
        try:
            return cast("Callable[..., Any]", compile_fx.compile_fx(graph, inputs))
        except Exception as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            run.warn(f"torch cannot compile the blocks, so they run uncompiled: {reason}")
            run.detail(step="eager: torch cannot compile the blocks")
            return uncompiled

    return backend
