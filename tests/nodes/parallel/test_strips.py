"""Decoding and encoding in strips of rows: what diffusers' own VAE gives in one process."""

from __future__ import annotations

import pytest
import torch
from helpers import tiny_flux, tiny_qwen_image
from helpers.margins import with_margins
from helpers.ranks import on_ranks
from helpers.small_vaes import WAN_2_1, WAN_2_2, hunyuan_vae, wan_vae
from helpers.transformer_cases import random, relative
from sgd.graph.contract.node import Run
from sgd.graph.contract.processes import Group, Mesh, Processes
from sgd.nodes.models.decoders.rebuilt_vae import is_rebuilt, rebuild
from sgd.nodes.models.decoders.wan_encoder import WanEncoder
from sgd.nodes.models.memory.component_views import view
from sgd.nodes.models.ranks.collectives import members, parts_of
from sgd.nodes.models.ranks.planned_processes import TracedRanks
from sgd.nodes.parallel.strips import Strip, on_strips
from sgd.nodes.support import cost_meter

CLOSE = 1e-7
"""The rebuilt decoder of Wan itself is that near to diffusers' (`test_decoders`); all else is nearer than 1e-9."""
VAES = {
    "flux": (tiny_flux.vae, (4, 5, 4), (3, 10, 8)),
    "qwen-image": (tiny_qwen_image.vae, (4, 1, 5, 4), (3, 1, 20, 16)),
    "hunyuan-video": (hunyuan_vae, (4, 3, 5, 4), (3, 9, 40, 32)),
    "wan 2.1": (lambda: wan_vae(**WAN_2_1), (4, 3, 5, 4), (3, 9, 40, 32)),
    "wan 2.2": (lambda: wan_vae(**WAN_2_2), (6, 3, 5, 4), (3, 9, 80, 64)),
}
"""VAEs in float64, latents with five rows and their frames; 2, 3 and 4 do not divide five."""
ROWS = 5


def check(count, names=tuple(VAES)):
    """Compare work on the strips of `count` processes with work on whole frames."""
    vaes = {name: VAES[name][0]().double().requires_grad_(False) for name in names}
    latents = {name: random(1, *VAES[name][1]).double() for name in names}
    frames = {name: random(1, *VAES[name][2]).double() for name in names}
    decoded = {name: vae.decode(latents[name]).sample for name, vae in vaes.items()}
    encoded = {name: vae.encode(frames[name]).latent_dist.mode() for name, vae in vaes.items()}
    views = {}
    for name in {"hunyuan-video", "wan 2.1", "wan 2.2"} & set(names):
        views[name] = view(vaes[name])
        assert rebuild(views[name], pytest.fail) is None
        assert is_rebuilt(views[name], "decoder")
        assert not is_rebuilt(vaes[name], "decoder")
        assert is_rebuilt(views[name], "encoder") is name.startswith("wan")

    def work(join):
        processes = join(Mesh(ring=count))
        strip = Strip(processes, members(processes, "all"), parts_of(ROWS, count))
        found, sent = {}, {}
        for name, vae in vaes.items():
            before = processes.sent
            found["decoded", name] = from_strips(strip, vae, latents[name])
            sent[name] = processes.sent - before
            with on_strips(strip, vae.encoder, rebuilt=False):
                own = vae.encode(strip.cut(frames[name], -2)).latent_dist.mode()
            found["encoded", name] = strip.gathered(own, -2)
            again = vae.decode(latents[name]).sample
            assert torch.equal(again, decoded[name]), "the module is as before"
        for name, vae in views.items():
            with on_strips(strip, vae.decoder, rebuilt=True):
                own = vae.decode(strip.cut(latents[name], -2)).sample
            found["rebuilt", name] = strip.gathered(own, -2)
            if is_rebuilt(vae, "encoder"):
                with on_strips(strip, vae.encoder, rebuilt=True):
                    own = vae.encode(strip.cut(frames[name], -2)).latent_dist.mode()
                found["rebuilt encoder", name] = strip.gathered(own, -2)
        return found, sent

    for rank, (made, sent) in enumerate(on_ranks(count, work)):
        assert {name: bytes_in_plan(VAES[name], count, rank) for name in names} == sent
        wanted = {"decoded": decoded, "rebuilt": decoded, "encoded": encoded, "rebuilt encoder": encoded}
        errors = {key: relative(each, wanted[key[0]][key[1]]) for key, each in made.items()}
        assert {key: error for key, error in errors.items() if not error < CLOSE} == {}


def from_strips(strip, vae, latents):
    with on_strips(strip, vae.decoder, rebuilt=False):
        own = vae.decode(strip.cut(latents, -2)).sample
    return strip.gathered(own, -2)


