"""Z-Image and Z-Image-Turbo, as diffusers' `ZImagePipeline` runs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...graph.contract.errors import NodeError
from ..support.lazy import lazy
from ..values import Size
from . import images
from .base import Blocks, Configs, DenoiserInput, Family, LoadedModel, SizeLimit
from .dynamic_shift import dynamic_shift
from .prompt_ends import CutEnd, templated_end
from .sequence_cut import Along, SequenceCut
from .text_encoders import hidden_states, own_rows, padded_rows, padded_tokens

if TYPE_CHECKING:
    import torch

else:
    torch = lazy("torch")


PROMPT_MULTIPLE = 32  # SEQ_MULTI_OF of diffusers' transformer_z_image.py


class ZImage(Family):
    """The Z-Image family; `Family` documents each member.

    Prompts differ in length, and the transformer takes a list of prompts. The pipeline evaluates both branches in one
    batch: with `batched: true` in `cfg.split`, results equal those of the pipeline bit for bit.
    """

    name = "z-image"
    pipelines: tuple[str, ...] = ("ZImagePipeline",)
    neutral_scale = 0.0  # ZImagePipeline.do_classifier_free_guidance: guidance_scale > 0
    embedded_guidance = False
    max_length = 512  # ZImagePipeline.__call__(max_sequence_length=512)
    rounds = False  # ZImagePipeline.__call__ raises ValueError
    blocks = Blocks(
        {"layers": "n_layers"},
        takes_text=False,  # text and image are one sequence
        returns=("hidden",),
        per_row=("attn_mask", "freqs_cis", "adaln_input", "noise_mask", "adaln_noisy", "adaln_clean"),
    )
    sequence = SequenceCut(
        ("attention",),
        arguments={"attn_mask": Along(1), "freqs_cis": Along(1), "noise_mask": Along(1)},
        others=("noise_refiner",),
    )
    sign = -1

    def size(self, width: int, height: int, frames: int, configs: Configs) -> Size:
        return images.whole(width, height, images.scale_factor(configs.get("vae", {})))

    def size_limit(self, configs: Configs) -> SizeLimit | None:
        if "transformer" not in configs:
            return None
        lengths = _axes_lens(configs["transformer"])
        side = images.scale_factor(configs.get("vae", {})) * images.PATCH
        largest = Size(lengths[2] * side, lengths[1] * side)
        return SizeLimit(largest, f"`axes_lens` {list(lengths)} of its transformer")

    def latent_shape(self, size: Size, batch: int, configs: Configs) -> tuple[int, ...]:
        factor = images.scale_factor(configs.get("vae", {}))
        channels = configs.get("transformer", {}).get("in_channels", 16)
        return (batch, channels, size.height // factor, size.width // factor)

    def tokens(self, size: Size, configs: Configs) -> int:
        _, _, height, width = self.latent_shape(size, 1, configs)
        return height // images.PATCH * (width // images.PATCH)

    def schedule_arguments(self, steps: int, scheduler: Mapping[str, Any], tokens: int | None) -> dict[str, Any]:
        sigmas = torch.linspace(1.0, 1 / steps, steps).tolist()  # float32, as in get_default_z_image_sigmas
        mu = None if tokens is None else dynamic_shift(scheduler, tokens)
        return images.schedule_arguments(steps, sigmas, scheduler, mu)

    def encode_text(self, model: LoadedModel, prompts: Sequence[str], max_length: int) -> dict[str, torch.Tensor]:
        """Encode prompts.

        Returns:
            `embeddings`: [prompts, max_length, width], zeros after the end of each prompt; `lengths`: [prompts],
            int64, always on the CPU, because shapes depend on them.
        """
        tokenizer = model.component("tokenizer")
        tokens = padded_tokens(tokenizer, [_in_template(tokenizer, prompt) for prompt in prompts], max_length)
        made = hidden_states(model.component("text_encoder"), tokens, model.device)[-2]
        rows = own_rows(made, tokens.attention_mask, model.device)
        _require_positions(model.config("transformer"), max(map(len, rows)))
        return padded_rows(rows, max_length)

    def prompts_on_meta(self, transformer: Mapping[str, Any], rows: int) -> dict[str, torch.Tensor]:
        lengths, width = range(self.max_length, self.max_length - rows, -1), transformer["cap_feat_dim"]
        return padded_rows([torch.empty(length, width, device="meta") for length in lengths], self.max_length)

    def longest_prompt(self, configs: Configs) -> int | None:
        return _prompt_positions(configs["transformer"]) if "transformer" in configs else None

    def cut_ends(self, model: LoadedModel, prompt: str, max_length: int) -> list[CutEnd]:
        tokenizer = model.component("tokenizer")
        text, empty = (_in_template(tokenizer, content) for content in (prompt, "{}"))
        return templated_end(tokenizer, "Qwen3 (text_encoder)", text, empty.rpartition("{}")[2], 0, max_length)

    def timesteps(self, values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        # The transformer's time runs from 0 (noise) to 1, and its velocity points from noise to the image.
        return (1000 - values) / 1000

    def predict(self, model: LoadedModel, transformer: Any, given: DenoiserInput) -> torch.Tensor:
        latents, text = given.latents, given.text
        dtype = model.dtype("transformer")
        hidden = latents.to(dtype).unsqueeze(2)  # [B, C, 1, H, W]: one frame
        time = self.timesteps(given.step.value.to(latents.device), latents.dtype).expand(latents.shape[0])
        lengths = text["lengths"].tolist()
        prompts = [rows[:length] for rows, length in zip(text["embeddings"].to(dtype), lengths, strict=True)]
        made = transformer(list(hidden.unbind(0)), time, prompts, return_dict=False)[0]
        # float32 before guidance, as in the pipeline. Guiders give equal results for both signs.
        return -torch.stack([image.float() for image in made]).squeeze(2)

    def row_tokens(self, given: DenoiserInput) -> Sequence[int] | None:
        from diffusers.models.transformers.transformer_z_image import SEQ_MULTI_OF

        *_, height, width = given.latents.shape
        image = height // images.PATCH * (width // images.PATCH)
        # The transformer fills the image and the prompt up to a multiple each, and a batch up to the longest prompt.
        return [
            sum(-(-tokens // SEQ_MULTI_OF) * SEQ_MULTI_OF for tokens in (image, length))
            for length in given.text["lengths"].tolist()
        ]

    def modulated(self, block: Any, hidden: torch.Tensor, call: Mapping[str, Any]) -> torch.Tensor:
        scale = block.adaLN_modulation(call["adaln_input"]).unsqueeze(1).chunk(4, dim=2)[0]
        return block.attention_norm1(hidden) * (1 + scale)

    def decode(self, model: LoadedModel, latents: torch.Tensor) -> torch.Tensor:
        return images.decode(model.component("vae"), latents)

    def encode(self, model: LoadedModel, frames: torch.Tensor) -> torch.Tensor:
        return images.encode(model.component("vae"), frames)


def _in_template(tokenizer: Any, prompt: str) -> str:
    """The prompt as a user's message, with the beginning of the answer, as in `ZImagePipeline._encode_prompt`."""
    message = {"role": "user", "content": prompt}
    made = tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True, enable_thinking=True)
    return str(made)


def _axes_lens(transformer: Mapping[str, Any]) -> Sequence[int]:
    """Positions of the prompt, of rows and of columns; the defaults of ZImageTransformer2DModel."""
    lengths: Sequence[int] = transformer.get("axes_lens", (1024, 512, 512))
    return lengths


def _prompt_positions(transformer: Mapping[str, Any]) -> int:
    """The most tokens of a prompt.

    The transformer pads a prompt to a multiple of 32. Its positions start at 1, and the image has the one after them.
    """
    return (_axes_lens(transformer)[0] - 2) // PROMPT_MULTIPLE * PROMPT_MULTIPLE


def _require_positions(transformer: Mapping[str, Any], tokens: int) -> None:
    """Raise a NodeError for a prompt of more tokens than the transformer has positions for."""
    most = _prompt_positions(transformer)
    if tokens > most:
        message = (
            f"a prompt has {tokens} tokens with its template, but this model takes at most {most}, by `axes_lens` "
            f"{list(_axes_lens(transformer))} of its transformer"
        )
        raise NodeError(message, help=f"shorten the prompt, or cut it with `max_length: {most}`")


Z_IMAGE: Family = ZImage()
