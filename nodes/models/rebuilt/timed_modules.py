"""Modules of a transformer whose result depends on timestep and prompt alone: computed for all steps of a loop at once.

The module that embeds the timestep is called once for each step, at the first step of the loop, with the argument that
this step will give. Other modules and the blocks then compute from all results in one call.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import Module

from ...support import device_memory
from .block_parts import Once
from .loop_values import LoopSteps, Values
from .step_tables import Table

LARGEST = 2**28
"""The most bytes of the tables that one module leads to, for one branch of guidance."""

MOST_STEPS = 256
"""The most steps of a schedule with tables."""


def _one(_: Any) -> float:
    return 1.0


@dataclass(frozen=True)
class Timed:
    """A module that takes the timestep.

    Attributes:
        name: Its name in the transformer.
        place: The place of the timestep among its arguments.
        factor: The factor by which the transformer's forward multiplies its own argument, in the module's dtype.
        prompt: Whether its result depends on the prompt, or on other inputs than the timestep.
        modulates: Whether the blocks make their modulation of its result.
    """

    name: str
    place: int = 0
    factor: Callable[[Any], float] = _one
    prompt: bool = True
    modulates: bool = True


TIMED: Mapping[str, tuple[Timed, ...]] = {
    "FluxTransformer2DModel": (Timed("time_text_embed", factor=lambda _: 1000.0),),
    "HunyuanVideoTransformer3DModel": (
        Timed("time_text_embed"),
        Timed("context_embedder", place=1, modulates=False),
    ),
    "QwenImageTransformer2DModel": (Timed("time_text_embed", prompt=False),),
    "ZImageTransformer2DModel": (Timed("t_embedder", factor=lambda module: module.t_scale, prompt=False),),
}
"""These modules by the transformer's class. Wan's blocks add a vector to the embedding, and have no product."""

AFTER: Mapping[str, tuple[str, ...]] = {
    "FluxTransformer2DModel": ("norm_out.silu", "norm_out.linear"),
    "HunyuanVideoTransformer3DModel": ("norm_out.silu", "norm_out.linear"),
    "QwenImageTransformer2DModel": ("norm_out.silu", "norm_out.linear"),
    "ZImageTransformer2DModel": ("all_final_layer.2-1.adaLN_modulation",),
}
"""Names of modules beside the blocks that take the embedding of the timestep alone, by the transformer's class."""


class TimedForward:
    """Replaces the forward of a `Timed` module: it returns this step's part of a table.

    Args:
        inner: The module's forward.
        timed: Its description.
        factor: The value of `timed.factor`.
        once: Values of this forward.
    """

    def __init__(self, inner: Callable[..., Any], timed: Timed, factor: float, once: Once) -> None:
        self.inner, self.timed, self.factor, self.once = inner, timed, factor, once

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        steps, held = self._told(args)
        if steps is None or held is None:
            return self.inner(*args, **kwargs)
        given = (*args, *kwargs.values())
        shapes = tuple((tuple(t.shape), t.dtype) for t in given if isinstance(t, torch.Tensor))
        key = self, shapes if self.timed.prompt else tuple(dtype for _, dtype in shapes)
        tables = held.of(key, lambda: self._tables(steps, held, key, args, kwargs))
        if tables is None:
            return self.inner(*args, **kwargs)
        rows = len(args[self.timed.place])
        made = tuple(None if table is None else self.once.row(table, rows) for table in tables)
        return made if len(made) > 1 else made[0]

    def _told(self, args: tuple[Any, ...]) -> tuple[LoopSteps | None, Values | None]:
        """The steps, and where the table is kept; None if this call is not to be part of one."""
        steps, place = self.once.steps, self.timed.place
        again = self.once.number_of_call(self) > 0
        if steps is None or again or len(args) <= place or len(args[place]) != self.once.rows:
            return None, None
        return steps, self.once.prompt if self.timed.prompt else steps.alone

    def _tables(
        self, steps: LoopSteps, held: Values, key: Hashable, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[Table | None, ...] | None:
        """A table for each result of the module; None if they would be too large."""
        if steps.count > MOST_STEPS:
            steps.left_out(f"{steps.count} steps are more than {MOST_STEPS}")
            return None
        if not self.timed.prompt:  # all rows have one timestep
            args = tuple(a[:1] if isinstance(a, torch.Tensor) else a for a in args)
        given = args[self.timed.place]
        rows, times = len(given), steps.timesteps().to(given.dtype)
        times = times * self.factor if self.factor != 1 else times

        def at(index: int) -> tuple[torch.Tensor | None, ...]:
            some = list(args)
            some[self.timed.place] = times[index].expand(rows)
            made = self.inner(*some, **kwargs)
            return made if isinstance(made, tuple) else (made,)

        first = at(0)
        size = sum(part.nbytes for part in first if part is not None)
        size += rows * self.once.modulation_bytes * self.timed.modulates
        if size * steps.count > LARGEST:
            steps.left_out(f"values of {steps.count} steps would take more than {device_memory.size(LARGEST)}")
            return None
        results = zip(first, *(at(index) for index in range(1, steps.count)), strict=True)
        return tuple(
            None if parts[0] is None else Table(torch.stack(parts), weakref.ref(held), (key, number))
            for number, parts in enumerate(results)
        )


class ForwardOfTable:
    """Replaces the forward of a module with one argument: for a part of a table it returns the part of the result."""

    def __init__(self, inner: Callable[[torch.Tensor], torch.Tensor], once: Once) -> None:
        self.inner, self.once = inner, once

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        table = self.once.table_of(x)
        return self.inner(x) if table is None else self.once.row(table.then(self, self.inner), len(x))


def keep_tables(module: Module, once: Once) -> None:
    """Give the modules of `TIMED` and `AFTER` a forward that computes all steps at once."""
    name = type(module).__name__
    for timed in TIMED.get(name, ()):
        part = module.get_submodule(timed.name)
        part.forward = TimedForward(part.forward, timed, timed.factor(module), once)
    for path in AFTER.get(name, ()):
        part = module.get_submodule(path)
        part.forward = ForwardOfTable(part.forward, once)
