"""`Family`: everything that differs between families of models; the one protocol that the nodes use.

A family is stateless. Methods that take `configs` use plain data only and run before anything is loaded;
the others get a `Model` whose components have been acquired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ...graph.contract.errors import NodeError
from ..support.lazy import lazy

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from ..values import Size, Step
else:
    torch = lazy("torch")

Configs = Mapping[str, Mapping[str, Any]]


class LoadedModel(Protocol):
    """A model whose components have been acquired, as a family sees it: a `Model` is one."""

    @property
    def device(self) -> str:
        """Where the components are: `cpu`, `cuda` or `meta`."""
        ...

    def component(self, name: str) -> Any:
        """The module, tokenizer or scheduler of that name."""
        ...

    def config(self, name: str) -> Mapping[str, Any]:
        """The configuration of a component."""
        ...

    def dtype(self, name: str) -> torch.dtype:
        """The dtype of a component's parameters and of the tensors it takes."""
        ...


def dynamic_shift(scheduler: Mapping[str, Any], tokens: int) -> float:
    """The exponent `mu` of a shift that grows linearly with the length of the sequence.

    The formula and its defaults are those of `calculate_shift` in diffusers' pipelines/flux/pipeline_flux.py.
    """
    first, last = scheduler.get("base_image_seq_len", 256), scheduler.get("max_image_seq_len", 4096)
    low, high = scheduler.get("base_shift", 0.5), scheduler.get("max_shift", 1.15)
    slope = (high - low) / (last - first)
    return tokens * slope + (low - slope * first)


@dataclass(frozen=True)
class Blocks:
    """Where a transformer's repeated blocks are, and how its forward calls them.

    Attributes:
        lists: Attributes of the transformer that hold them, each with the key of its configuration that is their
            number, in the order in which they run. All are called with the same arguments.
        takes_text: The second argument is a stream of text (`encoder_hidden_states`).
        returns: The streams that a block returns.
    """

    lists: Mapping[str, str]
    takes_text: bool
    returns: tuple[Literal["hidden", "text"], ...]


@dataclass(frozen=True)
class DenoiserInput:
    """Everything that goes into one call of a transformer; tensors are batch first and of one batch size B.

    Attributes:
        latents: In the layout of the denoise loop: [B, C, F, H, W], [B, C, H, W] or [B, tokens, 4 C].
        size: The clip's size in pixels.
        step: The step of the schedule.
        text: Encoded prompts, named as the family's `encode_text` names them, [B, length, width] for the most part.
        image: The condition on a first frame, named as `encode_image` names it; None without one.
        embedded: Guidance scale that is fed to the transformer; None if it takes none.
    """

    latents: torch.Tensor
    size: Size
    step: Step
    text: Mapping[str, torch.Tensor]
    image: Mapping[str, torch.Tensor] | None = None
    embedded: float | None = None


