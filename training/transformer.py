"""Stage two: the transformer learns to turn noise into latents that fit a caption.

Flow matching: between a clip's latents and noise lies a straight line, and the model predicts its
direction from a point on it. Latents and text vectors come from a large pool on the device that is
renewed a little all the time, because encoding every clip anew would cost more than the training.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import text
import torch
import torch.nn.functional as F
import transformer_math
import vae_math
from clips import render, sample_clips
from loop import Compiled, Loop
from torch import Tensor
from vae import spread_of

_UNCONDITIONAL = 0.1  # share of training examples with an empty caption, which guidance needs


class Pool:
    """Normalised latents [P, 16, 5, 12, 12] with two captions each, as vectors, on the device."""

    def __init__(self, size: int, vae: Any, encoder: Any, tokenizer: Any, loop: Loop) -> None:
        self.vae, self.encoder, self.tokenizer, self.loop = vae, encoder, tokenizer, loop
        self.mean, self.spread = spread_of(vae, loop.device)
        self.rng = random.Random(int(torch.randint(2**31, (1,), generator=loop.generator)))
        self.encode = Compiled(vae_math.encode, loop.device)
        self.chunk = min(256, size)
        parts = [self.make() for _ in range(max(1, size // self.chunk))]
        self.latents, self.vectors, self.lengths = (torch.cat(p) for p in zip(*parts, strict=True))
        self.size, self.next = len(self.latents), 0
        empty, length = text.embed(encoder, tokenizer, [""], loop.device)
        self.empty, self.empty_length = empty.to(self.vectors.dtype), length

    @torch.no_grad()
    def make(self) -> tuple[Tensor, Tensor, Tensor]:
        clips = sample_clips(self.chunk, self.loop.generator)
        with self.loop.autocast():
            latents = self.encode(self.vae, render(clips.to(self.loop.device)))[0].float()
        dtype = torch.bfloat16 if self.loop.device.type == "cuda" else torch.float32
        vectors, lengths = [], []
        for _ in range(2):
            captions = text.write_captions(clips, self.rng)[0]
            v, n = text.embed(self.encoder, self.tokenizer, captions, self.loop.device)
            vectors.append(v.to(dtype))
            lengths.append(n)
        normal = ((latents - self.mean) / self.spread).to(torch.float16 if dtype == torch.bfloat16 else dtype)
        return normal, torch.stack(vectors, 1), torch.stack(lengths, 1)

    def renew(self) -> None:
        new = self.make()
        where = slice(self.next, self.next + self.chunk)
        for old, fresh in zip((self.latents, self.vectors, self.lengths), new, strict=True):
            old[where] = fresh
        self.next = (self.next + self.chunk) % (self.size - self.size % self.chunk)

    def draw(self, batch: int) -> tuple[Tensor, Tensor, Tensor]:
        device = self.loop.device
        pick = torch.randint(self.size, (batch,), device=device)
        which = torch.randint(2, (batch,), device=device)
        silent = torch.rand(batch, device=device) < _UNCONDITIONAL
        vectors = torch.where(silent[:, None, None], self.empty, self.vectors[pick, which])
        lengths = torch.where(silent, self.empty_length, self.lengths[pick, which])
        return self.latents[pick].float(), vectors.float(), lengths


def draw_noise_levels(batch: int, device: torch.device) -> Tensor:
    """Share of noise per example, [B]: mostly around the middle, where the picture is decided, some anywhere.

    Stratified over the batch, which makes the loss less noisy.
    """
    place = (torch.randperm(batch, device=device) + torch.rand(batch, device=device)) / batch
    middle = torch.sigmoid(torch.erfinv((2 * place - 1).clamp(-0.9999, 0.9999)) * 2**0.5 * 1.2 + 0.5)
    return torch.where(torch.rand(batch, device=device) < 0.15, place, middle)


def flow_loss(
    model: Any, block: Any, latents: Tensor, noise: Tensor, level: Tensor, vectors: Tensor, bias: Tensor
) -> Tensor:
    share = level[:, None, None, None, None]
    mixed = (1 - share) * latents + share * noise
    velocity = transformer_math.forward(model, mixed, level * 1000, vectors, bias, block)
    return F.mse_loss(velocity.float(), noise - latents)


def train_transformer(
    transformer: Any,
    vae: Any,
    encoder: Any,
    tokenizer: Any,
    *,
    minutes: float,
    batch: int,
    pool_size: int,
    folder: Path,
    device: torch.device,
    preview: Callable[[Any, float], None],
    preview_every: float = 4.0,
) -> Any:
    """Train (or resume) and return the averaged transformer; `preview` sees it every few minutes."""
    loop = Loop(
        "transformer",
        transformer,
        lambda n, p: n.startswith("blocks.") and p.ndim == 2,
        minutes=minutes,
        rate=2e-3,
        folder=folder,
        device=device,
        seed=7,
        decay_share=0.6,
        average_decay=0.9995,
        weight_decay=0.01,
    )
    if not loop.running():
        return loop.average
    pool = Pool(pool_size, vae, encoder, tokenizer, loop)
    print(f"pool of {pool.size} clips is ready", flush=True)
    block = Compiled(transformer_math.block, device)
    padded = torch.tensor(transformer_math.PADDED_LENGTHS, device=device)
    shown = loop.elapsed

    def step_loss() -> Tensor:
        latents, vectors, lengths = pool.draw(batch)
        padding = padded[torch.randint(len(padded), (batch,), device=device)]
        bias = transformer_math.padding_bias(lengths, text.SLOTS, padding)
        level = draw_noise_levels(batch, device)
        with loop.autocast():
            return flow_loss(transformer, block, latents, torch.randn_like(latents), level, vectors, bias)

    while loop.running():
        report = loop.step(step_loss)
        if loop.steps % 16 == 0:
            pool.renew()
        if report and loop.steps % 500 == 0:
            print(loop.line(), flush=True)
        if loop.elapsed - shown > preview_every * 60 and loop.budget - loop.elapsed > 30:
            shown = loop.elapsed
            loop.pause()
            preview(loop.average, loop.elapsed)
        loop.save(every=120)
    loop.save()
    print(f"{loop.line()}, done", flush=True)
    return loop.average
