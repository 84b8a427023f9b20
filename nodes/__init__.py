"""The standard node library: what sgd knows about diffusion."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..graph.node import NodeError, Passes, Reads, Run, State, node

NODE_MODULES = (
    "models.load",
    "text",
    "latents",
    "schedule",
    "cfg",
    "denoiser",
    "vae",
    "video",
    "image",
    "metrics",
    "cache.none",
)


@contextmanager
def runtime(run: Run) -> Iterator[None]:
    """What surrounds a run that uses these nodes: gradients are off; while planning, work is metered."""
    from . import planning

    with planning.runtime(run):
        yield


__all__ = ["NODE_MODULES", "NodeError", "Passes", "Reads", "Run", "State", "node", "runtime"]
