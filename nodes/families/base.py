"""What a model family has to say about itself: the one protocol that the nodes use.

A family is stateless. Methods that take `configs` use plain data only and run before anything is loaded;
the others get a `Model` whose components have been acquired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

    from ..models.model import Model
    from ..values import Size, Step

Configs = Mapping[str, Mapping[str, Any]]


def dynamic_shift(scheduler: Mapping[str, Any], tokens: int) -> float:
    """The exponent `mu` of a shift that grows linearly with the length of the sequence.

    The formula and its defaults are those of `calculate_shift` in diffusers' pipelines/flux/pipeline_flux.py.
    """
    first, last = scheduler.get("base_image_seq_len", 256), scheduler.get("max_image_seq_len", 4096)
    low, high = scheduler.get("base_shift", 0.5), scheduler.get("max_shift", 1.15)
    slope = (high - low) / (last - first)
    return tokens * slope + (low - slope * first)


class Family(Protocol):
    """How one family of models encodes text, lays out latents, calls its transformer and decodes.

    Attributes:
        name: Short name, as in descriptions, records and files of latents.
        pipelines: Class names of the diffusers pipelines whose repositories belong to the family.
        neutral_scale: The guidance scale at and below which the family's pipeline does not guide.
        embedded_guidance: Whether the transformer takes a guidance scale as an input.
        max_length: Tokens of a prompt that the family's pipeline keeps unless told otherwise.
    """

    name: str
    pipelines: tuple[str, ...]
    neutral_scale: float
    embedded_guidance: bool
    max_length: int

    def size(self, width: int, height: int, frames: int, configs: Configs) -> Size:
        """The size that is made when this one is asked for, rounded as the family's pipeline rounds."""
        ...

    def latent_shape(self, size: Size, batch: int, configs: Configs) -> tuple[int, ...]:
        """Shape of the latents of a clip of this (rounded) size."""
        ...

    def tokens(self, size: Size, configs: Configs) -> int:
        """Length of the transformer's sequence for a clip of this size, where a dynamic shift depends on it."""
        ...

    def schedule_arguments(self, steps: int, scheduler: Mapping[str, Any], tokens: int | None) -> dict[str, Any]:
        """What the family's pipeline gives to the scheduler's `set_timesteps`, beside the device.

        Args:
            steps: Number of denoising steps.
            scheduler: The scheduler's configuration, with its `_class_name`.
            tokens: Length of the transformer's sequence, None where the shift does not depend on it.
        """
        ...

    def encode_text(self, model: Model, prompts: Sequence[str], max_length: int) -> dict[str, torch.Tensor]:
        """Encode prompts with the family's text encoders into keyword tensors of the transformer, batch first."""
        ...

    def cut_words(self, model: Model, prompt: str, max_length: int) -> str:
        """The end of a prompt that does not fit into `max_length` tokens, empty if all of it does."""
        ...

    def predict(
        self,
        model: Model,
        transformer: Any,
        latents: torch.Tensor,
        step: Step,
        text: Mapping[str, torch.Tensor],
        image: Mapping[str, torch.Tensor] | None,
        embedded: float | None,
    ) -> torch.Tensor:
        """Call the transformer once; everything is batch first and of one batch size."""
        ...

    def decode(self, model: Model, latents: torch.Tensor) -> torch.Tensor:
        """Decode normalised latents into frames, float32 [B, F, H, W, 3] in [0, 1]."""
        ...

    def encode(self, model: Model, frames: torch.Tensor) -> torch.Tensor:
        """Encode frames [B, F, H, W, 3] in [0, 1] into normalised latents: the mode of the VAE's distribution."""
        ...
