"""The text encoder: taught from captions alone to bind words to what they describe.

Learning from the video loss alone which colour belongs to the shape and which to the background
takes very long, because both are in the same caption. So the encoder is trained first, in seconds:
every token's vector must tell all six attributes that the caption gives (or that it gives none).
Afterwards it stays frozen, and the transformer only has to look the answer up.
"""

from __future__ import annotations

import random
from typing import Any

import torch
import torch.nn.functional as F
from clips import COLORS, HELD_OUT, MOTIONS, SHAPES, SIZES, TRAIN, Clips, Said, sample_clips, varied_caption
from models import TEXT_DIM
from torch import Tensor

SLOTS = 24  # tokens of a caption kept in training; no caption here is longer
_WORDS: tuple[list[str], ...] = (COLORS, SHAPES, MOTIONS, COLORS, SIZES)
_CLASSES = [len(words) + 1 for words in _WORDS] + [2]


def labels(said: Said) -> list[int]:
    """One class per attribute; 0 where the caption is silent."""
    values = (said.color, said.shape, said.motion, said.background, said.size)
    return [0 if v is None else words.index(v) + 1 for words, v in zip(_WORDS, values, strict=True)] + [
        int(said.gradient)
    ]


def write_captions(clips: Clips, rng: random.Random) -> tuple[list[str], list[Said]]:
    """A caption per clip: the plain one in two of five cases, else varied, partial or with odd words."""
    texts, all_said = [], []
    for i in range(len(clips)):
        said = clips.said(i, rng)
        full = None not in (said.color, said.shape, said.motion, said.background)
        texts.append(clips.caption(i) if full and rng.random() < 0.5 else varied_caption(said, rng))
        all_said.append(said)
    return texts, all_said


def tokenise(tokenizer: Any, texts: list[str]) -> tuple[Tensor, Tensor]:
    """Token ids and mask, [N, SLOTS] each."""
    batch = tokenizer(
        texts, padding="max_length", max_length=SLOTS, truncation=True, return_tensors="pt", return_attention_mask=True
    )
    return batch.input_ids, batch.attention_mask


@torch.no_grad()
def embed(encoder: Any, tokenizer: Any, texts: list[str], device: torch.device) -> tuple[Tensor, Tensor]:
    """Vectors [N, SLOTS, 128], zero where padded (as the pipeline makes them), and lengths [N]."""
    ids, mask = (t.to(device) for t in tokenise(tokenizer, texts))
    vectors = encoder(ids, mask).last_hidden_state * mask[..., None]
    return vectors, mask.sum(1)


def _loss(logits: Tensor, mask: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy over real tokens and attributes, and the share of captions read fully right."""
    total = logits.new_zeros(())
    right = torch.ones(len(logits), dtype=torch.bool, device=logits.device)
    for part, target in zip(logits.split(_CLASSES, -1), wanted.unbind(1), strict=True):
        spread = target[:, None].expand(mask.shape)
        total = total + (F.cross_entropy(part.mT, spread, reduction="none") * mask).sum() / mask.sum()
        right &= (((part * mask[..., None]).sum(1)).argmax(-1)) == target
    return total / len(_CLASSES), right.float().mean()


def train_text_encoder(
    encoder: Any, tokenizer: Any, steps: int, device: torch.device, seed: int = 11, batch: int = 256
) -> float:
    """Train in place; returns the share of held-out captions that are read off fully right."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    readout = torch.nn.Linear(TEXT_DIM, sum(_CLASSES)).to(device)

    def draw(n: int, combos: Any) -> tuple[Tensor, Tensor, Tensor]:
        texts, said = write_captions(sample_clips(n, generator, combos, frames=2), rng)
        ids, mask = tokenise(tokenizer, texts)
        return ids.to(device), mask.to(device), torch.tensor([labels(s) for s in said]).to(device)

    pool = draw(max(batch, min(steps * batch // 8, 40_000)), TRAIN)
    wide = [p for n, p in encoder.named_parameters() if "relative_attention_bias" in n]
    ids_of_wide = {id(p) for p in wide}
    rest = [p for p in encoder.parameters() if id(p) not in ids_of_wide]
    optimizer = torch.optim.AdamW(
        [{"params": rest, "lr": 2e-3}, {"params": wide, "lr": 2e-2}, {"params": readout.parameters(), "lr": 4e-3}],
        betas=(0.9, 0.98),
        weight_decay=0.0,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min(1.0, (s + 1) / 50) * max(0.02, min(1.0, 2 * (1 - s / max(1, steps))))
    )
    encoder.train()
    for step in range(steps):
        pick = torch.randint(len(pool[0]), (batch,), generator=generator).to(device)
        ids, mask, wanted = (t[pick] for t in pool)
        loss, right = _loss(readout(encoder(ids, mask).last_hidden_state), mask, wanted)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps - 1:
            print(f"text step {step}: loss {loss.item():.4f}, captions right {right.item():.3f}", flush=True)
    encoder.eval().requires_grad_(False)
    with torch.no_grad():
        ids, mask, wanted = draw(512, HELD_OUT)
        share = _loss(readout(encoder(ids, mask).last_hidden_state), mask, wanted)[1].item()
    print(f"text: {share:.3f} of held-out captions read fully right", flush=True)
    return share