class Family(Protocol):
    """How one family of models encodes text, lays out latents, calls its transformer and decodes.

    A family is a subclass; members with a body are defaults for families that do nothing special there.

    Attributes:
        name: Short name, as in descriptions, records and files of latents.
        pipelines: Class names of the diffusers pipelines whose repositories belong to the family.
        neutral_scale: The guidance scale at and below which the family's pipeline does not guide.
        embedded_guidance: Whether the transformer takes a guidance scale as an input.
        max_length: Tokens of a prompt that the family's pipeline keeps unless told otherwise.
        rounds: Whether a size that is not one of the model's is rounded down; else it is an error, as it is in the
            family's pipeline.
        rounds_frames: Whether the number of frames is rounded down even if width and height are not.
        float32: Components that the family's documentation keeps in float32 where no dtype is asked for.
        normalises: Whether `normalise` changes a guided prediction; one of zeros has no norm to keep.
        blocks: Where the transformer's blocks are, for cache gates.
        time_modules: Submodules of the transformer that `time_signal` uses, outermost first; none if there is no
            embedding of the timestep alone.
        sign: -1 if `predict` returns the negative of the transformer's output.
    """

    name: str
    pipelines: tuple[str, ...]
    neutral_scale: float
    embedded_guidance: bool
    max_length: int
    rounds: bool = True
    rounds_frames: bool = False
    float32: tuple[str, ...] = ()
    normalises: bool = False
    blocks: Blocks
    time_modules: tuple[str, ...] = ()
    sign: int = 1

    def size(self, width: int, height: int, frames: int, configs: Configs) -> Size:
        """The size that is made when this one is asked for, rounded as the family's pipeline rounds."""
        ...

    def latent_shape(self, size: Size, batch: int, configs: Configs) -> tuple[int, ...]:
        """Shape of the latents of a clip of this (rounded) size, in which noise is drawn and the VAE decodes."""
        ...

    def pack(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents of `latent_shape` in the layout of the denoise loop; by default that is the same."""
        return latents

    def unpack(self, latents: torch.Tensor, size: Size, configs: Configs) -> torch.Tensor:
        """The reverse of `pack`: latents of the loop in the layout of `latent_shape`."""
        return latents

    def tokens(self, size: Size, configs: Configs) -> int:
        """Length of the transformer's sequence for a clip of this size, where a dynamic shift depends on it."""
        ...

    def schedule_arguments(self, steps: int, scheduler: Mapping[str, Any], tokens: int | None) -> dict[str, Any]:
        """The arguments that the family's pipeline gives to the scheduler's `set_timesteps`, beside the device.

        Args:
            steps: Number of denoising steps.
            scheduler: The scheduler's configuration, with its `_class_name`.
            tokens: Length of the transformer's sequence, None where the shift does not depend on it.
        """
        ...

    def encode_text(self, model: LoadedModel, prompts: Sequence[str], max_length: int) -> dict[str, torch.Tensor]:
        """Encode prompts with the family's text encoders into named tensors for `predict`, batch first."""
        ...

    def cut_padding(self, text: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Encoded prompts without the padding that the family's pipeline masks; by default there is none."""
        return dict(text)

    def join(self, texts: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Several encoded prompts as one batch, for `predict`; by default all are of one length."""
        return {name: torch.cat([text[name] for text in texts]) for name in texts[0]}

    def cut_words(self, model: LoadedModel, prompt: str, max_length: int) -> str:
        """The end of a prompt that does not fit into `max_length` tokens, empty if all of it does."""
        ...

    def image_parts(self, configs: Configs) -> tuple[str, ...]:
        """Components that `encode_image` uses; by default none, for families that take no image."""
        return ()

    def needs_image(self, configs: Configs) -> bool:
        """Whether a model of these configurations cannot predict without an image; by default none takes one."""
        return False

    def image_problem(self, configs: Configs, last: bool) -> str | None:
        """Why a model of these configurations cannot be given a first frame (and a last one), None if it can."""
        return f"models of {self.name} take no first frame"

    def encode_image(
        self, model: LoadedModel, image: Image.Image, last: Image.Image | None, size: Size
    ) -> dict[str, torch.Tensor]:
        """Encode a first (and last) frame into named tensors for `predict` and `keep_image`, one row each.

        Args:
            model: Its `image_parts` have been acquired; `image_problem` found nothing.
            image: The first frame, of any size.
            last: The last frame.
            size: Size of the clip.
        """
        raise NodeError(f"models of {self.name} take no first frame")

    def keep_image(self, latents: torch.Tensor, image: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Latents after putting back the part that an image condition keeps; by default it keeps nothing."""
        return latents

    def predict(self, model: LoadedModel, transformer: Any, given: DenoiserInput) -> torch.Tensor:
        """Call the transformer once.

        Returns:
            The prediction, in the shape of the latents.
        """
        ...

    def modulated(self, block: Any, hidden: torch.Tensor, call: Mapping[str, Any]) -> torch.Tensor:
        """The normed and modulated input of a block's first attention, for gates that compare it.

        Args:
            block: The first block.
            hidden: Its input.
            call: Its other arguments by name.
        """
        ...

    def time_signal(self, transformer: Any, timesteps: torch.Tensor, projected: bool) -> torch.Tensor:
        """Embeddings of timesteps [steps] as the transformer makes them, [steps, width].

        Args:
            transformer: A module with the `time_modules` as attributes.
            timesteps: The scheduler's own timesteps.
            projected: The projection that modulates the blocks, six times as wide.
        """
        raise NodeError(f"models of {self.name} have no embedding of the timestep alone")

    def normalise(self, guided: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
        """The guided prediction, normalised as the family's pipeline does it; by default unchanged."""
        return guided

    def decode(self, model: LoadedModel, latents: torch.Tensor) -> torch.Tensor:
        """Decode normalised latents of `latent_shape` into frames, float32 [B, F, H, W, 3] in [0, 1]."""
        ...

    def encode(self, model: LoadedModel, frames: torch.Tensor) -> torch.Tensor:
        """Encode frames [B, F, H, W, 3] in [0, 1] into normalised latents of `latent_shape`: the mode of the VAE's."""
        ...
