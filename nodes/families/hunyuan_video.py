"""HunyuanVideo, as diffusers' `HunyuanVideoPipeline` runs it.

The pipeline pads every prompt to 256 tokens, and each attention masks the padding. This excludes kernels without masks,
among them the fastest. Here text.encode cuts the padding, and the transformer's blocks run without a mask if no padding
is left (`Unmasked`). The padding has no effect on a frame: masked keys have no weight, and the refiner takes the mean
over the words alone. Only the order of sums changes, so results differ in the last bits. `padding: keep` of text.encode
keeps the padding and the mask; results then equal those of the pipeline bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from ...graph.contract.errors import NodeError
from ..support.lazy import lazy
from ..support.traced_once import traced_once
from ..values import Size
from .base import Blocks, Configs, DenoiserInput, Family, LoadedModel
from .prompt_ends import CutEnd, marked_end, templated_end
from .sequence_cut import Along, SequenceCut
from .text_encoders import hidden_states, padded_tokens, pooled

if TYPE_CHECKING:
    import torch

else:
    torch = lazy("torch")

MASK = "encoder_attention_mask"
CLIP_LENGTH = 77  # HunyuanVideoPipeline.encode_prompt(max_sequence_length=77) for CLIP
TEMPLATE = (  # DEFAULT_PROMPT_TEMPLATE of diffusers' pipeline_hunyuan_video.py
    "<|start_header_id|>system<|end_header_id|>\n\nDescribe the video by detailing the following aspects: "
    "1. The main content and theme of the video."
    "2. The color, shape, size, texture, quantity, text, and spatial relationships of the objects."
    "3. Actions, events, behaviors temporal relationships, physical movement changes of the objects."
    "4. background environment, light, style and atmosphere."
    "5. camera angles, movements, and transitions used in the video:<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>"
)
TEMPLATE_LENGTH = 95  # its `crop_start`: tokens before the prompt
SKIPPED_LAYERS = 2  # `num_hidden_layers_to_skip` of HunyuanVideoPipeline: Llama's last layers
MULTIPLE = 16  # HunyuanVideoPipeline.check_inputs, for every patch size of the transformer
SIGMAS = ("FlowMatchEulerDiscreteScheduler", "UniPCMultistepScheduler")  # `set_timesteps` takes `sigmas`


class HunyuanVideo(Family):
    """The HunyuanVideo family (text to video); `Family` documents each member."""

    name = "hunyuan-video"
    pipelines = ("HunyuanVideoPipeline",)
    neutral_scale = 1.0  # HunyuanVideoPipeline.__call__: true_cfg_scale > 1
    embedded_guidance = True
    max_length = 256  # HunyuanVideoPipeline.__call__(max_sequence_length=256), the template not counted
    rounds = False  # HunyuanVideoPipeline.check_inputs refuses other widths and heights
    rounds_frames = True
    blocks = Blocks(
        {"transformer_blocks": "num_layers", "single_transformer_blocks": "num_single_layers"},
        takes_text=True,
        returns=("hidden", "text"),
        per_row=("temb", "attention_mask", "token_replace_emb"),
    )
    sequence = SequenceCut(
        ("attn",),
        text=True,
        # The blocks of the two lists have different names for the rotary tables, which are those of the image.
        arguments={
            "attention_mask": Along(-1, ("hidden", "text")),
            "freqs_cis": Along(0),
            "image_rotary_emb": Along(0),
        },
    )

    def size(self, width: int, height: int, frames: int, configs: Configs) -> Size:
        _, temporal = _factors(configs)
        return Size(
            width // MULTIPLE * MULTIPLE, height // MULTIPLE * MULTIPLE, (frames - 1) // temporal * temporal + 1
        )

    def latent_shape(self, size: Size, batch: int, configs: Configs) -> tuple[int, ...]:
        spatial, temporal = _factors(configs)
        channels = configs.get("transformer", {}).get("in_channels", 16)
        frames = (size.frames - 1) // temporal + 1
        return (batch, channels, frames, size.height // spatial, size.width // spatial)

    def tokens(self, size: Size, configs: Configs) -> int:
        _, _, frames, height, width = self.latent_shape(size, 1, configs)
        transformer = configs.get("transformer", {})
        patch, patch_frames = transformer.get("patch_size", 2), transformer.get("patch_size_t", 1)
        return int((frames // patch_frames) * (height // patch) * (width // patch))

    def schedule_arguments(self, steps: int, scheduler: Mapping[str, Any], tokens: int | None) -> dict[str, Any]:
        if scheduler.get("_class_name") not in SIGMAS:
            return {"num_inference_steps": steps}
        import numpy as np

        return {"sigmas": np.linspace(1.0, 0.0, steps + 1)[:-1]}

    def encode_text(self, model: LoadedModel, prompts: Sequence[str], max_length: int) -> dict[str, torch.Tensor]:
        """Encode prompts: Llama's embeddings without the tokens of the template, and CLIP's pooled embedding.

        Returns:
            `encoder_hidden_states` [B, max_length, 4096], `encoder_attention_mask` [B, max_length] (0 for padding)
            and `pooled_projections` [B, 768]. The mask stays on the CPU: its values decide whether the transformer
            runs with a mask, and reading them must not wait for the GPU.
        """
        start, _ = _in_template("")
        texts = [_in_template(prompt)[1] for prompt in prompts]
        tokens = padded_tokens(model.component("tokenizer"), texts, max_length + start)
        llama, device = model.component("text_encoder"), model.device
        made = hidden_states(llama, tokens, device)[-1 - SKIPPED_LAYERS]
        clip, clip_tokens = model.component("text_encoder_2"), model.component("tokenizer_2")
        return {
            "encoder_hidden_states": made.to(llama.dtype)[:, start:].contiguous(),  # as `repeat` leaves it
            MASK: tokens.attention_mask[:, start:],
            "pooled_projections": pooled(clip, clip_tokens, prompts, CLIP_LENGTH, device),
        }

    def prompts_on_meta(self, transformer: Mapping[str, Any], rows: int) -> dict[str, torch.Tensor]:
        return {
            "encoder_hidden_states": torch.empty(rows, self.max_length, transformer["text_embed_dim"], device="meta"),
            MASK: torch.ones(rows, self.max_length),
            "pooled_projections": torch.empty(rows, transformer["pooled_projection_dim"], device="meta"),
        }

    def cut_padding(self, text: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Cut padding that all rows have; rows that are shorter than the longest stay padded and masked."""
        used = text[MASK].any(dim=0).nonzero()
        length = int(used[-1]) + 1 if len(used) else 1
        cut = {name: text[name][:, :length] for name in ("encoder_hidden_states", MASK)}
        return {**text, **cut}

    def join(self, texts: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        length = max(text[MASK].shape[1] for text in texts)
        padded = []
        for text in texts:
            missing = length - text[MASK].shape[1]
            embeddings = torch.nn.functional.pad(text["encoder_hidden_states"], (0, 0, 0, missing))
            mask = torch.nn.functional.pad(text[MASK], (0, missing))
            padded.append({**text, "encoder_hidden_states": embeddings, MASK: mask})
        return super().join(padded)

    def longest_prompt(self, configs: Configs) -> int | None:
        positions = configs.get("text_encoder", {}).get("max_position_embeddings")
        return None if positions is None else positions - TEMPLATE_LENGTH

    def cut_ends(self, model: LoadedModel, prompt: str, max_length: int) -> list[CutEnd]:
        llama, clip = model.component("tokenizer"), model.component("tokenizer_2")
        start, text = _in_template(prompt)
        _, empty = _in_template("{}")
        return [
            *templated_end(llama, "Llama (text_encoder)", text, empty.rpartition("{}")[2], start, max_length),
            *marked_end(clip, "CLIP (text_encoder_2)", prompt, CLIP_LENGTH, "Llama (text_encoder)"),
        ]

    def predict(self, model: LoadedModel, transformer: Any, given: DenoiserInput) -> torch.Tensor:
        if given.image is not None:
            raise NodeError("this model generates videos from text alone and takes no image", help="leave `image` out")
        latents, text = given.latents, given.text
        dtype, device, batch = model.dtype("transformer"), latents.device, latents.shape[0]
        mask = text[MASK]  # [B, length]
        with nullcontext() if (mask == 0).any() else unmasked(transformer):
            return transformer(
                hidden_states=latents.to(dtype),  # [B, C, F, H, W]
                timestep=self.timesteps(given.step.value.to(device), latents.dtype).expand(batch),
                encoder_hidden_states=text["encoder_hidden_states"].to(dtype),  # [B, length, width]
                encoder_attention_mask=mask.to(device, dtype),
                pooled_projections=text["pooled_projections"].to(dtype),  # [B, width]
                guidance=_guidance(transformer, given.embedded, batch, dtype, device),
                return_dict=False,
            )[0]

    def modulated(self, block: Any, hidden: torch.Tensor, call: Mapping[str, Any]) -> torch.Tensor:
        return block.norm1(hidden, emb=call["temb"])[0]

    def decode(self, model: LoadedModel, latents: torch.Tensor) -> torch.Tensor:
        from diffusers.video_processor import VideoProcessor

        vae = model.component("vae")
        with _tiles_on_meta(vae) if latents.is_meta else nullcontext():
            video = vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor, return_dict=False)[0]
        frames = VideoProcessor(vae_scale_factor=1).postprocess_video(video, output_type="pt")  # [B, F, 3, H, W]
        return frames.permute(0, 1, 3, 4, 2).float()

    def encode(self, model: LoadedModel, frames: torch.Tensor) -> torch.Tensor:
        vae = model.component("vae")
        video = (frames.permute(0, 4, 1, 2, 3) * 2.0 - 1.0).to(vae.dtype)
        with _tiles_on_meta(vae) if frames.is_meta else nullcontext():
            return vae.encode(video).latent_dist.mode().float() * vae.config.scaling_factor


