"""Tiles dealt to several processes: the numbers of one process, and the cost that a plan counts."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import torch
from helpers import tiny_flux, tiny_qwen_image
from helpers.ranks import on_ranks
from helpers.small_vaes import WAN_2_1, WAN_2_2, hunyuan_vae, wan_vae
from helpers.transformer_cases import random
from sgd.graph.contract.node import Run
from sgd.graph.contract.processes import Mesh
from sgd.nodes.models.decoders.rebuilt_vae import rebuild
from sgd.nodes.models.memory.component_views import view
from sgd.nodes.models.ranks.planned_processes import TracedRanks
from sgd.nodes.parallel.dealt_tiles import dealt, dealt_tiles, has_tiles, pixels_of_latent
from sgd.nodes.support import cost_meter
from sgd.nodes.support.traced_once import traced_once
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda query, key, value, *_, out_shape, **__: (
        sdpa_flop_count(query, key, value)
    )
}
"""A formula that torch's counter lacks."""


def tiled(vae, *sides):
    vae.enable_tiling(*sides)
    return vae


CASES = {
    "flux": (lambda: tiled(tiny_flux.vae().requires_grad_(False)), (4, 20, 25), 4),
    "qwen-image": (lambda: tiled(tiny_qwen_image.vae().requires_grad_(False), 24, 24, 16, 16), (4, 1, 9, 7), 6),
    "hunyuan-video": (lambda: tiled(hunyuan_vae(), 32, 32, None, 24, 24), (4, 5, 5, 4), 4),
    "wan 2.1": (lambda: tiled(wan_vae(**WAN_2_1), 48, 48, 32, 32), (4, 3, 7, 9), 6),
    "wan 2.2": (lambda: tiled(wan_vae(**WAN_2_2), 64, 64, 32, 32), (6, 2, 5, 6), 9),
    "two tiles": (lambda: tiled(wan_vae(**WAN_2_1), 32, 32, 32, 32), (4, 2, 5, 4), 2),
}
"""VAEs with small tiles, latents, and the number of tiles at each time."""
REBUILT = ("hunyuan-video", "wan 2.1", "wan 2.2")


def made(name, device="cpu"):
    """A VAE, or a view with the rebuilt decoder, with latents and frames."""
    vae = CASES[name][0]().to(device)
    if name in REBUILT:
        vae = view(vae)
        assert rebuild(vae, pytest.fail) is None
    shape = CASES[name][1]
    latents = random(1, *shape).to(device, vae.dtype)
    scale = pixels_of_latent(vae)
    count = [] if len(shape) == 3 else [1 + 4 * (shape[1] - 1)]
    frames = random(1, 3, *count, scale * shape[-2], scale * shape[-1]).to(device, vae.dtype)
    assert has_tiles(vae, *frames.shape[-2:])
    return vae, latents, frames


def work_of(vae, latents, frames):
    """The two directions, by the part that works."""
    return {"decoder": lambda: vae.decode(latents).sample, "encoder": lambda: vae.encode(frames).latent_dist.mean}


def check(count, name):
    vae, *given = made(name)
    works = work_of(vae, *given)
    wanted = {part: work() for part, work in works.items()}

    def on_rank(join):
        processes = join(Mesh(ring=count))
        vae, *given = made(name)  # a rebuilt decoder lays out its weights at its first call
        works, found = work_of(vae, *given), {}
        for part, work in works.items():
            sent = processes.sent
            with FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter, dealt_tiles(processes, vae, part):
                tensor = work()
            found[part] = tensor, processes.sent - sent, counter.get_total_flops()
        again = work_of(vae, *given)["decoder"]()
        assert torch.equal(again, wanted["decoder"]), "the VAE is as before"
        return found

    planned = [in_plan(count, name, rank) for rank in range(count)]
    alone = in_plan(1, name, 0)
    for rank, found in enumerate(on_ranks(count, on_rank)):
        for part, (tensor, sent, flops) in found.items():
            assert torch.equal(tensor, wanted[part]), (rank, part)
            taken = planned[rank][part]
            assert (taken["sent_bytes"], taken["flops"]) == (sent, flops), (rank, part)
            held = tensor.numel() * tensor.element_size()
            assert taken["peak_bytes"] <= alone[part]["peak_bytes"] + held
    if CASES[name][2] >= count:
        assert all(taken[part]["flops"] < alone[part]["flops"] for taken in planned for part in taken)


def in_plan(count, name, rank):
    """The cost of both directions on one rank, counted on the meta device."""
    vae, *given = made(name, "meta")
    processes, found = TracedRanks(Mesh(ring=count)).processes(rank), {}
    with cost_meter.runtime(Run()), cost_meter.meter(Run()) as meter:
        for part, work in work_of(vae, *given).items():
            with ExitStack() as stack:
                if name != "hunyuan-video":  # its first call, which lays out weights, would count for each tile
                    stack.enter_context(traced_once(getattr(vae, part), "forward"))
                if count > 1:
                    stack.enter_context(dealt_tiles(processes, vae, part))
                work()
            found[part] = meter.take()
    return found


@pytest.mark.parametrize("name", ["flux", "wan 2.1"])
def test_two_processes_share_the_tiles(name):
    check(2, name)


def test_three_processes_share_two_tiles():
    check(3, "two tiles")


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_three_processes_share_the_tiles_of_every_vae(name):
    check(3, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hunyuan-video", "qwen-image", "wan 2.2"])
def test_four_processes_share_the_tiles(name):
    check(4, name)


def test_large_tiles_are_dealt_first():
    assert dealt([4, 4, 2, 4, 4, 2], 2) == [0, 1, 0, 0, 1, 1]
    assert dealt([1, 9, 1], 2) == [1, 0, 1]
    assert dealt([5], 3) == [0]


def test_frames_no_larger_than_a_tile_have_no_tiles():
    vae = CASES["wan 2.1"][0]()
    assert not has_tiles(vae, 48, 48)
    assert has_tiles(vae, 48, 56)
    vae.use_tiling = False
    assert not has_tiles(vae, 480, 480)
