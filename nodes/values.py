"""The values that flow between nodes. This module imports no torch; only annotations name tensors.

A value is immutable by convention and holds no state of a run. Residuals, scheduler history and momentum belong to
the `State` of the node that uses them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, overload

from ..graph.contract.ports import Port

if TYPE_CHECKING:
    import torch


def tensor_facts(tensor: torch.Tensor) -> dict[str, Any]:
    """Shape and dtype of a tensor as plain values."""
    return {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}


def without_masks(tensors: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """Named tensors without the masks, which may hold infinite numbers."""
    return ((name, tensor) for name, tensor in tensors.items() if "mask" not in name)


@dataclass(frozen=True)
class Size:
    """Size of a clip in pixels and frames; an image has one frame."""

    width: int
    height: int
    frames: int = 1

    def __str__(self) -> str:
        return f"{self.width}x{self.height}" + (f", {self.frames} frames" if self.frames > 1 else "")


@dataclass(frozen=True)
class Latents(Port):
    """Latents in the layout of the family's transformer (Wan: [B, C, F, H, W]), normalised as in the denoise loop."""

    tensor: torch.Tensor
    family: str
    size: Size

    def facts(self) -> dict[str, Any]:
        return tensor_facts(self.tensor)

    def finite_tensors(self) -> Mapping[str, torch.Tensor]:
        return {"": self.tensor}


@dataclass(frozen=True)
class Frames(Port):
    """Pixels: float32 [B, F, H, W, 3] in [0, 1]; an image has F = 1."""

    on_run_device: ClassVar[bool] = False  # decoded frames leave a GPU while it decodes the next ones

    tensor: torch.Tensor

    def facts(self) -> dict[str, Any]:
        return tensor_facts(self.tensor)

    def finite_tensors(self) -> Mapping[str, torch.Tensor]:
        return {"": self.tensor}


@dataclass(frozen=True)
class Conditioning(Port):
    """Encoded prompts: named tensors for the positive prompt and, if a node reads it, the negative prompt.

    Attributes:
        positive: Tensors of the positive prompt, by the family's names, batch first; None if no node reads them.
        negative: Tensors of the negative prompt; None if it was not encoded.
        family: Name of the family whose encoders made the tensors.
    """

    partial: ClassVar[bool] = True

    positive: Mapping[str, torch.Tensor] | None
    negative: Mapping[str, torch.Tensor] | None
    family: str

    def facts(self) -> dict[str, Any]:
        tensors = self.positive or self.negative or {}
        return tensor_facts(next(iter(tensors.values()))) if tensors else {}

    def finite_tensors(self) -> Mapping[str, torch.Tensor]:
        sides = {"positive": self.positive or {}, "negative": self.negative or {}}
        return {f"{side}.{name}": tensor for side, found in sides.items() for name, tensor in without_masks(found)}


@dataclass(frozen=True)
class Step(Port):
    """One step of a schedule: index, noise level and timestep as plain numbers, and the scheduler's own timestep.

    Attributes:
        index: 0 for the first step.
        count: Steps in the whole schedule.
        sigma: Noise level in [0, 1] before this step.
        timestep: Noise level on the training scale, 0 to `train_timesteps`.
        value: The scheduler's own timestep, a 0-dimensional tensor on the device of the run. A node that changes it
            changes `timestep` too: where both are those of `schedule`, a model may take the values of all steps there.
        train_timesteps: Length of the training scale.
        schedule: Timesteps of all steps of the schedule, on the training scale.
        scheduler: Name of the scheduler's class in diffusers; empty if it is not known.
    """

    index: int
    count: int
    sigma: float
    timestep: float
    value: torch.Tensor = field(compare=False, repr=False)
    train_timesteps: int = 1000
    schedule: tuple[float, ...] = field(default=(), compare=False, repr=False)
    scheduler: str = field(default="", compare=False, repr=False)

    def facts(self) -> dict[str, Any]:
        return {"step": self.index, "sigma": self.sigma, "timestep": self.timestep}


@dataclass(frozen=True, eq=False)
class Steps(Sequence[Step]):
    """The steps of a schedule, each made when it is read: a plan of many steps reads two.

    Attributes:
        sigmas: Noise level before each step.
        values: The scheduler's own timesteps, a tensor of one dimension on the device of the run.
        train_timesteps: Length of the training scale.
        schedule: Timesteps on the training scale.
        scheduler: Name of the scheduler's class in diffusers.
    """

    sigmas: Sequence[float] = field(repr=False)
    values: torch.Tensor = field(repr=False)
    train_timesteps: int
    schedule: tuple[float, ...] = field(repr=False)
    scheduler: str

    def __len__(self) -> int:
        return len(self.schedule)

    @overload
    def __getitem__(self, index: int) -> Step: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Step]: ...

    def __getitem__(self, index: int | slice) -> Step | Sequence[Step]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        count = len(self)
        if not -count <= index < count:
            raise IndexError(index)
        index %= count
        timestep, value = self.schedule[index], self.values[index]
        return Step(
            index,
            count,
            self.sigmas[index],
            timestep,
            value,
            self.train_timesteps,
            self.schedule,
            self.scheduler,
        )


