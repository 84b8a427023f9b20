"""Works of `speed.py`: steps of full-size transformers with random weights, and of tiny ones.

A step is `denoiser.predict` with all branches of its guidance. A loop keeps values from its first step on. They are
kept here too, so that a step is one of the later steps of a loop.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from helpers import tiny, tiny_flux, tiny_hunyuan_video, tiny_qwen_image, tiny_z_image
from helpers.direct import DirectRun
from sgd.nodes import cfg, denoiser, latents, schedule
from sgd.nodes.cache.state import GateState
from sgd.nodes.models.model import Model
from sgd.nodes.models.nodes.model_load import load
from sgd.nodes.values import Conditioning


@dataclass(frozen=True)
class Work:
    """The work of one model.

    Attributes:
        family: The family, as the names of the tiny models.
        source: Name on the hub.
        size: Arguments of latents.noise.
        text: Tokens of the positive and the negative prompt, or of one prompt.
    """

    family: str
    source: str
    size: dict[str, int]
    text: tuple[int, ...]


IMAGE, VIDEO = {"width": 1024, "height": 1024}, {"width": 832, "height": 480, "frames": 81}
LONG = {"width": 1280, "height": 704, "frames": 121}
WORKS = {
    "hunyuan": Work(
        "hunyuan", "hunyuanvideo-community/HunyuanVideo", {"width": 848, "height": 480, "frames": 65}, (56,)
    ),
    "flux": Work("flux", "black-forest-labs/FLUX.1-dev", IMAGE, (512,)),
    "qwen": Work("qwen", "Qwen/Qwen-Image", IMAGE, (56, 40)),
    "qwen-1328": Work("qwen", "Qwen/Qwen-Image", {"width": 1328, "height": 1328}, (56, 40)),
    "z": Work("z", "Tongyi-MAI/Z-Image-Turbo", IMAGE, (30,)),
    "wan": Work("wan", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", VIDEO, (512, 512)),
    "a14b": Work("wan", "Wan-AI/Wan2.2-T2V-A14B-Diffusers", VIDEO, (512, 512)),
    "ti2v": Work("wan", "Wan-AI/Wan2.2-TI2V-5B-Diffusers", LONG, (512, 512)),
}


def conditioning(work: Work, model: Model, dtype: torch.dtype) -> Conditioning:
    """Random encoded prompts of the shapes that the text encoders give."""
    name, device, config = work.family, model.device, model.config("transformer")
    generator = torch.Generator(device).manual_seed(1)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device=device, dtype=dtype)

    def one(tokens: int) -> dict[str, torch.Tensor]:
        if name == "flux":
            return {
                "embeddings": random(1, tokens, config["joint_attention_dim"]),
                "pooled": random(1, config["pooled_projection_dim"]),
            }
        if name == "hunyuan":
            return {
                "encoder_hidden_states": random(1, tokens, config["text_embed_dim"]),
                "encoder_attention_mask": torch.ones(1, tokens),
                "pooled_projections": random(1, config["pooled_projection_dim"]),
            }
        if name in ("qwen", "z"):
            width = config["joint_attention_dim"] if name == "qwen" else config["cap_feat_dim"]
            padded = torch.nn.functional.pad(random(1, tokens, width), (0, 0, 0, max(work.text) - tokens))
            return {"embeddings": padded, "lengths": torch.tensor([tokens])}
        return {"encoder_hidden_states": random(1, tokens, config["text_dim"])}

    made = [one(tokens) for tokens in work.text]
    return Conditioning(made[0], made[1] if len(made) > 1 else None, model.family.name)


def save_tiny(name: str, folder: Path) -> Path:
    """Save a tiny model of a family."""
    if name == "hunyuan":
        return tiny_hunyuan_video.save(folder)
    if name in ("flux", "qwen", "z"):
        {"flux": tiny_flux, "qwen": tiny_qwen_image, "z": tiny_z_image}[name].build().save_pretrained(folder)
        return folder
    return tiny.save("wan", folder)


@dataclass
class Step:
    """A step of a model, ready to be called with any value of it."""

    model: Model
    start: Any
    at: Any
    branches: Any

    def __call__(self, model: Model, state: GateState | None = None) -> torch.Tensor:
        """The predictions of all branches, in float32. `state`: that of a loop; None for the first step of one."""
        own = state or GateState()
        try:
            made = denoiser.predict(model, self.start, self.at, self.branches, own, DirectRun())
        finally:
            if state is None:
                own.end()
        return torch.cat([value.float() for value in made.branches.values()])


@contextmanager
def step_of(work: Work, device: str, small: bool) -> Iterator[Step]:
    """A step, with its transformer in memory; `small`: of a tiny model."""
    run = DirectRun()
    run.device = device
    with tempfile.TemporaryDirectory() as folder:
        if small:
            source, run.options = str(save_tiny(work.family, Path(folder))), {}
        else:
            source, run.options = work.source, {"weights": "dummy"}
        model = load(run, source, dtype="bfloat16" if device == "cuda" else "float32")
        for part in ("transformer", "scheduler"):
            model.acquire(part, run)
        little = {"width": 64, "height": 64} | ({"frames": 9} if "frames" in work.size else {})
        size = little if small else work.size
        start = latents.noise(model, **size)
        plan = schedule.make(model, steps=20, latents=start)
        embedded = {"flux": 3.5, "hunyuan": 6.0}.get(work.family)
        scale = 5.0 if len(work.text) > 1 else (0.0 if work.family == "z" else 1.0)
        prompts = conditioning(work, model, model.dtype("transformer"))
        branches = cfg.split(prompts, scale=scale, embedded=embedded)
        try:
            yield Step(model, start, list(plan)[6], branches)
        finally:
            for part in ("transformer", "scheduler"):
                model.release(part)
