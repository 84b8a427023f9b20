"""The value `Model`: a source and transforms. A component is loaded when it is first needed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from ...graph.contract.errors import NodeError
from ...graph.contract.node import NO_RUN, Run
from ...graph.contract.ports import Port
from .memory.component_views import Makers, apply
from .memory.transform_order import ORDER, Recipe, Transform, before, misplaced, replaced

if TYPE_CHECKING:
    import torch

    from ..families.base import Family
    from .memory.offloading import Offload
    from .memory.weights import Weights

SECOND_ENCODER = ("tokenizer_2", "text_encoder_2")
IMAGE_ENCODER = ("image_processor", "image_encoder")
"""Components that some models lack. Before the repository is known, acquiring one of them loads nothing."""


@dataclass(frozen=True, eq=False)
class Model(Port):
    """A model repository, some of whose components may be in memory.

    The executor calls `acquire` before the first reader of a component and `release` after its last; another thread may
    call `prefetch` for the next component. Nodes use `component`, `config`, `dtype`.

    Attributes:
        weights: The components in memory. A value and the values made from it share this object.
        family: The model's family.
        names: Names in the repository by role, for roles whose name differs: `{"transformer": "transformer_2"}`.
        transforms: Transforms of components, in the order in which they are applied.
        steps: Indices of the steps of the schedule at which this value is in use; None for all.
        makers: The calls that made transforms, by component and kind.
    """

    partial: ClassVar[bool] = True

    weights: Weights
    family: Family
    names: Mapping[str, str] = field(default_factory=dict)
    transforms: tuple[Transform, ...] = ()
    steps: tuple[int, ...] | None = None
    makers: Mapping[str, Makers] = field(default_factory=dict)

    def name(self, role: str) -> str:
        """Name in the repository of the component that plays a role, such as `transformer`."""
        return self.names.get(role, role)

    def parts(self) -> tuple[str, ...]:
        """Names of the repository's components."""
        return tuple(self.weights.repository.components)

    def recipe(self, part: str) -> Recipe:
        """The transforms of a component, in order. A plan applies those that change the memory in use."""
        name = self.name(part)
        own: list[Transform] = [t for t in self.transforms if t.component == name and t.kind != "offload"]
        placed = self.offload(part)
        if placed is not None:
            own = [*(before(t, placed) for t in own), placed]
        if self.weights.kind == "meta":
            smaller = () if placed is not None else self._smaller(name)  # else `acquire` makes the weights smaller
            own = [t for t in own if t in smaller or getattr(t, "planned", False)]
        return tuple(sorted(own, key=lambda t: ORDER.index(t.kind)))

    def _smaller(self, name: str) -> Recipe:
        """The transform that makes the weights of a component smaller, if there is one."""
        return tuple(t for t in self.transforms if t.component == name and t.kind == "quantize")

    def offload(self, part: str) -> Offload | None:
        """Settings of offloading for a component; None if it stays on the device.

        The settings come from `model.offload`, or are chosen because the component did not fit on the device.
        """
        name = self.name(part)
        found: list[Any] = [t for t in self.transforms if t.component == name and t.kind == "offload"]
        return found[0] if found else self.weights.chosen(name)

    def transformed(self, transform: Transform, run: Run = NO_RUN) -> Model:
        """The value with one more transform.

        Args:
            transform: The transform.
            run: The run of the node that makes the transform. It receives details of choices that are replaced.

        Raises:
            NodeError: If the transform cannot follow the transforms that its component already has.
        """
        name = transform.component
        own = [t for t in self.transforms if t.component == name]
        problem = misplaced(transform.kind, [t.kind for t in own])
        if problem is not None:
            raise NodeError(problem)
        for other in own:
            run.detail(**replaced(other, transform))
            if other.kind == "offload":  # it may come first
                run.detail(**replaced(transform, other))
        earlier = (before(t, transform) if t.component == name else t for t in self.transforms)
        makers = {**self.makers, name: {**self.makers.get(name, {}), transform.kind: run.current()}}
        return replace(self, transforms=(*earlier, transform), makers=makers)

    def during(self, steps: Iterable[int]) -> Model:
        """The value, in use at these steps of the schedule only (of those that it had)."""
        own = None if self.steps is None else set(self.steps)
        kept = tuple(index for index in steps if own is None or index in own)
        return replace(self, steps=kept)

    def acquire(self, part: str, run: Run) -> None:
        """Load a component to the run's device, or build it (with dummy weights, or on the meta device in a plan)."""
        if self._lacks(part):
            return
        name = self.name(part)
        makers = self.makers.get(name, {})
        planned = self._smaller(name) if self.weights.kind == "meta" else ()
        smaller = partial(apply, planned, run=run, makers=makers) if planned else None
        self.weights.acquire(name, run, self.offload(part), smaller)
        placed, recipe = self.offload(part), self.recipe(part)
        try:
            self._tell_chosen(name, run)
            if not (recipe and self.weights.views.holds(name, recipe)):
                self.weights.complete(name, run, placed)
            if recipe:
                component, spare = self.weights.component(name, placed), self.weights.spare(name, placed)
                self.weights.views.acquire(name, recipe, component, run, spare=spare, makers=makers)
        except BaseException:
            self.weights.release(name, placed)
            raise

    def _tell_chosen(self, name: str, run: Run) -> None:
        """Add details of choices that offloading replaces because the component did not fit on the device."""
        placed = self.weights.chosen(name)
        for transform in self.transforms:
            if placed is not None and transform.component == name:
                with run.on_behalf(self.makers.get(name, {}).get(transform.kind)):
                    run.detail(**replaced(transform, placed))

    def prefetch(self, part: str, run: Run) -> None:
        """Read a component in advance, from another thread, and prepare its transforms. `acquire` reports errors."""
        if self._lacks(part):
            return
        self.weights.prefetch(self.name(part), run, early=self.offload(part) is None)
        for transform in self.recipe(part):
            prepare = getattr(transform, "prepare", None)
            if prepare is not None:
                with suppress(Exception):
                    prepare(self, part, run)

    def release(self, part: str) -> None:
        """Release a component. If this was the last holder, the component and its memory are dropped."""
        if self._lacks(part):
            return
        name, placed, recipe = self.name(part), self.offload(part), self.recipe(part)
        if recipe:
            self.weights.views.release(name, recipe)
        self.weights.release(name, placed)

    def discard(self, part: str) -> None:
        """Release a component after a failure, so that a session does not keep it."""
        if not self._lacks(part):
            self.weights.idle.distrusted.add(self.name(part))
            self.release(part)

    def _lacks(self, part: str) -> bool:
        return part in (*SECOND_ENCODER, *IMAGE_ENCODER) and part not in self.parts()

    def component(self, name: str) -> Any:
        """The acquired module, tokenizer or scheduler with this name. A module has its transforms applied."""
        recipe = self.recipe(name)
        component = self.weights.component(self.name(name), self.offload(name))
        return self.weights.views.get(self.name(name), recipe) if recipe else component

    def config(self, name: str) -> Mapping[str, Any]:
        """The configuration of a component. Its weights need not be in memory."""
        return self.weights.config(self.name(name))

    def dtype(self, name: str) -> torch.dtype:
        """The dtype of a component's parameters and of the tensors it takes."""
        return self.weights.torch_dtype(self.name(name))

    @property
    def device(self) -> str:
        """The device of the components: `cpu`, `cuda` or `meta`."""
        return self.weights.device

    def facts(self) -> dict[str, Any]:
        """Source, commit, dtype, family, and the number of parameters of each component known so far."""
        facts = {"family": self.family.name, **self.weights.facts()}
        if self.transforms:
            facts["transforms"] = [f"{t.kind} of {t.component}" for t in self.transforms]
        return facts
