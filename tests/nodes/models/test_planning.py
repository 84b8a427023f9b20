"""Counts of the meter, compared with hand counts and with real memory."""

import time

import pytest
import torch
from helpers.direct import BOTH, DirectRun
from sgd.nodes import text
from sgd.nodes.models.nodes.model_load import load
from sgd.nodes.models.repository import dummy
from sgd.nodes.support import cost_meter


@pytest.fixture
def run():
    run = DirectRun()
    run.device, run.planning, run.options = "meta", True, {"device": "cuda"}
    return run


def wan_flops(latent_frames, height, width, *, heads, ffn, layers, text_length=512, text_width=4096):
    """Operations of the matrix products in one call of Wan's transformer. A multiply-add is two operations."""
    d = heads * 128
    tokens = latent_frames * (height // 2) * (width // 2)
    self_attention = 4 * 2 * tokens * d * d + 4 * tokens * tokens * d
    cross_attention = 2 * 2 * tokens * d * d + 2 * 2 * text_length * d * d + 4 * tokens * text_length * d
    feed_forward = 2 * 2 * tokens * d * ffn
    patches = 2 * tokens * d * 4 * (16 + 16)
    condition = 2 * text_length * (text_width * d + d * d) + 2 * (256 * d + d * d + d * 6 * d)
    return layers * (self_attention + cross_attention + feed_forward) + patches + condition


SMALL = {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}


@pytest.mark.parametrize(
    ("config", "sizes", "latent", "teraflops"),
    [
        ({}, {"heads": 40, "ffn": 13824, "layers": 40}, (21, 90, 160), 6523),
        (SMALL, {"heads": 12, "ffn": 8960, "layers": 30}, (21, 60, 104), 283),
    ],
)
def test_counts_of_the_wan_transformer_at_full_size(run, config, sizes, latent, teraflops):
    from diffusers import WanTransformer3DModel

    began = time.perf_counter()
    with cost_meter.runtime(run), cost_meter.meter(run) as meter:
        with cost_meter.building() as count:
            module = dummy.meta_module(WanTransformer3DModel, config, torch.bfloat16)
            count(module)
        loaded = meter.take()
        latents = torch.empty(1, 16, *latent, device="meta", dtype=torch.bfloat16)
        states = torch.empty(1, 512, 4096, device="meta", dtype=torch.bfloat16)
        out = module(latents, torch.ones(1, device="meta"), states, return_dict=False)[0]
        taken = meter.take()
        assert out.shape == latents.shape
        buffers = sum(b.numel() * b.element_size() for b in module.buffers())
        assert loaded == {
            "flops": 0,
            "peak_bytes": dummy.size(module)[1] + buffers,
            "live_bytes": dummy.size(module)[1] + buffers,
            "sent_bytes": 0,
            "dtype": None,
        }
        assert taken["flops"] == wan_flops(*latent, **sizes)
        assert taken["flops"] / 1e12 == pytest.approx(teraflops, rel=1e-3)
        # No attention matrix is counted: beside the weights, only a few hidden states are live.
        hidden = latent[0] * latent[1] * latent[2] // 4 * sizes["heads"] * 128 * 4
        assert taken["peak_bytes"] - loaded["live_bytes"] < 12 * hidden
        del module, latents, states, out
        assert meter.take()["live_bytes"] == 0
    assert time.perf_counter() - began < 30


def test_counts_of_the_wan_decoder_at_full_size(run):
    from diffusers import AutoencoderKLWan

    with cost_meter.runtime(run), cost_meter.meter(run) as meter:
        vae = dummy.meta_module(AutoencoderKLWan, {}, torch.float32)
        frames = vae.decode(torch.empty(1, 16, 21, 60, 104, device="meta"), return_dict=False)[0]
        assert frames.shape == (1, 3, 81, 480, 832)
        assert meter.take()["flops"] / 1e12 == pytest.approx(275.4, abs=0.1)


def test_counts_of_a_text_encoder_at_full_size(run):
    model = load(run, "Wan-AI/Wan2.1-T2V-1.3B-Diffusers")
    with cost_meter.runtime(run), cost_meter.meter(run) as meter:
        for part in ("tokenizer", "text_encoder"):
            model.acquire(part, run)
        assert meter.take()["live_bytes"] == model.weights.parameters("text_encoder")[1]
        made = text.encode(run, BOTH, model, ["a red circle"], negative=[""], max_length=None)
        assert made.positive["encoder_hidden_states"].shape == (1, 512, 4096)
        # Two prompts of 512 tokens use every encoder weight, except the embedding, once per token.
        weights = model.weights.parameters("text_encoder")[0] - 256384 * 4096
        assert meter.take()["flops"] == pytest.approx(2 * 2 * 512 * weights, rel=0.03)
        model.release("text_encoder")
        kept = 2 * 512 * 4096 * 2
        assert meter.take()["live_bytes"] == kept


def test_live_bytes_follow_references(run):
    with cost_meter.meter(run) as meter:
        a = torch.empty(1000, device="meta")
        view = a[:10].view(2, 5)
        assert meter.take() == {"flops": 0, "peak_bytes": 4000, "live_bytes": 4000, "sent_bytes": 0, "dtype": None}
        del a
        assert meter.take()["live_bytes"] == 4000  # the view holds the storage
        b = view + 1
        del view
        taken = meter.take()
        assert (taken["peak_bytes"], taken["live_bytes"]) == (4040, 40)
        torch.empty(500, device="meta")
        assert meter.take() == {"flops": 0, "peak_bytes": 2040, "live_bytes": 40, "sent_bytes": 0, "dtype": None}
        b += 1
        del b
        assert meter.take()["live_bytes"] == 0
        torch.empty(1000)  # memory on the CPU is not counted; it holds only noise levels and tokens
        assert meter.take()["peak_bytes"] == 0


def test_nothing_is_counted_after_the_meter(run):
    with cost_meter.meter(run) as meter:
        kept = torch.empty(1000, device="meta")
    del kept
    assert meter.live == 4000
    with cost_meter.building() as count:
        count(torch.nn.Linear(2, 2, device="meta"))


@pytest.mark.parametrize("causal", [False, True])
def test_attention_counts_as_one_operation(run, causal):
    query = torch.empty(2, 8, 100, 64, device="meta")
    key = torch.empty(2, 8, 77, 64, device="meta")
    value = torch.empty(2, 8, 77, 32, device="meta")
    with cost_meter.runtime(run), cost_meter.meter(run) as meter:
        out = torch.nn.functional.scaled_dot_product_attention(query, key, value=value, is_causal=causal)
        assert out.shape == (2, 8, 100, 32)
        assert meter.take() == {
            "flops": 2 * 2 * 8 * 100 * 77 * (64 + 32),
            "peak_bytes": out.numel() * 4,
            "live_bytes": out.numel() * 4,
            "sent_bytes": 0,
            "dtype": "float32",
        }


def test_attention_on_real_tensors_does_not_change(run):
    query = torch.randn(1, 2, 5, 8)
    expected = torch.nn.functional.scaled_dot_product_attention(query, query, query)
    with cost_meter.runtime(run):
        assert torch.equal(torch.nn.functional.scaled_dot_product_attention(query, query, query), expected)


def test_runtime_turns_gradients_off():
    with cost_meter.runtime(DirectRun()):
        assert not torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
    assert torch.is_grad_enabled()


def test_counts_agree_with_torch(run):
    from torch.utils.flop_counter import FlopCounterMode

    module = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten(), torch.nn.Linear(8 * 36, 10))
    with torch.no_grad(), FlopCounterMode(display=False) as reference:
        module(torch.randn(2, 3, 8, 8))
    with cost_meter.runtime(run), cost_meter.meter(run) as meter:
        module.to("meta")(torch.empty(2, 3, 8, 8, device="meta"))
        assert meter.take()["flops"] == reference.get_total_flops()