def bytes_in_plan(case, count, rank):
    """The bytes that one rank sends while it decodes, counted on the meta device."""
    vae, processes = case[0]().double().to("meta"), TracedRanks(Mesh(ring=count)).processes(rank)
    with cost_meter.runtime(Run()), cost_meter.meter(Run()) as meter:
        strip = Strip(processes, members(processes, "all"), parts_of(ROWS, count))
        from_strips(strip, vae, torch.empty(1, *case[1], device="meta", dtype=torch.float64))
        return meter.take()["sent_bytes"]


@pytest.mark.parametrize("count", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 4))])
@pytest.mark.parametrize("config", [WAN_2_1, WAN_2_2], ids=["2.1", "2.2"])
def test_the_rebuilt_encoder_gives_the_latents_of_one_process(config, count):
    """In float32, in chunks of several groups of frames, and again after an overflow of one rank's strip."""
    vae = wan_vae(**config).float()
    factor = config.get("scale_factor_spatial", 8)
    video = random(2, 3, 9, ROWS * factor, 3 * factor)
    said: list[str] = []
    made, narrow = view(vae), view(vae)
    for each in (made, narrow):
        assert rebuild(each, said.append) is None
    narrow._encode.made = Overflowing(vae.encoder)
    wanted = made.encode(video).latent_dist.mode()

    def work(join):
        processes = join(Mesh(ring=count))
        strip = Strip(processes, members(processes, "all"), parts_of(ROWS, count))
        narrow._encode.made.rank = processes.rank
        found = []
        for each in (made, narrow):
            with on_strips(strip, each.encoder, rebuilt=True):
                found.append(strip.gathered(each.encode(strip.cut(video, -2)).latent_dist.mode(), -2))
        return found, said

    for found, warnings in on_ranks(count, work):
        assert max(float((each - wanted).abs().max() / wanted.abs().max()) for each in found) < 3e-5
        assert ["encoded again in float32" in text for text in warnings] == [True]


class Overflowing(WanEncoder):
    """An encoder that says it works in float16, and finds a number too large in the strip of rank 1."""

    def __init__(self, encoder):
        super().__init__(encoder, torch.float32)
        self.dtype, self.rank = torch.float16, 0

    def __call__(self, video, chunk=4):
        self.dtype = torch.float32
        made = super().__call__(video, chunk)
        self.dtype = torch.float16
        if self.rank == 1:
            made[0, 0, 0, 0] = torch.inf
        return made


def test_two_strips():
    check(2, ("flux", "hunyuan-video", "wan 2.1"))


@pytest.mark.slow
def test_three_strips_of_every_vae():
    check(3)


@pytest.mark.parametrize("count", [2, 3])
def test_strips_of_frames_with_margins(monkeypatch, count):
    with_margins(monkeypatch, {8, 16})
    check(count, ("wan 2.1",))


class Told(Processes):
    """Two processes, of which a plan has one: nothing is exchanged."""

    mesh = Mesh(ring=2)

    def group(self, axis):
        return Group((0, 1), 0)


@pytest.mark.parametrize("name", ["flux", "hunyuan-video", "wan 2.1"])
def test_a_plan_traces_a_strip(name):
    """A count works on the meta device, without other processes; that of memory decides about tiles."""
    vae, processes = VAES[name][0]().to("meta"), Told()
    strip = Strip(processes, members(processes, "all"), parts_of(ROWS, 2))
    latents, frames = (torch.empty(1, *shape, device="meta", dtype=vae.dtype) for shape in VAES[name][1:])
    with cost_meter.meter(Run()) as meter:
        with on_strips(strip, vae.decoder, rebuilt=False):
            assert strip.gathered(vae.decode(strip.cut(latents, -2)).sample, -2).shape[-2] == frames.shape[-2]
        with on_strips(strip, vae.encoder, rebuilt=False):
            assert strip.gathered(vae.encode(strip.cut(frames, -2)).latent_dist.mode(), -2).shape == latents.shape
        made = view(vae)
        if rebuild(made, lambda warning: None) is None:
            with on_strips(strip, made.decoder, rebuilt=True):
                assert strip.gathered(made.decode(strip.cut(latents, -2)).sample, -2).shape[-2] == frames.shape[-2]
        if is_rebuilt(made, "encoder"):
            with on_strips(strip, made.encoder, rebuilt=True):
                assert strip.gathered(made.encode(strip.cut(frames, -2)).latent_dist.mode(), -2).shape == latents.shape
        assert meter.take()["sent_bytes"] > 0
