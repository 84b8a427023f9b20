"""FLUX.1, as diffusers' `FluxPipeline` runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...graph.contract.errors import NodeError
from ..support.lazy import lazy
from ..values import Size
from . import images
from .base import Blocks, Configs, DenoiserInput, Family, LoadedModel
from .dynamic_shift import dynamic_shift
from .prompt_ends import CutEnd, marked_end
from .sequence_cut import Along, SequenceCut
from .text_encoders import padded_tokens, pooled

if TYPE_CHECKING:
    import numpy
    import torch

else:
    numpy, torch = lazy("numpy"), lazy("torch")


class Flux(Family):
    """The FLUX.1 family; `Family` documents each member.

    The option `embedded` of cfg.split is the pipeline's `guidance_scale`; `scale` is its `true_cfg_scale`. FLUX.1-dev
    takes `embedded`; FLUX.1-schnell does not.
    """

    name = "flux"
    pipelines: tuple[str, ...] = ("FluxPipeline",)
    neutral_scale = 1.0  # FluxPipeline.__call__: do_true_cfg = true_cfg_scale > 1 and a negative prompt
    embedded_guidance = True
    max_length = 512  # FluxPipeline.__call__(max_sequence_length=512) for T5; CLIP keeps 77
    blocks = Blocks(
        {"transformer_blocks": "num_layers", "single_transformer_blocks": "num_single_layers"},
        takes_text=True,
        returns=("text", "hidden"),
        per_row=("temb",),
    )
    sequence = SequenceCut(("attn",), text=True, arguments={"image_rotary_emb": Along(0, ("text", "hidden"))})

    def size(self, width: int, height: int, frames: int, configs: Configs) -> Size:
        return images.whole(width, height, images.scale_factor(configs.get("vae", {})))

    def latent_shape(self, size: Size, batch: int, configs: Configs) -> tuple[int, ...]:
        factor = images.scale_factor(configs.get("vae", {}))
        channels = configs.get("transformer", {}).get("in_channels", 64) // images.PATCH**2
        return (batch, channels, size.height // factor, size.width // factor)

    def pack(self, latents: torch.Tensor) -> torch.Tensor:
        return images.pack(latents)

    def unpack(self, latents: torch.Tensor, size: Size, configs: Configs) -> torch.Tensor:
        _, _, height, width = self.latent_shape(size, 1, configs)
        return images.unpack(latents, height, width)

    def tokens(self, size: Size, configs: Configs) -> int:
        _, _, height, width = self.latent_shape(size, 1, configs)
        return height // images.PATCH * (width // images.PATCH)

    def schedule_arguments(self, steps: int, scheduler: Mapping[str, Any], tokens: int | None) -> dict[str, Any]:
        sigmas = numpy.linspace(1.0, 1 / steps, steps).tolist()
        mu = None if tokens is None else dynamic_shift(scheduler, tokens)
        return images.schedule_arguments(steps, sigmas, scheduler, mu)

    def encode_text(self, model: LoadedModel, prompts: Sequence[str], max_length: int) -> dict[str, torch.Tensor]:
        """Encode prompts.

        Returns:
            `embeddings`: T5's embeddings, [prompts, max_length, width]; `pooled`: CLIP's pooled embedding of each
            prompt, [prompts, width].
        """
        t5 = model.component("text_encoder_2")
        tokens = padded_tokens(model.component("tokenizer_2"), prompts, max_length)
        clip = model.component("tokenizer")
        return {
            "embeddings": t5(tokens.input_ids.to(model.device), output_hidden_states=False)[0].to(t5.dtype),
            "pooled": pooled(model.component("text_encoder"), clip, prompts, clip.model_max_length, model.device),
        }

    def prompts_on_meta(self, transformer: Mapping[str, Any], rows: int) -> dict[str, torch.Tensor]:
        return {
            "embeddings": torch.empty(rows, self.max_length, transformer["joint_attention_dim"], device="meta"),
            "pooled": torch.empty(rows, transformer["pooled_projection_dim"], device="meta"),
        }

    def longest_prompt(self, configs: Configs) -> int | None:
        return 512  # FluxPipeline.check_inputs

    def cut_ends(self, model: LoadedModel, prompt: str, max_length: int) -> list[CutEnd]:
        clip, t5 = model.component("tokenizer"), model.component("tokenizer_2")
        return [
            *marked_end(t5, "T5 (text_encoder_2)", prompt, max_length),
            *marked_end(clip, "CLIP (text_encoder)", prompt, clip.model_max_length, "T5 (text_encoder_2)"),
        ]

    def timesteps(self, values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        return values.to(dtype) / 1000

    def predict(self, model: LoadedModel, transformer: Any, given: DenoiserInput) -> torch.Tensor:
        latents, text = given.latents, given.text
        dtype, device = model.dtype("transformer"), latents.device
        embeddings = text["embeddings"].to(dtype)  # [B, length, width]
        configs = {part: model.config(part) for part in ("vae", "transformer")}
        _, _, height, width = self.latent_shape(given.size, 1, configs)
        rows, columns = (torch.arange(n // images.PATCH, device=device) for n in (height, width))
        positions = torch.cartesian_prod(torch.zeros(1, dtype=rows.dtype, device=device), rows, columns)
        return transformer(
            hidden_states=latents.to(dtype),  # [B, tokens, 4 C]
            timestep=self.timesteps(given.step.value.to(device), latents.dtype).expand(latents.shape[0]),
            guidance=_guidance(transformer, given.embedded, latents),
            pooled_projections=text["pooled"].to(dtype),  # [B, width]
            encoder_hidden_states=embeddings,
            txt_ids=torch.zeros(embeddings.shape[1], 3, device=device, dtype=dtype),
            img_ids=positions.to(dtype),  # [tokens, 3]
            return_dict=False,
        )[0]

    def modulated(self, block: Any, hidden: torch.Tensor, call: Mapping[str, Any]) -> torch.Tensor:
        return block.norm1(hidden, emb=call["temb"])[0]

    def decode(self, model: LoadedModel, latents: torch.Tensor) -> torch.Tensor:
        return images.decode(model.component("vae"), latents)

    def encode(self, model: LoadedModel, frames: torch.Tensor) -> torch.Tensor:
        return images.encode(model.component("vae"), frames)


def _guidance(transformer: Any, embedded: float | None, latents: torch.Tensor) -> torch.Tensor | None:
    """The embedded guidance scale, one entry for each image; None if the transformer takes no guidance scale."""
    if transformer.config.guidance_embeds:
        if embedded is None:
            raise NodeError("this model takes a guidance scale as an input", help="give cfg.split `embedded`, e.g. 3.5")
        return torch.full([1], embedded, device=latents.device, dtype=torch.float32).expand(latents.shape[0])
    if embedded is not None:
        raise NodeError("this model takes no guidance scale as an input", help="leave `embedded` of cfg.split out")
    return None


FLUX: Family = Flux()
