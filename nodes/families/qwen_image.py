"""Qwen-Image, as diffusers' `QwenImagePipeline` runs it."""

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
from .text_encoders import hidden_states, own_rows, padded_rows
from .wan import statistics

if TYPE_CHECKING:
    import numpy
    import torch

else:
    numpy, torch = lazy("numpy"), lazy("torch")


POSITIONS = 4096  # QwenEmbedRope of diffusers' transformer_qwenimage.py
LONGEST = 1024  # QwenImagePipeline.check_inputs, and its tokenizer_max_length
TEMPLATE = (  # `prompt_template_encode` of QwenImagePipeline
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial "
    "relationships of the objects and background:<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
TEMPLATE_LENGTH = 34  # its `prompt_template_encode_start_idx`: tokens before the prompt


class QwenImage(Family):
    """The Qwen-Image family; `Family` documents each member.

    The VAE is a video VAE. So latents have a frame dimension of length 1 outside of the denoise loop.
    """

    name = "qwen-image"
    pipelines: tuple[str, ...] = ("QwenImagePipeline",)
    neutral_scale = 1.0  # QwenImagePipeline.__call__: do_true_cfg = true_cfg_scale > 1 and a negative prompt
    embedded_guidance = False
    max_length = 512  # QwenImagePipeline.__call__(max_sequence_length=512)
    normalises = True
    batches_guidance = True  # the text's weights, which one prompt reads as slowly as two, are read once
    blocks = Blocks(
        {"transformer_blocks": "num_layers"},
        takes_text=True,
        returns=("text", "hidden"),
        per_row=("encoder_hidden_states_mask", "temb", "modulate_index"),
    )
    sequence = SequenceCut(
        ("attn",),
        text=True,
        arguments={
            "encoder_hidden_states_mask": Along(1, ("text",)),
            "image_rotary_emb": (Along(0), Along(0, ("text",))),
            "modulate_index": Along(1),
        },
    )

    def size(self, width: int, height: int, frames: int, configs: Configs) -> Size:
        return images.whole(width, height, _factor(configs))

    def size_limit(self, configs: Configs) -> SizeLimit | None:
        side = 2 * POSITIONS * images.PATCH * _factor(configs)  # positions run from the middle in both directions
        return SizeLimit(Size(side, side), f"the {POSITIONS} positions of its transformer in each direction")

    def latent_shape(self, size: Size, batch: int, configs: Configs) -> tuple[int, ...]:
        factor = _factor(configs)
        channels = configs.get("transformer", {}).get("in_channels", 64) // images.PATCH**2
        return (batch, channels, 1, size.height // factor, size.width // factor)

    def pack(self, latents: torch.Tensor) -> torch.Tensor:
        return images.pack(latents[:, :, 0])

    def unpack(self, latents: torch.Tensor, size: Size, configs: Configs) -> torch.Tensor:
        *_, height, width = self.latent_shape(size, 1, configs)
        return images.unpack(latents, height, width).unsqueeze(2)

    def tokens(self, size: Size, configs: Configs) -> int:
        *_, height, width = self.latent_shape(size, 1, configs)
        return height // images.PATCH * (width // images.PATCH)

    def schedule_arguments(self, steps: int, scheduler: Mapping[str, Any], tokens: int | None) -> dict[str, Any]:
        sigmas = numpy.linspace(1.0, 1 / steps, steps).tolist()
        mu = None if tokens is None else dynamic_shift(scheduler, tokens)
        return images.schedule_arguments(steps, sigmas, scheduler, mu)

    def encode_text(self, model: LoadedModel, prompts: Sequence[str], max_length: int) -> dict[str, torch.Tensor]:
        """Encode prompts.

        Returns:
            `embeddings`: [prompts, max_length, width], zeros after the end of each prompt; `lengths`: [prompts],
            int64, always on the CPU, because shapes depend on them.
        """
        texts = [TEMPLATE.format(prompt) for prompt in prompts]
        tokens = model.component("tokenizer")(
            texts, max_length=LONGEST + TEMPLATE_LENGTH, padding=True, truncation=True, return_tensors="pt"
        )
        encoder = model.component("text_encoder")
        made = hidden_states(encoder, tokens, model.device)[-1].to(encoder.dtype)
        rows = own_rows(made, tokens.attention_mask, model.device)
        return padded_rows([row[TEMPLATE_LENGTH:][:max_length] for row in rows], max_length)

    def prompts_on_meta(self, transformer: Mapping[str, Any], rows: int) -> dict[str, torch.Tensor]:
        lengths, width = range(self.max_length, self.max_length - rows, -1), transformer["joint_attention_dim"]
        return padded_rows([torch.empty(length, width, device="meta") for length in lengths], self.max_length)

    def longest_prompt(self, configs: Configs) -> int | None:
        return LONGEST

    def cut_ends(self, model: LoadedModel, prompt: str, max_length: int) -> list[CutEnd]:
        tokenizer = model.component("tokenizer")
        end = TEMPLATE.rpartition("{}")[2]
        text = TEMPLATE.format(prompt)
        return templated_end(tokenizer, "Qwen2.5-VL (text_encoder)", text, end, TEMPLATE_LENGTH, max_length)

    def timesteps(self, values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        return values.to(dtype) / 1000

    def predict(self, model: LoadedModel, transformer: Any, given: DenoiserInput) -> torch.Tensor:
        latents, text = given.latents, given.text
        dtype, device, batch = model.dtype("transformer"), latents.device, latents.shape[0]
        lengths = text["lengths"]  # [B]
        longest = int(lengths.max())
        # As in the pipeline: pad to the longest prompt of the batch, without a mask if all prompts are equally long.
        mask = None if bool((lengths == longest).all()) else torch.arange(longest) < lengths[:, None]
        configs = {part: model.config(part) for part in ("vae", "transformer")}
        *_, height, width = self.latent_shape(given.size, 1, configs)
        if longest > (most := POSITIONS - max(height, width) // images.PATCH // 2):
            message = f"a prompt has {longest} tokens, but for images of {given.size} this model takes at most {most}"
            raise NodeError(message, help="shorten the prompt, or make a smaller image")
        return transformer(
            hidden_states=latents.to(dtype),  # [B, tokens, 4 C]
            timestep=self.timesteps(given.step.value.to(device), latents.dtype).expand(batch),
            encoder_hidden_states=text["embeddings"][:, :longest].to(dtype),  # [B, length, width]
            encoder_hidden_states_mask=None if mask is None else mask.to(device),
            img_shapes=[[(1, height // images.PATCH, width // images.PATCH)]] * batch,
            return_dict=False,
        )[0]

    def modulated(self, block: Any, hidden: torch.Tensor, call: Mapping[str, Any]) -> torch.Tensor:
        first, _ = block.img_mod(call["temb"]).chunk(2, dim=-1)
        return block._modulate(block.img_norm1(hidden), first, call.get("modulate_index"))[0]

    def normalise(self, guided: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
        """Scale each token's guided prediction to the norm of its positive prediction."""
        wanted = torch.norm(positive, dim=-1, keepdim=True)
        return guided * (wanted / torch.norm(guided, dim=-1, keepdim=True))

    def decode(self, model: LoadedModel, latents: torch.Tensor) -> torch.Tensor:
        vae = model.component("vae")
        latents = latents.to(vae.dtype)
        mean, inverse_std = statistics(vae, latents)
        return images.to_frames(vae.decode(latents / inverse_std + mean, return_dict=False)[0][:, :, 0])

    def encode(self, model: LoadedModel, frames: torch.Tensor) -> torch.Tensor:
        vae = model.component("vae")
        made = vae.encode(images.to_images(frames).unsqueeze(2).to(vae.dtype)).latent_dist.mode().float()
        mean, inverse_std = statistics(vae, made)
        return (made - mean) * inverse_std


def _factor(configs: Configs) -> int:
    """Pixels per side of one latent, as in QwenImagePipeline; 8 if the VAE is not known."""
    vae = configs.get("vae", {})
    return 2 ** len(vae["temperal_downsample"]) if "temperal_downsample" in vae else 8


QWEN_IMAGE: Family = QwenImage()
