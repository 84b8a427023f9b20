"""`Family`: the protocol for everything that differs between families of models. Nodes use only this protocol.

A family is stateless. Methods with a parameter `configs` use plain data and run before components are loaded. Methods
with a parameter `model` get a `Model` whose components are in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ...graph.contract.errors import NodeError
from ..support import batch_rows
from ..support.lazy import lazy
from .prompt_ends import CutEnd
from .sequence_cut import SequenceCut

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from ..values import Size, Step
else:
    torch = lazy("torch")

Configs = Mapping[str, Mapping[str, Any]]


class LoadedModel(Protocol):
    """The members of a `Model` that a family uses; the model's components are in memory."""

    @property
    def device(self) -> str:
        """The device of the components: `cpu`, `cuda` or `meta`."""
        ...

    def component(self, name: str) -> Any:
        """The module, tokenizer or scheduler with this name."""
        ...

    def config(self, name: str) -> Mapping[str, Any]:
        """The configuration of a component."""
        ...

    def dtype(self, name: str) -> torch.dtype:
        """The dtype of a component's parameters and of its input tensors."""
        ...


@dataclass(frozen=True)
class Blocks:
    """The repeated blocks of a transformer, and how its forward calls them.

    Attributes:
        lists: Names of the transformer's lists of blocks, in running order, each with the configuration key for its
            number of blocks. All blocks take the same arguments.
        takes_text: Whether the second argument of a block is the text stream (`encoder_hidden_states`).
        returns: The streams that a block returns, in order.
        per_row: Names of a block's further arguments that have one row for each row of the batch. All other arguments,
            such as the positions of the tokens, are the same for every row.
    """

    lists: Mapping[str, str]
    takes_text: bool
    returns: tuple[Literal["hidden", "text"], ...]
    per_row: tuple[str, ...]


@dataclass(frozen=True)
class SizeLimit:
    """The largest clip that a model can make.

    Attributes:
        largest: The most of each axis; all of them may occur together.
        reason: The entry of the configuration that limits it.
    """

    largest: Size
    reason: str


