"""Rebuilt decoders and encoders beside diffusers' own, at full size with random weights, on a GPU.

    python tests/benchmarks/decodes.py [NAMES] [--seconds N] [--out FILE]

Each row is made in one process: a check of the values first (both ways, and both in float32 on a small clip), then
both in turns, each waited for. `--tiny` runs small sizes on any device, to try the script.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sgd.nodes.models.decoders import rebuilt_vae
from sgd.nodes.models.memory.component_views import view

CONFIGS = Path(rebuilt_vae.__file__).parents[1] / "repository" / "configs"

WORK = {
    # repository, class, dtype of the workflow, latents [c, T, h, w] of the clip, and of a small one
    "hunyuan": (
        "hunyuanvideo-community/HunyuanVideo",
        "AutoencoderKLHunyuanVideo",
        torch.bfloat16,
        (16, 17, 60, 106),
        (16, 5, 16, 16),
    ),
    "wan2.1": (
        "Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
        "AutoencoderKLWan",
        torch.float32,
        (16, 21, 60, 104),
        (16, 5, 16, 16),
    ),
    "wan2.2": ("Wan-AI/Wan2.2-TI2V-5B-Diffusers", "AutoencoderKLWan", torch.float32, (48, 31, 44, 80), (48, 5, 8, 8)),
}

ENCODES = {
    # the row of the same VAE, pixels [3, F, H, W] of the clip that holds a first frame, and of a small one
    "wan2.1-encode": ("wan2.1", (3, 81, 480, 832), (3, 5, 64, 64)),
    "wan2.2-encode": ("wan2.2", (3, 1, 704, 1280), (3, 5, 64, 64)),
}


def vae_of(name: str, device: str) -> Any:
    """The VAE of a model with random weights."""
    import diffusers

    source, kind, dtype, _, _ = WORK[name]
    cls = getattr(diffusers, kind)
    torch.manual_seed(0)
    with torch.device(device):
        made = cls.from_config(cls.load_config(CONFIGS / source / "vae"))
    for key, parameter in made.named_parameters():
        if parameter.dim() > 1 and "gamma" not in key:  # as large as what comes in
            torch.nn.init.normal_(parameter, 0.0, (2.0 / parameter[0].numel()) ** 0.5)
        elif "gamma" in key or "norm" in key:
            torch.nn.init.normal_(parameter, 1.0, 0.1)
    return made.to(dtype).eval().requires_grad_(False)


def timed(do: Callable[[], Any]) -> float:
    """Seconds of a call, waited for."""
    wait()
    began = time.perf_counter()
    do()
    wait()
    return time.perf_counter() - began


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Relative error in the Euclidean norm."""
    return float((found.float() - wanted.float()).norm() / wanted.float().norm())


def peak_of(do: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, float, float]:
    """Result, GiB at the peak above what was allocated, and seconds of a first call."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    made: list[torch.Tensor] = []
    seconds = timed(lambda: made.append(do()))
    most = (torch.cuda.max_memory_allocated() - before) / 2**30 if torch.cuda.is_available() else 0.0
    return made[0], most, seconds


def row(name: str, device: str, tiny: bool, most: float) -> dict[str, Any]:
    """Check and time one decode or encode."""
    encodes, work = name in ENCODES, name
    if encodes:
        name, whole, small = ENCODES[work]
        *_, dtype, _, _ = WORK[name]
    else:
        *_, dtype, whole, small = WORK[name]
        small = (small[0], 2, 4, 4) if tiny else small
    vae = vae_of(name, device)

    def called(each: Any, given: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = each.encode(given).latent_dist.mode() if encodes else each.decode(given).sample
        return made

    rebuilt = view(vae)
    said: list[str] = []
    refused = rebuilt_vae.rebuild(rebuilt, said.append)
    assert refused is None, refused
    found: dict[str, Any] = {"work": work, "dtype": str(dtype).removeprefix("torch.")}

    exact = vae_of(name, device).float()
    tf32 = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    latents = torch.randn(1, *small, device=device)
    wanted = called(exact, latents)
    torch.backends.cudnn.allow_tf32 = tf32
    del exact
    given = latents.to(dtype)
    for key, each in (("stock", vae), ("rebuilt", rebuilt)):
        found[f"{key}_error_to_float32"] = error(called(each, given), wanted)
    del wanted

    given = torch.randn(1, *(small if tiny else whole), device=device, dtype=dtype)
    made: dict[str, torch.Tensor] = {}
    for key, each in (("stock", vae), ("rebuilt", rebuilt)):
        made[key], found[f"{key}_peak_gib"], found[f"{key}_first_seconds"] = peak_of(
            lambda each=each: called(each, given)  # type: ignore[misc]
        )
        assert bool(torch.isfinite(made[key]).all()), f"{key}: values that are not finite"
    found["rebuilt_error_to_stock"] = error(made["rebuilt"], made["stock"])
    found["warnings"] = said
    made.clear()

    times: dict[str, list[float]] = {"stock": [], "rebuilt": []}
    began = time.perf_counter()
    while len(times["stock"]) < 2 or (time.perf_counter() - began < most and len(times["stock"]) < 7):
        for key, each in (("stock", vae), ("rebuilt", rebuilt)):
            times[key].append(timed(lambda each=each: called(each, given)))  # type: ignore[misc]
    if "wan" in name and not encodes:
        for chunk in (1, 2, 4):
            rebuilt._decode.made.chunk = chunk  # type: ignore[method-assign]
            _, peak, _ = peak_of(lambda: rebuilt.decode(given).sample)
            found[f"chunk_{chunk}"] = {"seconds": timed(lambda: rebuilt.decode(given)), "peak_gib": peak}
    for key, values in times.items():
        found[f"{key}_seconds"] = statistics.median(values)
        found[f"{key}_spread"] = [min(values), max(values)]
    found["ratio"] = found["rebuilt_seconds"] / found["stock_seconds"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="?", default=",".join([*WORK, *ENCODES]), help="rows, with commas between them")
    parser.add_argument("--seconds", type=float, default=20.0, help="for the decodes of a row")
    parser.add_argument("--tiny", action="store_true", help="small sizes, on any device")
    parser.add_argument("--out", type=Path, help="a JSON file; rows that it has are not made again")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not arguments.tiny:
        sys.exit("no GPU; --tiny tries the script")
    rows: list[dict[str, Any]] = (
        json.loads(arguments.out.read_text()) if arguments.out and arguments.out.exists() else []
    )
    for name in arguments.names.split(","):
        if any(each["work"] == name for each in rows):
            continue
        made = row(name, device, arguments.tiny, arguments.seconds)
        made["device"] = torch.cuda.get_device_name() if device == "cuda" else "cpu"
        made["torch"] = torch.__version__
        print(json.dumps(made, indent=1), flush=True)
        rows.append(made)
        if arguments.out:
            arguments.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    with torch.no_grad():
        main()
