"""Group offloading of every component of every family: equal results, and each tensor on the device when it is read."""

import pytest
import torch
from helpers import tiny, tiny_flux, tiny_hunyuan_video, tiny_qwen_image, tiny_z_image
from helpers.direct import DirectRun, generate, model_of
from helpers.offloading import watching
from sgd.graph.contract.errors import NodeError
from sgd.nodes import vae
from sgd.nodes.models.memory import block_groups
from sgd.nodes.models.memory.offloading import Offload
from sgd.nodes.models.nodes.model_offload import offload
from sgd.nodes.values import Frames

BUILDERS = {
    "wan": tiny.wan,
    "hunyuan-video": lambda: None,
    "qwen-image": tiny_qwen_image.build,
    "z-image": tiny_z_image.build,
    "flux": tiny_flux.build,
}
COMPONENTS = [
    *((family, part) for family in BUILDERS for part in ("transformer", "text_encoder", "vae")),
    ("flux", "text_encoder_2"),
    ("hunyuan-video", "text_encoder_2"),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    made = {}
    for family, build in BUILDERS.items():
        folder = tmp_path_factory.mktemp("offload") / family
        if family == "hunyuan-video":
            tiny_hunyuan_video.save(folder)
        else:
            build().save_pretrained(folder)  # type: ignore[attr-defined]
        made[family] = model_of(folder)
    return made


def everything(model):
    """Latents and frames of a text-to-image or text-to-video workflow, and its frames encoded again."""
    options: dict = {"frames": 9} if model.family.name in ("wan", "hunyuan-video") else {"frames": 1}
    if model.config("transformer").get("guidance_embeds"):
        options["embedded"] = 6.0
    made = generate(model, ["a red circle"], steps=2, scale=3.0, width=32, height=48, **options)
    with torch.no_grad():
        return made.states[-1].tensor, made.frames.tensor, vae.encode(model, Frames(made.frames.tensor)).tensor


@pytest.fixture(scope="module")
def plain(models):
    return {family: everything(model) for family, model in models.items()}


@pytest.mark.parametrize("granularity", ["blocks", "leaf"])
@pytest.mark.parametrize(("family", "part"), COMPONENTS, ids=["-".join(c) for c in COMPONENTS])
def test_offloading_keeps_results_and_loads_tensors_in_time(models, plain, family, part, granularity):
    model, transform = models[family], Offload(part, granularity)
    if (family, part) == ("qwen-image", "vae"):
        with pytest.raises(NodeError, match="passes caches between its layers"):
            offload(DirectRun(), model, component="vae")
        return
    run = DirectRun()
    value = model.transformed(transform)
    for name in model.parts():
        value.acquire(name, run)
    view = value.component(part)
    with watching(view) as watched:
        made = everything(value)
    assert all(torch.equal(a, b) for a, b in zip(made, plain[family], strict=True))
    assert len(watched.onloads) == len(list(block_groups.groups(view))) - unused(watched, view)
    assert watched.used, "no tensor of the component was read"
    assert watched.early == set()
    total = sum(t.numel() * t.element_size() for t in (*view.parameters(), *view.buffers()))
    assert watched.most < total, "all tensors were on the device at once"
    assert 0 < watched.most <= run.details[part]["device_bytes"]
    for name in model.parts():
        value.release(name)


def unused(watched, view):
    """The number of groups without a called module, e.g. the vision part of a language model."""
    return sum(id(group) not in watched.onloads for _, group in block_groups.groups(view))
