"""Views: copies of a component for one `Model` value, with that value's attention, adapters or compiled code.

A view is a copy of the module tree that shares every parameter and buffer with the component. So a view takes
milliseconds and no memory, and a change of a view does not affect other views. Only weights with merged adapters and
quantised weights differ from those of the component. All views with the same adapters and the same quantising share
them: such a view is a copy of another view, the base, which has these transforms alone.
"""

from __future__ import annotations

import copy
import functools
import gc
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import chain, groupby
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from ....graph.contract.errors import NodeError
from ....graph.contract.node import Run
from .idle_components import Stamp, stamp
from .latest_run import LatestRun
from .transform_order import WEIGHTS, Recipe, Transform

if TYPE_CHECKING:
    import torch


def view(module: torch.nn.Module) -> torch.nn.Module:
    """Copy a module tree. The copy shares the parameters and buffers."""
    shared = {id(tensor): tensor for tensor in chain(module.parameters(), module.buffers())}
    return copy.deepcopy(module, shared)  # type: ignore[arg-type]


class Entrance:
    """Replaces a view's `forward`. It calls the forward through functions that act before and after each call.

    Attributes:
        inner: The forward itself. Compiling replaces this function.
        layers: Functions around the forward. Each is called with the next inner function and the arguments; the last is
            outermost.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        functools.update_wrapper(self, module.forward)  # callers read the signature of forward
        self.inner: Callable[..., Any] = module.forward
        self.layers: list[Callable[..., Any]] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call = self.inner
        for layer in self.layers:
            call = functools.partial(layer, call)
        return call(*args, **kwargs)


def entrance(module: torch.nn.Module) -> Entrance:
    """The entrance of a view. The first call creates it."""
    found = vars(module).get("forward")
    if not isinstance(found, Entrance):
        found = Entrance(module)
        module.forward = found
    return found


class Key(NamedTuple):
    """The key of a view of a component.

    Attributes:
        part: Name of the component in the repository.
        recipe: The transforms of the view.
        placed: The offloading of the component; None for a component on the device. A base has no hooks of offloading.
    """

    part: str
    recipe: Recipe
    placed: Transform | None

    @classmethod
    def of(cls, part: str, recipe: Recipe) -> Key:
        return cls(part, recipe, next((t for t in recipe if t.kind == "offload"), None))

    def base(self) -> Key | None:
        """The key of the base, which has the new weights alone; None for a copy of the component itself."""
        weights = tuple(t for t in self.recipe if t.kind in WEIGHTS)
        return self._replace(recipe=weights) if weights and weights != self.recipe else None

    def own(self) -> Recipe:
        """The transforms that the view has beyond its base."""
        base = self.base()
        return self.recipe if base is None else self.recipe[len(base.recipe) :]


@dataclass
class Held:
    """A component or a view in memory.

    Attributes:
        value: It.
        files: The files that it was made from, with their sizes and times, in a session.
        run: The run that a component reports to, in a session.
        runs: The runs that a view reports to, in a session: one for each kind of its transforms.
        count: The number of its holders.
    """

    value: Any
    files: Stamp = ()
    run: LatestRun | None = None
    runs: Mapping[str, LatestRun] = field(default_factory=dict)
    count: int = 1


NO_RUNS: Mapping[str, LatestRun] = MappingProxyType({})

Makers = Mapping[str, object]
"""The calls that made the transforms of one component, by kind (`Run.current`). They receive reports of a transform."""


def apply(
    recipe: Recipe, made: Any, run: Run, makers: Makers, spare: Any = None, runs: Mapping[str, LatestRun] = NO_RUNS
) -> None:
    """Apply the transforms of a view in order. Consecutive transforms of one kind are applied together."""
    for kind, same in groupby(recipe, key=lambda transform: transform.kind):
        first: Any
        first, *others = same
        with run.on_behalf(makers.get(kind)):
            if hasattr(first, "apply_with"):
                first.apply_with(others, made, runs.get(kind, run), spare)
            else:
                first.apply(made, runs.get(kind, run))


def _undo(recipe: Recipe, made: Any) -> None:
    """Let the transforms of a view undo their effects outside of the view."""
    for transform in reversed(recipe):
        undo = getattr(transform, "undo", None)
        if undo is not None:
            undo(made)


def _stamp(recipe: Recipe) -> Stamp:
    """The stamp of the files that a recipe reads, such as adapters."""
    return stamp(file for transform in recipe if (file := getattr(transform, "file", None)) is not None)


class Views:
    """The views in memory. A view is made at its first acquisition, and dropped at the release of its last holder.

    A view holds its base.

    Attributes:
        kept: Whether a session keeps views without a holder, with what was compiled and chosen for them.
    """

    def __init__(self) -> None:
        self.kept = False
        self._held: dict[Key, Held] = {}

    def __len__(self) -> int:
        return len(self._held)

    def holds(self, part: str, recipe: Recipe) -> bool:
        """Whether the base of a view is in memory. Without a holder, the files of its transforms must not have changed.

        Then the view needs only those weights of the component that it shares. A view without a base stands for itself.
        """
        key = Key.of(part, recipe)
        key = key.base() or key
        held = self._held.get(key)
        return held is not None and (held.count > 0 or held.files == _stamp(key.recipe))

    def acquire(
        self,
        part: str,
        recipe: Recipe,
        module: torch.nn.Module,
        run: Run,
        *,
        spare: bool = False,
        makers: Makers = MappingProxyType({}),
    ) -> None:
        """Make a view of a component that is in memory, or count one more holder of the view.

        Args:
            part: Name of the component in the repository.
            recipe: The transforms of the view.
            module: The component.
            run: Receives details and warnings.
            spare: Whether no other value reads the component, so that weights which the view replaces may be freed.
            makers: The calls to which reports of the transforms belong. Without one, they belong to the present call.

        Raises:
            NodeError: If a transform cannot be applied.
        """
        self._acquire(Key.of(part, recipe), module, run, spare, makers)

    def _acquire(self, key: Key, module: torch.nn.Module, run: Run, spare: bool, makers: Makers) -> None:
        held, files, base = self._held.get(key), _stamp(key.recipe), key.base()
        if held is not None and not held.count and held.files != files:
            self._drop(key)
            held = None
        if base is not None:
            self._acquire(base, module, run, spare, makers)
            module, spare = self._held[base].value, False
        if held is not None:
            held.count += 1
            if held.count == 1:
                for kind, latest in held.runs.items():
                    with run.on_behalf(makers.get(kind)):
                        latest.begin(run)
            return
        runs = {transform.kind: LatestRun(run) for transform in key.own()} if self.kept else {}
        made = view(module)
        try:
            apply(key.own(), made, run, makers, module if spare else None, runs)
        except BaseException:
            _undo(key.own(), made)
            del made
            gc.collect()  # entrances and hooks refer to their view, which would keep the weights in memory
            if base is not None:
                self._release(base)
            raise
        for latest in runs.values():
            latest.made()
        self._held[key] = Held(made.eval().requires_grad_(False), files, runs=runs)

    def release(self, part: str, recipe: Recipe) -> None:
        """Release a view. The last holder drops it, except in a session."""
        self._release(Key.of(part, recipe))

    def _release(self, key: Key) -> None:
        held, base = self._held[key], key.base()
        held.count -= 1
        if not held.count and self.kept and held.runs:
            for latest in held.runs.values():
                latest.rest()
        elif not held.count:
            del held  # it would keep the view in memory until after `_drop`
            self._drop(key)
        if base is not None:
            self._release(base)

    def drop_idle(self, part: str) -> None:
        """Drop the views of a component that have no holder."""
        for key in [key for key, held in self._held.items() if key.part == part and not held.count]:
            self._drop(key)

    def _drop(self, key: Key) -> None:
        held = self._held[key]
        _undo(key.own(), held.value)
        alive = weakref.ref(held.value)
        del self._held[key], held
        if alive() is not None:
            gc.collect()  # an entrance and its view refer to each other, which would keep the weights in memory

    def get(self, part: str, recipe: Recipe) -> Any:
        """Return a view that is in memory.

        Raises:
            NodeError: If the view was not acquired.
        """
        held = self._held.get(Key.of(part, recipe))
        if held is None:
            raise NodeError(
                f"this model value's {part} is not in memory: the node that uses it does not declare it with `Reads`"
            )
        return held.value
