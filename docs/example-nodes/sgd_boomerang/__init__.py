"""Node types of an example package: clips that run forwards and back."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from sgd.nodes import node
from sgd.nodes.values import Frames


@node("frames.boomerang", version=1)
def boomerang(frames: Frames, *, times: Annotated[int, Field(ge=1, le=20)] = 1) -> Frames:
    """Append the frames in reverse, so that a clip ends where it began.

    Args:
        frames: Clips of F frames each.
        times: How often to go there and back.

    Returns:
        Clips of 1 + 2 * times * (F - 1) frames.
    """
    import torch

    there = frames.tensor[:, 1:]
    back = frames.tensor.flip(1)[:, 1:]
    return Frames(torch.cat([frames.tensor[:, :1], *([there, back] * times)], dim=1))
