"""A denoising step of diffusers' transformer with context parallelism; `parallel.py` starts it under torchrun.

Blocks are compiled. Each attention backend that allows context parallelism is tried, and the fastest one counts. Wan
and Qwen-Image compute both branches of guidance, one after the other, as diffusers' pipelines do. With one process the
same module runs without parallelism.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parents[1]))

from diffusers import ContextParallelConfig
from helpers.direct import DirectRun
from sgd.nodes.models.nodes.model_load import load

SOURCES = {
    "wan": "Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
    "flux": "black-forest-labs/FLUX.1-dev",
    "qwen": "Qwen/Qwen-Image",
}
BACKENDS = ("native", "_native_cudnn")
TURNS, REPEATS = 3, 4
"""Times that are measured, and steps in a row of each."""


def calls(family: str) -> list[dict[str, Any]]:
    """The arguments of each call of a step, random and equal on all ranks."""
    generator = torch.Generator("cuda").manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device="cuda", dtype=torch.bfloat16)

    if family == "wan":
        latents = random(1, 16, 21, 60, 104)
        timestep = torch.tensor([700], device="cuda")
        return [
            {"hidden_states": latents, "timestep": timestep, "encoder_hidden_states": random(1, 512, 4096)}
            for _ in range(2)
        ]
    if family == "qwen":
        rest = {"img_shapes": [[(1, 64, 64)]], "timestep": torch.tensor([0.7], device="cuda", dtype=torch.bfloat16)}
        latents = random(1, 4096, 64)
        return [{"hidden_states": latents, "encoder_hidden_states": random(1, 56, 3584), **rest} for _ in range(2)]
    places = torch.zeros(64, 64, 3, device="cuda")
    places[..., 1] += torch.arange(64, device="cuda")[:, None]
    places[..., 2] += torch.arange(64, device="cuda")[None]
    return [
        {
            "hidden_states": random(1, 4096, 64),
            "encoder_hidden_states": random(1, 512, 4096),
            "pooled_projections": random(1, 768),
            "timestep": torch.tensor([0.7], device="cuda", dtype=torch.bfloat16),
            "guidance": torch.tensor([3.5], device="cuda"),
            "img_ids": places.reshape(-1, 3),
            "txt_ids": torch.zeros(512, 3, device="cuda"),
        }
    ]


def main() -> None:
    family, out = sys.argv[1], Path(sys.argv[2])
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if size > 1:
        dist.init_process_group("cpu:gloo,cuda:nccl")
    run = DirectRun()
    run.device, run.options = "cuda", {"weights": "dummy"}
    model = load(run, SOURCES[family], dtype="bfloat16")
    model.acquire("transformer", run)
    module = model.component("transformer")
    if size > 1:
        module.enable_parallelism(config=ContextParallelConfig(ulysses_degree=size))
    module.compile_repeated_blocks()
    found: dict[str, Any] = {}
    with torch.inference_mode():
        arguments = calls(family)
        for backend in BACKENDS:
            try:
                module.set_attention_backend(backend)
                for _ in range(2):
                    made = [module(**each, return_dict=False)[0] for each in arguments]
                assert all(torch.isfinite(each).all() for each in made), "not finite"
                times = []
                for _ in range(TURNS):
                    torch.cuda.synchronize()
                    began = time.perf_counter()
                    for each in arguments * REPEATS:
                        module(**each, return_dict=False)
                    torch.cuda.synchronize()
                    times.append((time.perf_counter() - began) / REPEATS)
                found[backend] = statistics.median(times)
            except Exception as error:
                found[backend] = f"{type(error).__name__}: {str(error)[:300]}"
    if rank == 0:
        seconds = [each for each in found.values() if isinstance(each, float)]
        out.write_text(json.dumps({"seconds": min(seconds, default=None), "backends": found}))
    if size > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
