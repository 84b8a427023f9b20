"""The components of the embedded model in one place: their configurations, and how they are written.

Sizes are chosen for two things: all files together stay below 20 MB in float16, and a clip of
96 x 96 pixels and 17 frames takes a few seconds on two processor cores.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from clips import COLORS, MOTIONS, SHAPES, SIZES
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

LATENT_CHANNELS = 16
TEXT_DIM = 128
SHIFT = 3.0  # timestep shift of the shipped scheduler

WORDS = COLORS + SHAPES + MOTIONS + SIZES
WORDS += ["a", "an", "the", "on", "over", "in", "of", "to", "with"]
WORDS += ["is", "that", "and", "it", "we", "see", "at", "front", "against"]
WORDS += ["background", "gradient", "shape", "video", "animation", "shows", "showing", "clip", "tiny"]
WORDS += ["little", "big", "huge", "moving", "moves", "move", "going", "sliding", "grows"]
WORDS += ["grow", "shrinks", "shrink", "getting", "larger", "bigger", "smaller", "expanding", "contracting"]
WORDS += ["leftward", "rightward", "upward", "downward"]
PAD, END, UNKNOWN = 0, 1, 2


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token per known word; case and punctuation do not matter; any other word becomes <unk>."""
    vocabulary = {"<pad>": PAD, "</s>": END, "<unk>": UNKNOWN}
    for word in WORDS:
        vocabulary.setdefault(word, len(vocabulary))
    while len(vocabulary) % 16:
        vocabulary[f"<extra_{len(vocabulary)}>"] = len(vocabulary)
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(Regex(r"[^\p{L}\p{N}_]+"), " ")]
    )
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", END)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=512,
        padding_side="right",
    )


def make_text_encoder(vocabulary: int) -> UMT5EncoderModel:
    """A two-layer UMT5 encoder. Its position biases start wide: with the library's narrow start it
    reads a caption as a bag of words and cannot tell the shape's colour from the background's."""
    encoder = UMT5EncoderModel(
        UMT5Config(
            vocab_size=vocabulary,
            d_model=TEXT_DIM,
            d_kv=32,
            d_ff=256,
            num_layers=2,
            num_heads=4,
            relative_attention_num_buckets=16,
            relative_attention_max_distance=32,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
            pad_token_id=PAD,
            eos_token_id=END,
            decoder_start_token_id=PAD,
            use_cache=False,
        )
    )
    for name, parameter in encoder.named_parameters():
        if "relative_attention_bias" in name:
            torch.nn.init.normal_(parameter, std=1.0)
    return encoder


def make_vae() -> AutoencoderKLWan:
    """8x smaller in space (2 of it by pixel patches), 4x in time, 16 latent channels."""
    return AutoencoderKLWan(
        base_dim=24,
        decoder_base_dim=24,
        z_dim=LATENT_CHANNELS,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        latents_mean=[0.0] * LATENT_CHANNELS,
        latents_std=[1.0] * LATENT_CHANNELS,
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_temporal=4,
        scale_factor_spatial=8,
    )


def make_transformer() -> WanTransformer3DModel:
    """Eight Wan blocks over 5 x 6 x 6 tokens. Few wide heads: of Wan's rotary frequencies only those
    with a period of a few tokens say anything on so small a grid, and a wide head has more of them."""
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=5,
        attention_head_dim=48,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        text_dim=TEXT_DIM,
        freq_dim=128,
        ffn_dim=768,
        num_layers=8,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        eps=1e-6,
        rope_max_seq_len=128,
    )
    torch.nn.init.zeros_(transformer.proj_out.weight)
    torch.nn.init.zeros_(transformer.proj_out.bias)
    return transformer


def make_pipeline(vae: Any, text_encoder: Any, transformer: Any) -> WanPipeline:
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=SHIFT)
    return WanPipeline(
        tokenizer=make_tokenizer(),
        text_encoder=text_encoder,
        vae=vae,
        transformer=transformer,
        scheduler=scheduler,
    )


def _edit(path: Path, drop: tuple[str, ...] = (), **changes: Any) -> None:
    data = {k: v for k, v in json.loads(path.read_text()).items() if k not in drop}
    path.write_text(json.dumps(data | changes, indent=2, ensure_ascii=False) + "\n")


def save_model(vae: Any, text_encoder: Any, transformer: Any, folder: Path) -> None:
    """Write the float16 model in diffusers layout: safetensors, no trace of the writing machine.

    The tokenizer is recorded as PreTrainedTokenizerFast, the name that all transformers versions know.
    """
    vocabulary = text_encoder.config.vocab_size
    copies = []
    for source, copy in (
        (vae, AutoencoderKLWan.from_config(vae.config)),
        (text_encoder, make_text_encoder(vocabulary)),
        (transformer, WanTransformer3DModel.from_config(transformer.config)),
    ):
        copy.load_state_dict({k: v.detach().float().cpu() for k, v in source.state_dict().items()})
        copies.append(copy.to(torch.float16))
    make_pipeline(*copies).save_pretrained(folder, safe_serialization=True)
    index = json.loads((folder / "model_index.json").read_text())
    index["tokenizer"] = ["transformers", "PreTrainedTokenizerFast"]
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    _edit(folder / "tokenizer" / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    for config in folder.glob("*/*.json"):
        if config.name != "tokenizer.json":
            _edit(config, drop=("_name_or_path", "name_or_path", "is_local", "local_files_only"))
    _edit(folder / "model_index.json", drop=("_name_or_path",))
