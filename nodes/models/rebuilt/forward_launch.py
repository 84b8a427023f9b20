"""How the kernels of a rebuilt transformer are launched: one by one, or in later steps all at once.

A step of an image can take the host longer than the GPU, since the host launches a thousand kernels. A stand-in takes
the place of the transformer in the family's call, so that the code before and after the forward stays as it is.
Torch-free.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ....graph.contract.node import Run
from .loop_values import Values


def launched(transformer: Any, view: Any, prompt: Values | None, run: Run, steps: Callable[[], int]) -> Any:
    """The transformer as the family calls it.

    Args:
        transformer: Computes a forward.
        view: The view with the rebuilt blocks.
        prompt: The values of this branch's prompts, which have one address for the whole loop. None keeps the
            transformer as it is: a graph reads addresses.
        run: The run. Plans and runs on a CPU keep the transformer as it is.
        steps: Gives the number of steps, this one included, at which the loop computes this branch.
    """
    if prompt is None or run.planning or not run.device.startswith("cuda"):
        return transformer
    from .recorded_forward import Launched, RecordedForward

    # Held by the values that the graph reads, so that it never outlives them.
    return Launched(transformer, view, prompt.of(RecordedForward, lambda: RecordedForward(prompt, run)), steps)
