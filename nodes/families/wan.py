"""Wan 2.1 and 2.2, as diffusers' `WanPipeline` and `WanImageToVideoPipeline` run them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...graph.contract.errors import NodeError
from ..models.memory import block_groups
from ..support.lazy import lazy
from ..values import Size
from .base import Blocks, Configs, DenoiserInput, Family, LoadedModel, SizeLimit
from .dynamic_shift import dynamic_shift
from .prompt_ends import CutEnd, marked_end
from .sequence_cut import Along, SequenceCut
from .text_encoders import cleaned, padded_tokens

if TYPE_CHECKING:
    import torch
    from PIL import Image

else:
    torch = lazy("torch")

CLIP_TOKENS = 257
"""Tokens of an image in the embedding of CLIP's encoder, as Wan 2.1 takes it."""


class Wan(Family):
    """The Wan family; `Family` documents each member."""

    name = "wan"
    pipelines: tuple[str, ...] = ("WanPipeline", "WanImageToVideoPipeline")
    neutral_scale = 1.0  # WanPipeline.do_classifier_free_guidance: guidance_scale > 1
    embedded_guidance = False
    max_length = 512  # WanPipeline.__call__(max_sequence_length=512)
    float32 = ("vae", "image_encoder")  # diffusers, docs/source/en/api/pipelines/wan.md
    blocks = Blocks({"blocks": "num_layers"}, takes_text=True, returns=("hidden",), per_row=("temb",))
    # A model of Wan 2.2 TI2V has a timestep for each token. Keys of text are whole.
    sequence = SequenceCut(("attn1",), arguments={"rotary_emb": Along(1), "temb": Along(1, rank=4)})
    time_modules = tuple(f"condition_embedder.{name}" for name in ("timesteps_proj", "time_embedder", "time_proj"))

    def size(self, width: int, height: int, frames: int, configs: Configs) -> Size:
        spatial, temporal = _factors(configs)
        _, patch_height, patch_width = _patch(configs)
        multiple_height, multiple_width = spatial * patch_height, spatial * patch_width
        if frames % temporal != 1:
            frames = frames // temporal * temporal + 1
        width, height = width // multiple_width * multiple_width, height // multiple_height * multiple_height
        return Size(width, height, max(frames, 1))

    def size_limit(self, configs: Configs) -> SizeLimit | None:
        if "transformer" not in configs:
            return None
        positions = configs["transformer"].get("rope_max_seq_len", 1024)  # of WanTransformer3DModel
        spatial, temporal = _factors(configs)
        patch_frames, patch_height, patch_width = _patch(configs)
        largest = Size(
            positions * patch_width * spatial,
            positions * patch_height * spatial,
            (positions * patch_frames - 1) * temporal + 1,
        )
        return SizeLimit(largest, f"`rope_max_seq_len` {positions} of its transformer")

    def latent_shape(self, size: Size, batch: int, configs: Configs) -> tuple[int, ...]:
        spatial, temporal = _factors(configs)
        channels = configs.get("vae", {}).get("z_dim", 16)
        frames = (size.frames - 1) // temporal + 1
        return (batch, channels, frames, size.height // spatial, size.width // spatial)

    def tokens(self, size: Size, configs: Configs) -> int:
        _, _, frames, height, width = self.latent_shape(size, 1, configs)
        patch_frames, patch_height, patch_width = _patch(configs)
        return (frames // patch_frames) * (height // patch_height) * (width // patch_width)

    def schedule_arguments(self, steps: int, scheduler: Mapping[str, Any], tokens: int | None) -> dict[str, Any]:
        arguments: dict[str, Any] = {"num_inference_steps": steps}
        if tokens is not None:
            arguments["mu"] = dynamic_shift(scheduler, tokens)
        return arguments

    def encode_text(self, model: LoadedModel, prompts: Sequence[str], max_length: int) -> dict[str, torch.Tensor]:
        tokens = padded_tokens(model.component("tokenizer"), [cleaned(prompt) for prompt in prompts], max_length)
        encoder, device = model.component("text_encoder"), model.device
        made = encoder(tokens.input_ids.to(device), tokens.attention_mask.to(device)).last_hidden_state
        # The mask stays on the CPU: shapes depend on its values.
        rows = [row[:length] for row, length in zip(made, tokens.attention_mask.sum(dim=1).tolist(), strict=True)]
        whole = [torch.cat([row, row.new_zeros(max_length - len(row), row.shape[1])]) for row in rows]
        return {"encoder_hidden_states": torch.stack(whole).to(encoder.dtype)}

    def prompts_on_meta(self, transformer: Mapping[str, Any], rows: int) -> dict[str, torch.Tensor]:
        return {"encoder_hidden_states": torch.empty(rows, self.max_length, transformer["text_dim"], device="meta")}

    def image_on_meta(self, transformer: Mapping[str, Any], latents: torch.Tensor) -> dict[str, torch.Tensor] | None:
        if not self.needs_image({"transformer": transformer}):
            return None
        more = transformer["in_channels"] - latents.shape[1]
        tensors = {"latents": latents.new_empty(len(latents), more, *latents.shape[2:])}
        if _reads_clip(transformer):
            images = 1 if transformer.get("pos_embed_seq_len") is None else 2
            tensors["embedding"] = latents.new_empty(len(latents), images * CLIP_TOKENS, transformer["image_dim"])
        return tensors

    def cut_ends(self, model: LoadedModel, prompt: str, max_length: int) -> list[CutEnd]:
        tokenizer = model.component("tokenizer")
        return marked_end(tokenizer, "UMT5 (text_encoder)", cleaned(prompt), max_length)

    def image_parts(self, configs: Configs) -> tuple[str, ...]:
        return ("vae", "image_processor", "image_encoder") if _reads_clip(configs["transformer"]) else ("vae",)

    def needs_image(self, configs: Configs) -> bool:
        transformer = configs.get("transformer", {})
        # The mask and the latents of an image are additional channels. 16 is the default of the transformer's class.
        return bool(transformer.get("in_channels", 16) != transformer.get("out_channels", 16))

    def image_problem(self, configs: Configs, last: bool) -> str | None:
        transformer = configs.get("transformer", {})
        expands = configs.get("model_index", {}).get("expand_timesteps")
        if not expands and not self.needs_image(configs):
            return "this model generates clips from text alone; image to video needs an I2V or TI2V model"
        if expands and last:
            return "this model takes a first frame only"
        # A model with positions for two images takes a first and a last frame (FLF2V). Without CLIP, a model takes
        # either.
        if _reads_clip(transformer) and last != (transformer.get("pos_embed_seq_len") is not None):
            return f"this model takes {'a first frame only' if last else 'a first and a last frame'}"
        return None

    def encode_image(
        self, model: LoadedModel, image: Image.Image, last: Image.Image | None, size: Size
    ) -> dict[str, torch.Tensor]:
        from ..support.quiet import quiet

        with quiet():  # image processors of diffusers warn if torchvision is missing
            from diffusers import WanImageToVideoPipeline

        pictures = [image] if last is None else [image, last]
        configs = {part: model.config(part) for part in ("model_index", "vae", "transformer")}
        clip = _reads_clip(configs["transformer"])
        device = torch.device(model.device)
        pipeline = WanImageToVideoPipeline(
            tokenizer=None,
            text_encoder=None,
            vae=model.component("vae"),
            scheduler=None,
            image_processor=model.component("image_processor") if clip else None,
            image_encoder=model.component("image_encoder") if clip else None,
            expand_timesteps=_expands_timesteps(model),
        )
        shape = self.latent_shape(size, 1, configs)
        first, *final = (
            pipeline.video_processor.preprocess(picture, height=size.height, width=size.width).to(device, torch.float32)
            for picture in pictures
        )
        # The argument `latents` keeps the pipeline from drawing the noise of the loop here.
        _, condition, *mask = pipeline.prepare_latents(
            image=first,
            batch_size=1,
            num_channels_latents=shape[1],
            height=size.height,
            width=size.width,
            num_frames=size.frames,
            dtype=torch.float32,
            device=device,
            latents=torch.empty(shape, device=device),
            last_image=final[0] if final else None,
        )
        if mask:
            return {"kept": condition, "mask": mask[0]}  # [1, C, 1, H, W], [1, 1, F, H, W]
        tensors = {"latents": condition}  # [1, 4 + C, F, H, W]
        if clip:
            # [1, tokens, width]; two images give the tokens of both.
            tensors["embedding"] = pipeline.encode_image(pictures, device).flatten(0, 1).unsqueeze(0)
        return tensors

    def keep_image(self, latents: torch.Tensor, image: Mapping[str, torch.Tensor]) -> torch.Tensor:
        if "kept" not in image:
            return latents
        return (1 - image["mask"]) * image["kept"] + image["mask"] * latents

    def predict(self, model: LoadedModel, transformer: Any, given: DenoiserInput) -> torch.Tensor:
        latents, image = given.latents, given.image
        dtype = model.dtype("transformer")  # the `dtype` of a module walks all its parameters
        hidden = latents if image is None else self.keep_image(latents, image)
        hidden = hidden.to(dtype)  # [B, C, F, H, W]
        value = given.step.value.to(latents.device)
        arguments = {name: tensor.to(dtype) for name, tensor in given.text.items()}  # [B, length, width]
        if image is not None and "latents" in image:
            # The mask and the latents of the first frame are additional channels; Wan 2.1 takes CLIP's embedding too.
            hidden = torch.cat([hidden, image["latents"].to(dtype)], dim=1)  # [B, C + 4 + C, F, H, W]
            if "embedding" in image:
                # The attention of WanTransformer3DModel tells text from image by this length.
                length = arguments["encoder_hidden_states"].shape[1]
                if length != self.max_length:
                    message = f"with an image, this model takes prompts of {self.max_length} tokens, not of {length}"
                    raise NodeError(message, help="leave `max_length` of text.encode out")
                embedding = image["embedding"].to(dtype)
                if transformer.config.pos_embed_seq_len is not None:  # first and last frame, one after the other
                    embedding = embedding.unflatten(1, (2, -1)).flatten(0, 1)
                arguments["encoder_hidden_states_image"] = embedding
        _require_channels(transformer.config.in_channels, hidden, image is not None)
        if _expands_timesteps(model):
            # Wan 2.2 TI2V takes one timestep per token: 0 for the tokens of a first frame, which have no noise.
            noisy = torch.ones(latents.shape[2:], device=latents.device) if image is None else image["mask"][0, 0]
            timestep = (noisy[:, ::2, ::2] * value).flatten().unsqueeze(0).expand(latents.shape[0], -1)  # [B, tokens]
        else:
            timestep = value.expand(latents.shape[0])  # [B]
        # [B, C, F, H, W]
        return transformer(hidden_states=hidden, timestep=timestep, return_dict=False, **arguments)[0]

    def modulated(self, block: Any, hidden: torch.Tensor, call: Mapping[str, Any]) -> torch.Tensor:
        temb = call["temb"].float()
        table = block.scale_shift_table.unsqueeze(0) if temb.ndim == 4 else block.scale_shift_table
        shift, scale = (table + temb).unbind(-2)[:2]
        if temb.ndim == 3:
            shift, scale = shift.unsqueeze(1), scale.unsqueeze(1)
        return (block.norm1(hidden.float()) * (1 + scale) + shift).type_as(hidden)

    def time_signal(self, transformer: Any, timesteps: torch.Tensor, projected: bool) -> torch.Tensor:
        from torch.func import functional_call

        def whole(module: Any, given: torch.Tensor) -> torch.Tensor:
            # float32 as in Wan's code, on which the polynomials were fitted; diffusers rounds to the model's dtype.
            # Copies, because the module may be offloaded.
            own = (*module.named_parameters(), *module.named_buffers())
            state = {name: tensor.to(given.device, torch.float32, copy=True) for name, tensor in own}
            with block_groups.unhooked(module):
                return functional_call(module, state, (given,))

        embedder = transformer.condition_embedder
        embedded = whole(embedder.time_embedder, embedder.timesteps_proj(timesteps).float())
        return whole(embedder.time_proj, torch.nn.functional.silu(embedded)) if projected else embedded

    def decode(self, model: LoadedModel, latents: torch.Tensor) -> torch.Tensor:
        from diffusers.video_processor import VideoProcessor

        vae = model.component("vae")
        latents = latents.to(vae.dtype)
        mean, inverse_std = statistics(vae, latents)
        given = latents / inverse_std + mean
        if hasattr(vae, "decode_frames"):  # a rebuilt decoder
            found: torch.Tensor | None = vae.decode_frames(given)
            if found is not None:
                return found
        video = vae.decode(given, return_dict=False)[0]  # [B, 3, F, H, W] in [-1, 1]
        frames = VideoProcessor(vae_scale_factor=1).postprocess_video(video, output_type="pt")  # [B, F, 3, H, W]
        return frames.permute(0, 1, 3, 4, 2).float()

    def encode(self, model: LoadedModel, frames: torch.Tensor) -> torch.Tensor:
        vae = model.component("vae")
        video = (frames.permute(0, 4, 1, 2, 3) * 2.0 - 1.0).to(vae.dtype)
        latents = vae.encode(video).latent_dist.mode().float()
        mean, inverse_std = statistics(vae, latents)
        return (latents - mean) * inverse_std


def _factors(configs: Configs) -> tuple[int, int]:
    """Pixels per side and frames of one latent; the defaults come from `AutoencoderKLWan`."""
    vae = configs.get("vae", {})
    return vae.get("scale_factor_spatial", 8), vae.get("scale_factor_temporal", 4)


def _patch(configs: Configs) -> tuple[int, int, int]:
    frames, height, width = configs.get("transformer", {}).get("patch_size", (1, 2, 2))
    return frames, height, width


def _reads_clip(transformer: Mapping[str, Any]) -> bool:
    return transformer.get("image_dim") is not None


def statistics(vae: Any, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and inverse standard deviation of the VAE's latents, rounded as the pipelines round them."""
    shape = (1, vae.config.z_dim, 1, 1, 1)
    mean = torch.tensor(vae.config.latents_mean).view(shape).to(latents.device, latents.dtype)
    std = torch.tensor(vae.config.latents_std).view(shape).to(latents.device, latents.dtype)
    return mean, 1.0 / std


def _expands_timesteps(model: LoadedModel) -> bool:
    return bool(model.config("model_index").get("expand_timesteps", False))


def _require_channels(channels: int, hidden: torch.Tensor, with_image: bool) -> None:
    if hidden.shape[1] != channels:
        given = f"{hidden.shape[1]} were given {'with' if with_image else 'without'} an image"
        message = f"this model takes {channels} channels, but {given}"
        raise NodeError(message, help="image-to-video models need `image`; other models take no image")


WAN: Family = Wan()