def other_transformers():
    """One small transformer of every other architecture: its class, its configuration and its arguments."""
    import diffusers

    def one(*shape):
        return torch.ones(shape)

    flux = (
        diffusers.FluxTransformer2DModel,
        {"in_channels": 4, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2}
        | {
            "joint_attention_dim": 32,
            "pooled_projection_dim": 32,
            "axes_dims_rope": (4, 4, 8),
            "guidance_embeds": True,
        },
        {"hidden_states": one(1, 16, 4), "encoder_hidden_states": one(1, 8, 32), "pooled_projections": one(1, 32)}
        | {"timestep": one(1), "guidance": one(1), "img_ids": one(16, 3), "txt_ids": one(8, 3)},
    )
    qwen = (
        diffusers.QwenImageTransformer2DModel,
        {"in_channels": 16, "out_channels": 4, "num_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2}
        | {"joint_attention_dim": 16, "axes_dims_rope": (8, 4, 4)},
        {"hidden_states": one(1, 16, 16), "encoder_hidden_states": one(1, 8, 16), "timestep": one(1)}
        | {"encoder_hidden_states_mask": one(1, 8).long(), "img_shapes": [[(1, 4, 4)]]},
    )
    hunyuan = (
        diffusers.HunyuanVideoTransformer3DModel,
        {"in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 10, "num_layers": 1}
        | {"num_single_layers": 1, "num_refiner_layers": 1, "patch_size": 1, "text_embed_dim": 16}
        | {"pooled_projection_dim": 8, "rope_axes_dim": (2, 4, 4), "guidance_embeds": True},
        {"hidden_states": one(1, 4, 3, 4, 4), "timestep": one(1).long(), "encoder_hidden_states": one(1, 8, 16)}
        | {"encoder_attention_mask": one(1, 8).long(), "pooled_projections": one(1, 8), "guidance": one(1)},
    )
    z_image = (
        diffusers.ZImageTransformer2DModel,
        {"in_channels": 16, "dim": 32, "n_layers": 1, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2}
        | {"cap_feat_dim": 16, "axes_dims": [8, 4, 4], "axes_lens": [512, 64, 64]},
        {"x": [one(16, 1, 4, 4)], "t": one(1), "cap_feats": [one(8, 16)]},
    )
    return {"flux": flux, "qwen-image": qwen, "hunyuan-video": hunyuan, "z-image": z_image}


@pytest.mark.parametrize("name", ["flux", "qwen-image", "hunyuan-video", "z-image"])
def test_other_architectures_run_on_the_meta_device(run, name):
    from torch.utils._pytree import tree_map_only

    cls, config, arguments = other_transformers()[name]
    made = dummy.dummy_module(cls, config, torch.float32, "cpu")
    planned = dummy.meta_module(cls, config, torch.float32)
    with cost_meter.runtime(run), cost_meter.meter(run) as meter:
        expected = made(**arguments, return_dict=False)[0]
        real = meter.take()["flops"]
        out = planned(**tree_map_only(torch.Tensor, lambda t: t.to("meta"), arguments), return_dict=False)[0]
        # torch has no formula for its attention on a CPU, so only the plan counts attention.
        assert meter.take()["flops"] > real > 0
    expected, out = (x if isinstance(x, list) else [x] for x in (expected, out))
    assert [x.shape for x in out] == [x.shape for x in expected]
    assert all(x.isfinite().all() for x in expected)
