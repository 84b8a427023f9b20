"""Facts about the values of `values.py`, known before the run. This module imports no torch.

The facts of a gate are in `cache/gate.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from ..graph.contract.facts import Facts
from .families import Configs, Family, by_name
from .values import Size

TransformKind = Literal["lora", "quantize", "optimize", "attention", "compile", "offload"]


class TransformFact(NamedTuple):
    """One transform of a component; `component` is the component's name in the repository."""

    kind: TransformKind
    component: str


@dataclass(frozen=True)
class ModelFacts(Facts):
    """Facts about a model, from its repository's configurations.

    Attributes:
        family: Name of the family.
        source: Folder, or name on the hub.
        folder: Folder of the model's files; None if the files are not on this disk, or belong to the embedded model.
        variant: Variant of the weight files.
        dtype: Dtype of the weights; None if it depends on the device.
        components: Class names by name in the repository.
        configs: Configurations by component.
        names: Names in the repository by role, for roles whose name differs (`transformer_2` in the role
            `transformer`).
        transforms: The transforms of the model's components so far, in order.
        groups: Number of blocks in an offload group, by component; None if it is not known.
        whole: Components that are compiled as a whole.
        chosen: Each step of the loop chooses one of two models.
        checkpoints: One-file checkpoints by component, as the workflow names them.
    """

    family: str | None = None
    source: str | None = None
    folder: str | None = None
    variant: str | None = None
    dtype: str | None = None
    components: Mapping[str, str] | None = None
    configs: Configs = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    transforms: tuple[TransformFact, ...] = ()
    groups: Mapping[str, int | None] = field(default_factory=dict)
    whole: tuple[str, ...] = ()
    chosen: bool = False
    checkpoints: Mapping[str, str] = field(default_factory=dict)

    @property
    def known_family(self) -> Family | None:
        """The family, None if it is not known."""
        return by_name(self.family)

    def repository_name(self, role: str) -> str:
        """Name in the repository of the component that plays a role."""
        return self.names.get(role, role)

    def class_name(self, role: str) -> str:
        """Class name of the component that plays a role, empty if it is not known."""
        return (self.components or {}).get(self.repository_name(role), "")

    def config(self, component: str) -> Mapping[str, Any]:
        """Configuration of a component, empty if it is not known."""
        return self.configs.get(component, {})

    @property
    def compiled_whole(self) -> tuple[str, ...]:
        """Transformers in use that are compiled as a whole, by their names in the repository."""
        used = self.repository_name("transformer")
        return self.whole if self.chosen else tuple(name for name in self.whole if name == used)

    def transformed(self, kind: TransformKind, role: str | None) -> ModelFacts:
        """The model after one more transform of the component in a role; unchanged if the role is not known."""
        if self == ModelFacts() or role is None:
            return self
        return replace(self, transforms=(*self.transforms, TransformFact(kind, self.repository_name(role))))

    def either(self, other: Facts) -> Facts | None:
        """Facts of a value that is one of two models: the facts that both share.

        `whole` lists the transformers of both models that are compiled as a whole.
        """
        shared = super().either(other)
        if not isinstance(shared, ModelFacts) or not isinstance(other, ModelFacts):
            return shared
        whole = tuple(sorted({*self.compiled_whole, *other.compiled_whole}))
        return replace(shared, chosen=True, whole=whole)


@dataclass(frozen=True)
class LatentsFacts(Facts):
    """Latents: the family's name, the size of the clip, the number of clips."""

    family: str | None = None
    size: Size | None = None
    batch: int | None = None


@dataclass(frozen=True)
class FramesFacts(Facts):
    """Frames: the size of the clip, the number of clips."""

    size: Size | None = None
    batch: int | None = None


@dataclass(frozen=True)
class ConditioningFacts(Facts):
    """Conditioning: the family's name, the number of prompts."""

    family: str | None = None
    prompts: int | None = None


@dataclass(frozen=True)
class BranchesFacts(Facts):
    """Guidance branches.

    Attributes:
        family: The family's name.
        prompts: Number of prompts.
        nonlinear: The reason why the merged prediction is not linear in those of the branches; None if it is, or if
            this is not known.
        running: The most branches that run at a step; None if it is not known.
        batched: Whether the workflow asks for both branches in one call.
        window: The fractions of the steps after which guidance starts and stops; None if no step is guided, or if this
            is not known.
    """

    family: str | None = None
    prompts: int | None = None
    nonlinear: str | None = None
    running: int | None = None
    batched: bool = False
    window: tuple[float, float] | None = None


@dataclass(frozen=True)
class ImageConditionFacts(Facts):
    """A condition on a first frame: the family's name, and the size of the clips that it fits."""

    family: str | None = None
    size: Size | None = None


@dataclass(frozen=True)
class ScheduleFacts(Facts):
    """Facts about a schedule, and about each of its steps.

    Attributes:
        steps: Number of steps.
        scheduler: Name of the scheduler's class in diffusers.
        shift: Shift of the noise levels; None if it depends on the image size.
    """

    steps: int | None = None
    scheduler: str | None = None
    shift: float | None = None


def made_size(model: ModelFacts, width: int | None, height: int | None, frames: int | None) -> Size | None:
    """The size that the model generates for a requested size; None if the family or a number is not known."""
    family = model.known_family
    if family is None or width is None or height is None or frames is None:
        return None
    return family.size(width, height, frames, model.configs)
