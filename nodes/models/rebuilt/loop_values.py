"""Values of a rebuilt transformer that outlast one forward: of a prompt, of all steps, and those that branches share.

`denoiser.predict` tells a forward what it is part of (`telling`). Its state holds the values (`LoopValues`) and drops
them at the end of the loop. A view holds none, so that nothing goes from one run to another. Torch-free.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from ...support.work_meter import uncounted

T = TypeVar("T")


class Values:
    """Values by key, each made when it is first asked for.

    Args:
        uses: How often each value is asked for; the last time, it is dropped. None keeps all values.

    Attributes:
        complete: Whether no value may be made now: a capture computes nothing.
    """

    def __init__(self, uses: int | None = None) -> None:
        self.uses, self.complete = uses, False
        self._made: dict[Hashable, tuple[Any, int]] = {}

    def __len__(self) -> int:
        return len(self._made)

    def of(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value of a key.

        Raises:
            RuntimeError: If it is not there, and no value may be made.
        """
        if self.complete and key not in self._made:
            raise RuntimeError("a value that depends on the prompt alone is not there yet")
        found, uses = self._made[key] if key in self._made else (self._new(make), 0)
        self._made[key] = found, uses + 1
        if uses + 1 == self.uses:
            del self._made[key]
        made: T = found
        return made

    def clear(self) -> None:
        """Drop all values; the next forward makes them again."""
        self._made.clear()

    def _new(self, make: Callable[[], T]) -> T:
        if self.uses is not None:
            return make()
        with uncounted():  # the work of this call stands for all steps, and the others do not repeat this
            return make()


@dataclass(frozen=True)
class LoopSteps:
    """The steps of a loop, for values that a forward computes for all of them at once.

    Attributes:
        index: The number of this step, from 0.
        count: The number of steps in the whole schedule, also if a run takes a part of them.
        timesteps: Makes the transformer's argument for each step, a tensor [count] on the device.
        alone: Values that depend on the timesteps alone.
        left_out: Receives the reason why values are computed at each step instead.
        place: `index` as a tensor [1] on the device, for a CUDA graph: the graph reads the number at each launch. None
            if the kernels of this forward are launched for this step only.
    """

    index: int
    count: int
    timesteps: Callable[[], Any]
    alone: Values
    left_out: Callable[[str], None]
    place: Any = None


@dataclass(frozen=True)
class BranchCall:
    """The part of a step that a forward computes.

    Attributes:
        rows: Rows of the batch. All have one timestep.
        branches: Guidance branches in the batch, one after the other, with equal latents.
        prompt: Values that depend on the prompts of these rows and all timesteps, or on sizes; None if none are kept.
        step: Values that depend on latents and timestep alone, for the other branches of the step; None without others.
        steps: The steps of the loop; None computes what depends on the timestep for this step alone.
    """

    rows: int
    branches: int = 1
    prompt: Values | None = None
    step: Values | None = None
    steps: LoopSteps | None = None


class LoopValues:
    """The values of prompts and of timesteps in one run of a loop, for the transformer in use."""

    def __init__(self) -> None:
        self._transformer: Any = None
        self._held: dict[tuple[str, ...], tuple[tuple[Any, ...], Hashable, Values]] = {}

    def __len__(self) -> int:
        return sum(len(values) for _, _, values in self._held.values())

    def of(self, transformer: Any, branches: Sequence[str], sources: Sequence[Any], shape: Hashable) -> Values:
        """The values of branches that one forward computes.

        Another transformer drops all values: of two experts, each computes a part of the steps without interruption.

        Args:
            transformer: The view that computes.
            branches: Names of the branches in the batch; none for values that depend on no prompt.
            sources: The objects on which the values depend. Values of others are dropped.
            shape: Number and size of the clips, and other plain values. Values of other ones are dropped.
        """
        if self._transformer is not transformer:
            self.clear()
            self._transformer = transformer
        held = self._held.get(tuple(branches))
        same = held is not None and held[1] == shape and all(a is b for a, b in zip(held[0], sources, strict=True))
        if held is None or not same:
            held = self._held[tuple(branches)] = tuple(sources), shape, Values()
        return held[2]

    def clear(self) -> None:
        """Drop all values."""
        self._held.clear()
        self._transformer = None


@contextmanager
def telling(transformer: Any, call: BranchCall) -> Iterator[None]:
    """Let the rebuilt blocks of a view know what its forward computes. Other transformers take no notice."""
    once = vars(transformer).get("once")
    if once is None:
        yield
        return
    before, once.call = once.call, call
    try:
        yield
    finally:
        once.call = before


def forget(transformer: Any) -> None:
    """Drop the values of prompts that the forward under way made: later ones compute with another attention."""
    once = vars(transformer).get("once")
    call: BranchCall | None = once.call if once is not None else None
    if call is not None and call.prompt is not None:
        call.prompt.clear()


def is_rebuilt(transformer: Any) -> bool:
    """Whether a view has rebuilt blocks."""
    return "once" in vars(transformer)
