"""Trains the embedded model from nothing and writes it in diffusers layout.

    python training/train.py --out DIR [--minutes-vae 3.5] [--minutes-transformer 13.5] [--minutes-decoder 1]

Four stages: text encoder (seconds), autoencoder, transformer, decoder once more. Killed and started
again with the same arguments, it goes on from the last checkpoint in DIR/checkpoints. DIR/model
holds the float16 model (a preview every few minutes, then the final one) and DIR/scores.json the
table of how well held-out combinations are shown.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import evaluate
import torch
from clips import HELD_OUT, caption
from models import make_text_encoder, make_tokenizer, make_transformer, make_vae, save_model
from text import train_text_encoder
from transformer import train_transformer
from vae import measure_latents, psnr, train_vae


def parse() -> argparse.Namespace:
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes-vae", type=float, default=3.5)
    parser.add_argument("--minutes-transformer", type=float, default=13.5)
    parser.add_argument("--minutes-decoder", type=float, default=1.0)
    parser.add_argument("--device", default="cuda" if gpu else "cpu")
    parser.add_argument("--text-steps", type=int, default=500)
    parser.add_argument("--batch-vae", type=int, default=32 if gpu else 4)
    parser.add_argument("--batch-transformer", type=int, default=256 if gpu else 16)
    parser.add_argument("--pool", type=int, default=49152 if gpu else 1024, help="encoded clips kept at hand")
    parser.add_argument("--prompts", type=int, default=96, help="held-out prompts in the final table; 0 for none")
    return parser.parse_args()


def text_stage(options: argparse.Namespace, tokenizer: Any, device: torch.device) -> Any:
    encoder = make_text_encoder(len(tokenizer)).to(device)
    file = options.out / "checkpoints" / "text.pt"
    if file.exists():
        encoder.load_state_dict(torch.load(file, map_location=device, weights_only=True))
        return encoder.eval().requires_grad_(False)
    train_text_encoder(encoder, tokenizer, options.text_steps, device)
    torch.save(encoder.state_dict(), file)
    return encoder


def main() -> None:
    options = parse()
    device = torch.device(options.device)
    checkpoints, model = options.out / "checkpoints", options.out / "model"
    checkpoints.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(1)
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = True

    def table(prompts: int, pipe: Any) -> dict[str, float]:
        combos = evaluate.choose(prompts, HELD_OUT)
        clips = evaluate.make_clips(pipe, [caption(*c) for c in combos], steps=20, guidance=4.0)
        return evaluate.score(clips, combos)

    def write(vae: Any, transformer: Any) -> None:
        save_model(vae, encoder, transformer, model)

    def preview(transformer: Any, seconds: float) -> None:
        write(vae, transformer)
        if options.prompts:
            scores = table(min(48, options.prompts), evaluate.load(model, options.device))
            print(f"after {seconds / 60:.1f} min: {evaluate.show(scores)}", flush=True)

    tokenizer = make_tokenizer()
    encoder = text_stage(options, tokenizer, device)
    vae = train_vae(
        make_vae().to(device),
        minutes=options.minutes_vae,
        batch=options.batch_vae,
        folder=checkpoints,
        device=device,
    )
    measure_latents(vae, device, clips=2048 if device.type == "cuda" else 64)
    transformer = train_transformer(
        make_transformer().to(device),
        vae,
        encoder,
        tokenizer,
        minutes=options.minutes_transformer,
        batch=options.batch_transformer,
        pool_size=options.pool,
        folder=checkpoints,
        device=device,
        preview=preview,
    )
    write(vae, transformer)
    if options.minutes_decoder > 0:
        vae = train_vae(
            vae,
            minutes=options.minutes_decoder,
            batch=options.batch_vae,
            folder=checkpoints,
            device=device,
            decoder_only=True,
        )
        write(vae, transformer)
    decibels = psnr(vae, device, 64 if device.type == "cuda" else 8)
    scores = {"reconstruction_psnr": decibels}
    print(f"held-out clips, reconstructed: {decibels:.2f} dB", flush=True)
    if options.prompts:
        scores |= table(options.prompts, evaluate.load(model, options.device))
        print(f"held-out combinations, {options.prompts} prompts: {evaluate.show(scores)}", flush=True)
    (options.out / "scores.json").write_text(json.dumps(scores, indent=2) + "\n")
    print(f"model written to {model}", flush=True)


if __name__ == "__main__":
    main()
