"""Does the model show what a prompt asks for? Held-out combinations, read off the finished frames.

    python training/evaluate.py MODELDIR [--prompts 96] [--steps 20] [--guidance 4] [--seen]

Prompts use combinations of colour, shape, motion and background that no training clip had. Clips
are made with diffusers' WanPipeline; `adherence.read` names what they show without knowing the prompt.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

import torch
from adherence import ATTRIBUTES, read
from clips import FRAMES, HELD_OUT, SIZE, TRAIN, Combo, caption

Table = dict[str, float]


def choose(n: int, combos: list[Combo], seed: int = 5) -> list[Combo]:
    """n different combinations while there are enough."""
    rng = random.Random(seed)
    return [c for start in range(0, n, len(combos)) for c in rng.sample(combos, min(n - start, len(combos)))]


@torch.no_grad()
def make_clips(pipe: Any, prompts: list[str], steps: int, guidance: float, seed: int = 100, **settings: Any) -> Any:
    """Frames [N, F, H, W, 3] in [0, 1]; clip i has a seed of its own, whatever the batch."""
    made = []
    for start in range(0, len(prompts), 16):
        part = prompts[start : start + 16]
        generators = [torch.Generator().manual_seed(seed + start + i) for i in range(len(part))]
        options: dict[str, Any] = {
            "height": SIZE,
            "width": SIZE,
            "num_frames": FRAMES,
            "num_inference_steps": steps,
            "guidance_scale": guidance,
            "max_sequence_length": 32,
            "output_type": "np",
        } | settings
        made.append(torch.from_numpy(pipe(part, generator=generators, **options).frames))
    return torch.cat(made)


def score(clips: Any, combos: list[Combo]) -> Table:
    """Share of clips that show each attribute, of all attributes that are right, of clips with all right."""
    rows = []
    for frames, combo in zip(clips, combos, strict=True):
        rows.append(read(frames).matches(**dict(zip(ATTRIBUTES, combo, strict=True))))
    table = {a: sum(r[a] for r in rows) / len(rows) for a in ATTRIBUTES}
    table["attributes"] = sum(table.values()) / len(ATTRIBUTES)
    table["everything"] = sum(all(r.values()) for r in rows) / len(rows)
    return table


def show(table: Table) -> str:
    return ", ".join(f"{name} {value:.1%}" for name, value in table.items() if name != "reconstruction_psnr")


def load(folder: Path, device: str) -> Any:
    from diffusers import WanPipeline

    pipe = WanPipeline.from_pretrained(folder, torch_dtype=torch.float32).to(device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--prompts", type=int, default=96)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--max-sequence-length", type=int, default=32)
    parser.add_argument("--seen", action="store_true", help="combinations of the training set instead")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    combos = choose(options.prompts, TRAIN if options.seen else HELD_OUT)
    pipe = load(options.model, options.device)
    clips = make_clips(
        pipe,
        [caption(*c) for c in combos],
        options.steps,
        options.guidance,
        max_sequence_length=options.max_sequence_length,
    )
    table = score(clips, combos)
    print(f"{len(combos)} prompts, {options.steps} steps, guidance {options.guidance}: {show(table)}")
    if options.json:
        options.json.write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