@dataclass(frozen=True)
class Schedule(Port):
    """Noise levels of a run, and the class and arguments of the scheduler that `schedule.step` creates.

    Attributes:
        steps: The steps in running order.
        scheduler: Name of the scheduler's class in diffusers.
        config: The scheduler's configuration, for `from_config`.
        arguments: Keyword arguments of the scheduler's `set_timesteps`.
    """

    item: ClassVar[type[Port] | None] = Step
    on_run_device: ClassVar[bool] = False  # a plan computes the timesteps on the CPU

    steps: Sequence[Step]
    scheduler: str
    config: Mapping[str, Any]
    arguments: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def facts(self) -> dict[str, Any]:
        return {"steps": len(self.steps), "scheduler": self.scheduler}


@dataclass(frozen=True)
class ImageCondition(Port):
    """An encoded first frame, as named tensors (CLIP embedding, VAE latents, mask), batch first.

    Attributes:
        tensors: Tensors by the family's names.
        family: Name of the family whose encoders made the tensors.
        size: Size of the clips in pixels and frames; None if the tensors fit every size.
    """

    tensors: Mapping[str, torch.Tensor]
    family: str
    size: Size | None = None

    def facts(self) -> dict[str, Any]:
        tensors = {name: list(tensor.shape) for name, tensor in self.tensors.items()}
        return {**tensor_facts(next(iter(self.tensors.values()))), "tensors": tensors}

    def finite_tensors(self) -> Mapping[str, torch.Tensor]:
        return dict(without_masks(self.tensors))


@dataclass(frozen=True)
class Branches(Port):
    """The guidance branches that run at each step, and the rule that merges their predictions; no state.

    Attributes:
        conditioning: The encoded prompts of the branches.
        scale: Guidance scale, as in the family's pipeline.
        neutral: The largest scale at which the pipeline does not guide.
        guider: Name of the rule that merges the branches.
        options: Options of the guider besides the scale, by diffusers' names.
        start: Fraction of the steps after which guidance starts.
        stop: Fraction of the steps after which guidance stops.
        batched: Evaluate both branches in one call of the transformer; `auto`: where that was measured to be faster.
        embedded: Guidance scale as an input of the transformer; None if it takes none.
    """

    conditioning: Conditioning
    scale: float
    neutral: float
    guider: str = "cfg"
    options: Mapping[str, Any] = field(default_factory=dict)
    start: float = 0.0
    stop: float = 1.0
    batched: bool | Literal["auto"] = "auto"
    embedded: float | None = None

    @property
    def guided(self) -> bool:
        """Whether any step can be guided."""
        return self.scale > self.neutral

    def active(self, step: Step) -> tuple[str, ...]:
        """Names of the branches that run at this step, `positive` first."""
        return self.active_at(step.index, step.count)

    def active_at(self, index: int, count: int) -> tuple[str, ...]:
        """Names of the branches that run at step `index` of `count` steps, `positive` first."""
        return ("positive", "negative") if index in self.active_steps("negative", count) else ("positive",)

    def active_steps(self, branch: str, count: int) -> range:
        """The steps of `count` at which a branch runs."""
        if branch == "positive":
            return range(count)
        return guided_steps(self.start, self.stop, count) if self.guided else range(0)

    def facts(self) -> dict[str, Any]:
        return {"scale": self.scale, "guider": self.guider, "start": self.start, "stop": self.stop}


def guided_steps(start: float, stop: float, count: int) -> range:
    """The steps of `count` at which guidance is on, rounded as in diffusers' guiders (`_is_cfg_enabled`).

    Args:
        start: Fraction of the steps after which guidance starts.
        stop: Fraction of the steps after which guidance stops.
        count: Number of steps.
    """
    return range(int(start * count), int(stop * count))


@dataclass(frozen=True)
class Predictions(Port):
    """The denoiser's predictions at one step, by the name of the guidance branch."""

    branches: Mapping[str, torch.Tensor]
    step: Step

    def facts(self) -> dict[str, Any]:
        return tensor_facts(next(iter(self.branches.values())))

    def finite_tensors(self) -> Mapping[str, torch.Tensor]:
        return self.branches


@dataclass(frozen=True)
class Velocity(Port):
    """One prediction for the scheduler, in the layout of the latents."""

    tensor: torch.Tensor

    def facts(self) -> dict[str, Any]:
        return tensor_facts(self.tensor)

    def finite_tensors(self) -> Mapping[str, torch.Tensor]:
        return {"": self.tensor}


@dataclass(frozen=True)
class File(Port):
    """A file that a node wrote, as an absolute path."""

    path: Path

    def facts(self) -> dict[str, Any]:
        return {"path": str(self.path)}