class Unmasked:
    """An attention processor that drops the mask, for calls in which the mask hides nothing.

    It shares the attention backend of the wrapped processor, because `set_attention_backend` may change the backend
    while the transformer runs.
    """

    drops_mask = True  # `nodes/models/rebuilt` reads it

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    @property
    def _attention_backend(self) -> Any:
        return self.processor._attention_backend

    @_attention_backend.setter
    def _attention_backend(self, backend: Any) -> None:
        self.processor._attention_backend = backend

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: Any = None,
    ) -> Any:
        position = {} if image_rotary_emb is None else {"image_rotary_emb": image_rotary_emb}
        return self.processor(attn, hidden_states, encoder_hidden_states, None, **position)


@contextmanager
def unmasked(transformer: Any) -> Iterator[None]:
    """Run the transformer's attention without a mask inside `with`. Forward makes a mask even if nothing is padded."""
    refiner = transformer.context_embedder.token_refiner.refiner_blocks
    blocks = (*refiner, *transformer.transformer_blocks, *transformer.single_transformer_blocks)
    attentions = [block.attn for block in blocks]
    processors = [attention.processor for attention in attentions]
    for attention, processor in zip(attentions, processors, strict=True):
        attention.processor = Unmasked(processor)
    try:
        yield
    finally:
        for attention, processor in zip(attentions, processors, strict=True):
            attention.processor = processor