@dataclass(frozen=True)
class DenoiserInput:
    """The input of one call of a transformer; tensors are batch first, with one batch size B.

    Attributes:
        latents: Latents in the layout of the denoise loop: [B, C, F, H, W], [B, C, H, W] or [B, tokens, 4 C].
        size: The clip's size in pixels.
        step: The step of the schedule.
        text: Encoded prompts by the names of the family's `encode_text`; most are [B, length, width].
        image: The condition on a first frame by the names of `encode_image`; None without a first frame.
        embedded: Guidance scale as an input of the transformer; None if the transformer takes no guidance scale.
    """

    latents: torch.Tensor
    size: Size
    step: Step
    text: Mapping[str, torch.Tensor]
    image: Mapping[str, torch.Tensor] | None = None
    embedded: float | None = None

    def of_rows(self, rows: Sequence[int]) -> DenoiserInput:
        """The input for some rows of the batch, by ascending numbers; for all rows it is this input."""
        if len(rows) == len(self.latents):
            return self

        def chosen(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {name: batch_rows.gather(tensor, rows) for name, tensor in tensors.items()}

        image = None if self.image is None else chosen(self.image)
        return replace(self, latents=batch_rows.gather(self.latents, rows), text=chosen(self.text), image=image)


class Family(Protocol):
    """How one family of models encodes text, lays out latents, calls its transformer and decodes.

    Each family is a subclass. Attributes with a value and methods with a body are defaults, which a subclass may
    override.

    Attributes:
        name: Short name, used in facts, records and files of latents.
        pipelines: Class names of the diffusers pipelines whose repositories belong to the family.
        neutral_scale: The largest guidance scale at which the family's pipeline does not guide.
        embedded_guidance: Whether the transformer takes a guidance scale as an input.
        max_length: Default number of tokens of an encoded prompt, as in the family's pipeline.
        rounds: If True, a size that the model does not support is rounded down. If False, such a size is an error. The
            value follows the family's pipeline.
        rounds_frames: Whether the number of frames is rounded down even if `rounds` is False.
        float32: Components that stay in float32 if the workflow sets no dtype, as in the family's documentation.
        normalises: Whether `normalise` changes a guided prediction. If so, no prediction may be all zeros, since zeros
            have no norm.
        blocks: The transformer's blocks, for cache gates.
        sequence: The arguments of a block that are cut where several processes compute one sequence.
        time_modules: Submodules of the transformer that `time_signal` uses, outermost first. Empty if the transformer
            has no embedding that depends on the timestep alone.
        batches_guidance: Whether rebuilt blocks were measured to be faster with both branches of guidance in one call.
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
    sequence: SequenceCut
    time_modules: tuple[str, ...] = ()
    batches_guidance: bool = False
    sign: int = 1

    def size(self, width: int, height: int, frames: int, configs: Configs) -> Size:
        """The size that the model generates for a requested size, rounded as in the family's pipeline."""
        ...

    def size_limit(self, configs: Configs) -> SizeLimit | None:
        """The largest size that the model can make; None, the default, if its transformer takes every size."""
        return None

    def latent_shape(self, size: Size, batch: int, configs: Configs) -> tuple[int, ...]:
        """Shape of the latents of a clip of this (rounded) size, for drawing noise and for the VAE."""
        ...

    def pack(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents of `latent_shape` in the layout of the denoise loop; by default unchanged."""
        return latents

    def unpack(self, latents: torch.Tensor, size: Size, configs: Configs) -> torch.Tensor:
        """The reverse of `pack`: latents of the loop in the layout of `latent_shape`."""
        return latents

    def tokens(self, size: Size, configs: Configs) -> int:
        """Length of the transformer's sequence for a clip of this size. A dynamic shift depends on the length."""
        ...

    def schedule_arguments(self, steps: int, scheduler: Mapping[str, Any], tokens: int | None) -> dict[str, Any]:
        """The arguments that the family's pipeline gives to the scheduler's `set_timesteps`, without the device.

        Args:
            steps: Number of denoising steps.
            scheduler: The scheduler's configuration, with its `_class_name`.
            tokens: Length of the transformer's sequence; None if the shift does not depend on it.
        """
        ...

    def encode_text(self, model: LoadedModel, prompts: Sequence[str], max_length: int) -> dict[str, torch.Tensor]:
        """Encode prompts with the family's text encoders into named tensors for `predict`, batch first."""
        ...

    def prompts_on_meta(self, transformer: Mapping[str, Any], rows: int) -> dict[str, torch.Tensor] | None:
        """Tensors as `encode_text` gives them for prompts of different length; None if not known.

        Kernels are built with them before a prompt is encoded. Embeddings are on the meta device. Lengths and masks
        have values.

        Args:
            transformer: The configuration of the transformer.
            rows: Number of prompts.
        """
        return None

    def image_on_meta(self, transformer: Mapping[str, Any], latents: torch.Tensor) -> dict[str, torch.Tensor] | None:
        """Tensors as `encode_image` gives them, on the meta device; None if the transformer needs no image.

        Args:
            transformer: The configuration of the transformer.
            latents: Latents on the meta device.
        """
        return None

    def cut_padding(self, text: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Encoded prompts without the padding that the family's pipeline masks; by default unchanged."""
        return dict(text)

    def join(self, texts: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Concatenate encoded prompts into one batch for `predict`; the default expects prompts of equal length."""
        return {name: torch.cat([text[name] for text in texts]) for name in texts[0]}

    def longest_prompt(self, configs: Configs) -> int | None:
        """The most tokens of a prompt that the pipeline or a component takes; None, the default, without a limit."""
        return None

    def cut_ends(self, model: LoadedModel, prompt: str, max_length: int) -> list[CutEnd]:
        """The end of a prompt that `encode_text` drops, one entry for each encoder that drops one."""
        ...

    def image_parts(self, configs: Configs) -> tuple[str, ...]:
        """Names of the components that `encode_image` uses; empty by default, for families without an image input."""
        return ()

    def needs_image(self, configs: Configs) -> bool:
        """Whether a model with these configurations needs an image to predict; by default it does not."""
        return False

    def image_problem(self, configs: Configs, last: bool) -> str | None:
        """The reason why a model with these configurations does not accept these frames; None if it accepts them.

        Args:
            configs: Configurations by component.
            last: Whether there is a last frame beside the first one.
        """
        return f"models of the family {self.name} do not accept a first frame"

    def encode_image(
        self, model: LoadedModel, image: Image.Image, last: Image.Image | None, size: Size
    ) -> dict[str, torch.Tensor]:
        """Encode a first (and last) frame into named tensors for `predict` and `keep_image`, one row each.

        Args:
            model: A model without an `image_problem`; its `image_parts` are in memory.
            image: The first frame, of any size.
            last: The last frame.
            size: Size of the clip.
        """
        raise NodeError(f"models of the family {self.name} do not accept a first frame")

    def keep_image(self, latents: torch.Tensor, image: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Latents in which the part that an image condition fixes is restored; by default unchanged."""
        return latents

    def timesteps(self, values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """The transformer's argument for the scheduler's own timesteps, of any shape; `dtype` is that of latents."""
        return values.to(dtype)

    def predict(self, model: LoadedModel, transformer: Any, given: DenoiserInput) -> torch.Tensor:
        """Call the transformer once.

        Returns:
            The prediction, in the shape of the latents.
        """
        ...

    def row_tokens(self, given: DenoiserInput) -> Sequence[int] | None:
        """Number of tokens of the hidden states of each row, without the padding at their end.

        None, the default, stands for a transformer whose hidden states have no padding.
        """
        return None

    def modulated(self, block: Any, hidden: torch.Tensor, call: Mapping[str, Any]) -> torch.Tensor:
        """The normalised and modulated input of a block's first attention, for gates that compare it.

        Args:
            block: The first block.
            hidden: The hidden states that enter the block.
            call: The block's other arguments by name.
        """
        ...

    def time_signal(self, transformer: Any, timesteps: torch.Tensor, projected: bool) -> torch.Tensor:
        """The transformer's embeddings of timesteps [steps], as [steps, width].

        Args:
            transformer: A module with the `time_modules` as attributes.
            timesteps: The scheduler's own timesteps.
            projected: Return the projection of the embeddings that modulates the blocks; its width is six times the
                embedding's width.
        """
        raise NodeError(f"models of {self.name} have no embedding that depends on the timestep alone")

    def normalise(self, guided: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
        """The guided prediction, normalised as the family's pipeline does it; by default unchanged."""
        return guided

    def decode(self, model: LoadedModel, latents: torch.Tensor) -> torch.Tensor:
        """Decode normalised latents of `latent_shape` into frames, float32 [B, F, H, W, 3] in [0, 1]."""
        ...

    def encode(self, model: LoadedModel, frames: torch.Tensor) -> torch.Tensor:
        """Encode frames [B, F, H, W, 3] in [0, 1] into normalised latents: the mode of the VAE's distribution."""
        ...
