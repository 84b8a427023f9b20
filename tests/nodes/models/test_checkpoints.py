"""One-file checkpoints of every family and layout: a loaded component is the one that was saved, bit for bit."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from helpers import checkpoint_layouts as layouts
from helpers import node_facts, tiny, tiny_flux, tiny_hunyuan_video, tiny_qwen_image, tiny_wan_image, tiny_z_image
from helpers.direct import DirectRun
from safetensors.torch import save_file
from sgd.nodes.models.memory.idle_components import stamp
from sgd.nodes.models.memory.weights import Early
from sgd.nodes.models.nodes.model_load import load


class Case(NamedTuple):
    """A component, and its layout in a file."""

    pipeline: str
    part: str
    build: Any
    layout: Any


def _i2v() -> Any:
    return tiny.wan_transformer(channels=36, image_dim=20, added_kv_proj_dim=24, pos_embed_seq_len=10)


CASES = {
    "wan-own": Case("WanPipeline", "transformer", tiny.wan_transformer, layouts.wan),
    "wan-comfy": Case(
        "WanPipeline", "transformer", tiny.wan_transformer, layouts.prefixed("model.diffusion_model.", layouts.wan)
    ),
    "wan-diffusers": Case("WanPipeline", "transformer", tiny.wan_transformer, layouts.same),
    "wan-image": Case("WanImageToVideoPipeline", "transformer", _i2v, layouts.wan),
    "wan-second-expert": Case("WanPipeline", "transformer_2", tiny.wan_transformer, layouts.wan),
    "flux-own": Case("FluxPipeline", "transformer", lambda: tiny_flux.transformer(True), layouts.flux),
    "flux-schnell": Case("FluxPipeline", "transformer", lambda: tiny_flux.transformer(False), layouts.flux),
    "flux-comfy": Case(
        "FluxPipeline",
        "transformer",
        lambda: tiny_flux.transformer(True),
        layouts.prefixed("model.diffusion_model.", layouts.flux),
    ),
    "flux-diffusers": Case("FluxPipeline", "transformer", lambda: tiny_flux.transformer(True), layouts.same),
    "hunyuan-own": Case("HunyuanVideoPipeline", "transformer", tiny_hunyuan_video.transformer, layouts.hunyuan),
    "hunyuan-comfy": Case("HunyuanVideoPipeline", "transformer", tiny_hunyuan_video.transformer, layouts.hunyuan_comfy),
    "hunyuan-prefix": Case(
        "HunyuanVideoPipeline",
        "transformer",
        tiny_hunyuan_video.transformer,
        layouts.prefixed("model.model.", layouts.hunyuan),
    ),
    "qwen-image": Case("QwenImagePipeline", "transformer", tiny_qwen_image.transformer, layouts.same),
    "qwen-image-comfy": Case(
        "QwenImagePipeline", "transformer", tiny_qwen_image.transformer, layouts.prefixed("model.diffusion_model.")
    ),
    "z-image-own": Case("ZImagePipeline", "transformer", tiny_z_image.transformer, layouts.z_image),
    "z-image-comfy": Case(
        "ZImagePipeline",
        "transformer",
        tiny_z_image.transformer,
        layouts.prefixed("model.diffusion_model.", layouts.z_image),
    ),
    "z-image-diffusers": Case("ZImagePipeline", "transformer", tiny_z_image.transformer, layouts.same),
    "wan-vae": Case("WanPipeline", "vae", tiny.wan_vae, layouts.wan_vae),
    "wan-vae-diffusers": Case("WanPipeline", "vae", tiny.wan_vae, layouts.prefixed("vae.")),
    "wan22-vae": Case(
        "WanPipeline", "vae", lambda: tiny_wan_image.ti2v().vae, lambda state: layouts.wan22_vae(state, 1)
    ),
    "qwen-image-vae": Case("QwenImagePipeline", "vae", tiny_qwen_image.vae, layouts.wan_vae),
    "flux-vae": Case("FluxPipeline", "vae", tiny_flux.vae, layouts.kl_vae),
    "flux-vae-whole-model": Case(
        "FluxPipeline", "vae", tiny_flux.vae, layouts.prefixed("first_stage_model.", layouts.kl_vae)
    ),
    "z-image-vae": Case("ZImagePipeline", "vae", tiny_z_image.vae, layouts.kl_vae),
    "hunyuan-vae": Case("HunyuanVideoPipeline", "vae", tiny_hunyuan_video.vae, layouts.same),
    "hunyuan-vae-comfy": Case("HunyuanVideoPipeline", "vae", tiny_hunyuan_video.vae, layouts.kl_vae),
    "umt5-own": Case("WanPipeline", "text_encoder", tiny.umt5_encoder, layouts.wan_t5),
    "umt5-comfy": Case("WanPipeline", "text_encoder", tiny.umt5_encoder, layouts.comfy_t5),
    "t5-comfy": Case("FluxPipeline", "text_encoder_2", tiny_flux.t5, layouts.comfy_t5),
    "t5-encoder-table-only": Case("FluxPipeline", "text_encoder_2", tiny_flux.t5, layouts.without("shared.weight")),
    "clip-comfy": Case("FluxPipeline", "text_encoder", tiny_flux.clip, layouts.comfy_clip),
    "clip-whole-model": Case(
        "FluxPipeline",
        "text_encoder",
        tiny_flux.clip,
        layouts.prefixed("text_encoders.clip_l.transformer.", layouts.comfy_clip),
    ),
    "llama-comfy": Case("HunyuanVideoPipeline", "text_encoder", tiny_hunyuan_video.llama, layouts.causal),
    "llama-in-llava": Case(
        "HunyuanVideoPipeline",
        "text_encoder",
        tiny_hunyuan_video.llama,
        layouts.prefixed("language_model.", layouts.causal),
    ),
    "qwen3-comfy": Case("ZImagePipeline", "text_encoder", tiny_z_image.text_encoder, layouts.causal),
    "qwen-vl-comfy": Case("QwenImagePipeline", "text_encoder", tiny_qwen_image.text_encoder, layouts.older_qwen_vl),
}


def equal(module: Any, expected: Any) -> bool:
    own, theirs = module.state_dict(), expected.state_dict()
    return own.keys() == theirs.keys() and all(
        torch.equal(own[key], theirs[key]) and own[key].dtype == theirs[key].dtype for key in own
    )


@pytest.mark.parametrize("name", CASES)
def test_a_component_from_one_file_is_the_one_that_was_saved(name, tmp_path):
    case = CASES[name]
    module = layouts.filled(case.build())
    folder = layouts.source(tmp_path / "model", case.pipeline, **{case.part: module})
    file = tmp_path / "checkpoint"  # the content decides, and no suffix
    save_file({key: tensor.contiguous() for key, tensor in case.layout(module.state_dict()).items()}, file)

    assert node_facts.check(load, source=str(folder), **{case.part: str(file)}) == []
    run = DirectRun()
    model = load(run, str(folder), **{case.part: str(file)})
    model.acquire(case.part, run)
    assert equal(model.component(case.part), module)
    assert run.warnings == []
    assert all(p.data_ptr() % 64 == 0 and not p.requires_grad for p in model.component(case.part).parameters())

    early = load(run, str(folder), **{case.part: str(file)})
    tensors = early.weights.read_early(case.part, run, bool)  # by another thread than that of the plan
    early.weights.early[case.part] = Early(tensors, stamp([file]))
    early.acquire(case.part, run)
    assert equal(early.component(case.part), module)
    used = {p.data_ptr() for p in early.component(case.part).parameters()}
    assert {tensor.data_ptr() for tensor in tensors.values()} == used
    assert early.weights.read_early(case.part, run, lambda: True) is None
