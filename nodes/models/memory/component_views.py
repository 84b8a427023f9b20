"""Views: a component as one value of a model has it, with its own attention, adapters or compiled code.

A view is a copy of the module tree that shares every parameter and buffer with the component, so that making one
costs milliseconds and no memory, and no other view sees a change in it. Weights with adapters are the view's own.
"""

from __future__ import annotations

import copy
import functools
import gc
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, groupby
from typing import TYPE_CHECKING, Any, Protocol

from ....graph.contract.diagnostics import Diagnostic
from ....graph.contract.errors import NodeError
from ....graph.contract.node import Run

if TYPE_CHECKING:
    import torch


class Transform(Protocol):
    """A change to one component. Hashable: equal transforms of one component share a view.

    Attributes:
        kind: Name of the change, one of `ORDER`.
        component: Name of the component in the repository.

    A transform with `undo` gets a call when the view is dropped, or could not be finished. A transform that gives
    layers new weights has an `apply_with`: it takes the others of its kind too, and a component that no other value
    reads. The weights of that component may go one by one as they are replaced.
    """

    @property
    def kind(self) -> str: ...

    @property
    def component(self) -> str: ...

    def apply(self, module: Any, run: Run) -> None:
        """Change a view; called once for each, with the run of its acquisition.

        Raises:
            NodeError: If it cannot be done.
        """
        ...


Recipe = tuple[Transform, ...]

ORDER = ("lora", "attention", "offload", "compile")
"""The order in which transforms are applied: adapters give layers new weights, hooks that place layers must find those,
and compiled code must contain all of it. They are given in this order too, but for those of `ANYWHERE`."""

ANYWHERE = ("offload",)
"""Transforms that may be given anywhere: they say where a component is, and change nothing in it."""


def misplaced(kind: str, before: list[str]) -> Diagnostic | None:
    """The problem of a transform of this kind that cannot follow those of kinds `before`; None if it can."""
    repeated = kind in before and kind != "lora"
    if repeated:
        message = f"this component already went through model.{kind}"
        return Diagnostic("unsupported", message, "model", help="give it the settings it should have there")
    late = [k for k in before if k not in ANYWHERE and ORDER.index(k) > ORDER.index(kind)]
    if not late or kind in ANYWHERE:
        return None
    order = ", ".join(f"model.{k}" for k in ORDER if k not in ANYWHERE)
    message = f"model.{kind} cannot come after model.{late[0]}"
    return Diagnostic("unsupported", message, "model", help=f"the order is {order}")


def view(module: torch.nn.Module) -> torch.nn.Module:
    """A copy of a module tree that shares its parameters and buffers."""
    shared = {id(tensor): tensor for tensor in chain(module.parameters(), module.buffers())}
    return copy.deepcopy(module, shared)  # type: ignore[arg-type]


class Entrance:
    """Stands in for a view's `forward`: calls it through layers that may do something around each call.

    Attributes:
        inner: The forward itself; compiling replaces it.
        layers: Functions around the forward, called with the inner function and the arguments; the last is outermost.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        functools.update_wrapper(self, module.forward)  # callers look at its signature
        self.inner: Callable[..., Any] = module.forward
        self.layers: list[Callable[..., Any]] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call = self.inner
        for layer in self.layers:
            call = functools.partial(layer, call)
        return call(*args, **kwargs)


def entrance(module: torch.nn.Module) -> Entrance:
    """The entrance of a view, which it gets the first time someone asks for it."""
    found = vars(module).get("forward")
    if not isinstance(found, Entrance):
        found = Entrance(module)
        module.forward = found
    return found


@dataclass
class _Held:
    value: Any
    count: int = 1


def _apply(recipe: Recipe, made: Any, run: Run, spare: Any) -> None:
    """Apply the transforms of a view in their order; those of one kind that follow each other go together."""
    for _, same in groupby(recipe, key=lambda transform: transform.kind):
        first: Any
        first, *others = same
        if hasattr(first, "apply_with"):
            first.apply_with(others, made, run, spare)
        else:
            first.apply(made, run)


def _undo(recipe: Recipe, made: Any) -> None:
    """Let the transforms of a view undo their effects outside of it."""
    for transform in reversed(recipe):
        undo = getattr(transform, "undo", None)
        if undo is not None:
            undo(made)


class Views:
    """The views in memory, made when they are first acquired and dropped when they were released as often."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, Recipe], _Held] = {}

    def __len__(self) -> int:
        return len(self._held)

    def holds(self, part: str, recipe: Recipe) -> bool:
        """Whether the view is in memory."""
        return (part, recipe) in self._held

    def acquire(self, part: str, recipe: Recipe, module: torch.nn.Module, run: Run, *, spare: bool = False) -> None:
        """Make the view of a component that is in memory, or count one more holder.

        Args:
            part: Name of the component in the repository.
            recipe: Its transforms.
            module: The component.
            run: Told of it.
            spare: Nobody else reads the component: weights that the view has in their place may go.

        Raises:
            NodeError: If a transform cannot be applied.
        """
        held = self._held.get((part, recipe))
        if held is not None:
            held.count += 1
            return
        made = view(module)
        try:
            _apply(recipe, made, run, module if spare else None)
        except BaseException:
            _undo(recipe, made)
            del made
            gc.collect()  # entrances and hooks refer to their view, and would keep the weights
            raise
        self._held[part, recipe] = _Held(made.eval().requires_grad_(False))

    def release(self, part: str, recipe: Recipe) -> None:
        """Let go of a view; the last holder drops it."""
        held = self._held[part, recipe]
        held.count -= 1
        if held.count:
            return
        _undo(recipe, held.value)
        alive = weakref.ref(held.value)
        del self._held[part, recipe], held
        if alive() is not None:
            gc.collect()  # an entrance and its view refer to each other, and would keep the weights

    def get(self, part: str, recipe: Recipe) -> Any:
        """Return a view that is in memory.

        Raises:
            NodeError: If the view was not acquired.
        """
        held = self._held.get((part, recipe))
        if held is None:
            raise NodeError(
                f"this model value's {part} is not in memory: the node that uses it does not declare it with `Reads`"
            )
        return held.value