@contextmanager
def _tiles_on_meta(vae: Any) -> Iterator[None]:
    """Trace one tile of each shape in a plan, and skip the blending of tiles, which writes into existing tiles.

    At 720p the VAE works in 308 tiles of eight shapes. Tracing all of them would take most of a plan's time.
    """
    blends = ("blend_v", "blend_h", "blend_t")
    with ExitStack() as stack:
        for part in (vae.encoder, vae.decoder):
            stack.enter_context(traced_once(part, "forward"))
        for name in blends:
            setattr(vae, name, _second)
        try:
            yield
        finally:
            for name in blends:
                delattr(vae, name)


def _second(above: Any, tile: Any, extent: int) -> Any:
    return tile


def _guidance(transformer: Any, embedded: float | None, batch: int, dtype: torch.dtype, device: Any) -> Any:
    """The embedded guidance scale of each clip times 1000, rounded as in the pipeline."""
    if not transformer.config.guidance_embeds:
        if embedded is not None:
            raise NodeError("this model takes no guidance scale as an input", help="leave `embedded` of cfg.split out")
        return None
    if embedded is None:
        raise NodeError(
            "this model takes a guidance scale as an input, but cfg.split has no `embedded`",
            help="set `embedded` of cfg.split; the default of the family's pipeline is 6.0",
        )
    return torch.tensor([embedded] * batch, dtype=dtype, device=device) * 1000.0


def _factors(configs: Configs) -> tuple[int, int]:
    """Pixels per side and frames of one latent; the defaults come from `AutoencoderKLHunyuanVideo`."""
    vae = configs.get("vae", {})
    return vae.get("spatial_compression_ratio", 8), vae.get("temporal_compression_ratio", 4)


def _in_template(prompt: str) -> tuple[int, str]:
    """The number of template tokens before the prompt, and the template with the prompt."""
    return TEMPLATE_LENGTH, TEMPLATE.format(prompt)


HUNYUAN_VIDEO: Family = HunyuanVideo()
