"""Gates on full-size transformers with random weights, on a GPU, beside the cache-dit package.

    python tests/benchmarks/gates_full_size.py [--model flux|hunyuan-video|wan] [--steps N] [--out FILE]

With random weights no decision means anything, so that the decisions are fixed: the same static mask for both. Loops
take turns, after one of each that does not count; times are those of whole loops, waited for once.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from helpers.direct import DirectRun, sample
from sgd.graph.contract.node import Here
from sgd.nodes import cfg, latents, schedule
from sgd.nodes.cache.masks import preset_mask
from sgd.nodes.cache.methods.scm import scm
from sgd.nodes.models.nodes.model_load import load
from sgd.nodes.values import Conditioning

MODELS = {
    "flux": ("black-forest-labs/FLUX.1-dev", {"width": 1024, "height": 1024}, 28),
    "hunyuan-video": ("hunyuanvideo-community/HunyuanVideo", {"width": 848, "height": 480, "frames": 65}, 12),
    "wan": ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", {"width": 832, "height": 480, "frames": 81}, 12),
}


def conditioning(family: str) -> Conditioning:
    """Random encoded prompts of the shapes that the text encoders give."""
    options: dict[str, Any] = {"device": "cuda", "dtype": torch.bfloat16}
    if family == "flux":
        made = {"embeddings": torch.randn(1, 512, 4096, **options), "pooled": torch.randn(1, 768, **options)}
    elif family == "hunyuan-video":
        made = {
            "encoder_hidden_states": torch.randn(1, 56, 4096, **options),
            "encoder_attention_mask": torch.ones(1, 56),
            "pooled_projections": torch.randn(1, 768, **options),
        }
    else:
        made = {"encoder_hidden_states": torch.randn(1, 512, 4096, **options)}
    return Conditioning(made, None, family)


def loops(name: str, steps: int) -> dict[str, Any]:
    """Functions that each run one loop: ours with and without a gate, and ours with cache-dit's blocks inside."""
    import cache_dit
    from cache_dit import BlockAdapter, DBCacheConfig, ForwardPattern

    source, size, _ = MODELS[name]
    run = DirectRun()
    run.device, run.options = "cuda", {"weights": "dummy"}  # type: ignore[misc]
    model = load(run, source)
    for part in ("transformer", "scheduler"):
        model.acquire(part, run)
    start = latents.noise(model, **size)
    plan = schedule.make(model, steps=steps, latents=start)
    embedded = {"flux": 3.5, "hunyuan-video": 6.0}.get(name)
    branches = cfg.split(conditioning(model.family.name), scale=1.0, embedded=embedded)
    mask = preset_mask("fast", steps)
    transformer = model.component("transformer")

    def ours(gate: Any = None) -> Any:
        def loop() -> None:
            sample(model, plan, start, branches, gate=gate)

        return loop

    patterns = {
        "flux": ForwardPattern.Pattern_1,
        "hunyuan-video": ForwardPattern.Pattern_0,
        "wan": ForwardPattern.Pattern_2,
    }
    lists = [getattr(transformer, attribute) for attribute in model.family.blocks.lists]

    def library() -> None:
        config = DBCacheConfig(
            Fn_compute_blocks=1,
            steps_computation_mask=[int(digit) for digit in mask],
            steps_computation_policy="static",
            num_inference_steps=steps,
            max_warmup_steps=1,
        )
        kind: Any = lists if len(lists) > 1 else lists[0]
        pattern: Any = [patterns[name]] * len(lists) if len(lists) > 1 else patterns[name]
        adapter = BlockAdapter(transformer=transformer, blocks=kind, forward_pattern=pattern)
        cache_dit.enable_cache(adapter, cache_config=config)
        try:
            sample(model, plan, start, branches)
        finally:
            cache_dit.disable_cache(adapter)

    separate = "separate" if len(lists) > 1 else "together"
    return {
        "none": ours(),
        "cache.scm": ours(scm(Here("gate"), mask=mask, front_blocks=1)),
        "cache.scm, decided for each list": ours(scm(Here("gate"), mask=mask, front_blocks=1, stacks=separate)),
        "cache-dit": library,
        "mask": mask,
    }


def measure(made: dict[str, Any], repeats: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in made}
    for turn in range(repeats + 1):
        for name, loop in made.items():
            torch.cuda.synchronize()
            began = time.perf_counter()
            loop()
            torch.cuda.synchronize()
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=MODELS, default="flux")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out")
    arguments = parser.parse_args()
    steps = arguments.steps or MODELS[arguments.model][2]
    with torch.no_grad():
        made = loops(arguments.model, steps)
        mask = made.pop("mask")
        seconds = measure(made, arguments.repeats)
    print(f"{arguments.model}, {steps} steps, mask {mask}, {torch.cuda.get_device_name()}, torch {torch.__version__}")
    plain = statistics.median(seconds["none"])
    for name, values in seconds.items():
        middle = statistics.median(values)
        print(f"| {name} | {middle:.3f} s | {plain / middle:.2f}x | {min(values):.3f} to {max(values):.3f} |")
    if arguments.out:
        Path(arguments.out).write_text(json.dumps({"mask": mask, "seconds": seconds}, indent=1))


if __name__ == "__main__":
    main()
