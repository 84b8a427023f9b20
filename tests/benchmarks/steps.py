"""Denoising steps of full-size transformers with random weights: diffusers' path, compiled blocks, `exact`, `fast`.

    python tests/benchmarks/steps.py flux,hunyuan,qwen,z,wan,a14b,ti2v --seconds 500 --out steps.json

A step is `denoiser.predict` with all branches of its guidance. For each family, a few blocks of it first run in float32
for the error of each way; outputs must be finite and near (`BOUNDS`) before anything is timed. Then the ways take turns
in one process. Results go into the file after each family, and what the file holds is not measured again. A family is
left out if the time that is left is too short; call the script again. `--tiny` runs it on a CPU with tiny models.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from helpers import tiny, tiny_flux, tiny_hunyuan_video, tiny_qwen_image, tiny_z_image
from helpers.direct import DirectRun, predict
from sgd.nodes import cfg, latents, schedule
from sgd.nodes.models.attention.attention_target import Target
from sgd.nodes.models.memory.component_views import view
from sgd.nodes.models.model import Model
from sgd.nodes.models.nodes.model_load import load
from sgd.nodes.models.transforms.attention_transform import Attention
from sgd.nodes.models.transforms.compile_transform import Compile
from sgd.nodes.models.transforms.optimize_transform import Optimize
from sgd.nodes.models.transforms.quantize_transform import Quantize
from sgd.nodes.models.transforms.sensitive_layers import LAYERS
from sgd.nodes.values import Conditioning

RATE = 790e12
"""Operations a second of a large bfloat16 product on an H100, with which floors are computed."""

BOUNDS = {"eager": 0.01, "compiled": 0.05, "exact": 0.05, "fast": 0.2}
"""Largest relative difference of a way's output from that of `eager`; a way beyond it is not timed."""

BEGAN = time.time()


@dataclass(frozen=True)
class Work:
    """One family's work.

    Attributes:
        source: Name on the hub.
        size: Arguments of latents.noise.
        text: Shapes of encoded prompts: tokens of the positive and the negative prompt, or of one prompt.
        operations: Operations of a step, from docs/performance.md; 0 if not counted there.
        least: Seconds that measuring the family takes on an H100, with a cold cache of kernels.
    """

    source: str
    size: dict[str, int]
    text: tuple[int, ...]
    operations: float
    least: int


VIDEO = {"width": 832, "height": 480, "frames": 81}
WORKS = {
    "flux": Work("black-forest-labs/FLUX.1-dev", {"width": 1024, "height": 1024}, (512,), 74.3e12, 110),
    "hunyuan": Work(
        "hunyuanvideo-community/HunyuanVideo",
        {"width": 848, "height": 480, "frames": 65},
        (56,),
        916e12,
        190,
    ),
    "qwen": Work("Qwen/Qwen-Image", {"width": 1024, "height": 1024}, (56, 40), 137.9e12, 140),
    "z": Work("Tongyi-MAI/Z-Image-Turbo", {"width": 1024, "height": 1024}, (30,), 55.1e12, 95),
    "wan": Work("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", VIDEO, (512, 512), 565e12, 110),
    "a14b": Work("Wan-AI/Wan2.2-T2V-A14B-Diffusers", VIDEO, (512, 512), 3357e12, 230),
    "ti2v": Work(
        "Wan-AI/Wan2.2-TI2V-5B-Diffusers",
        {"width": 1280, "height": 704, "frames": 121},
        (512, 512),
        1032e12,
        150,
    ),
}


def say(*words: Any) -> None:
    print(f"[{time.time() - BEGAN:4.0f}]", *words, flush=True)


def conditioning(name: str, work: Work, model: Model, dtype: torch.dtype) -> Conditioning:
    """Random encoded prompts of the shapes that the text encoders give."""
    device, config = model.device, model.config("transformer")
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
            return {"embeddings": random(1, tokens, width), "lengths": torch.tensor([tokens])}
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

    def __call__(self, model: Model) -> torch.Tensor:
        made = predict(model, self.start, self.at, self.branches)
        return torch.cat([value.float() for value in made.branches.values()])


@contextmanager
def step_of(name: str, work: Work, device: str, small: bool) -> Iterator[Step]:
    run = DirectRun()
    run.device = device
    with tempfile.TemporaryDirectory() as folder:
        if small:
            source = str(save_tiny(name, Path(folder)))
            run.options = {}
        else:
            source, run.options = work.source, {"weights": "dummy"}
        model = load(run, source, dtype="bfloat16" if device == "cuda" else "float32")
        for part in ("transformer", "scheduler"):
            model.acquire(part, run)
        little = {"width": 64, "height": 64} | ({"frames": 9} if "frames" in work.size else {})
        size = little if small else work.size
        start = latents.noise(model, **size)
        plan = schedule.make(model, steps=20, latents=start)
        embedded = {"flux": 3.5, "hunyuan": 6.0}.get(name)
        scale = 5.0 if len(work.text) > 1 else (0.0 if name == "z" else 1.0)
        prompts = conditioning(name, work, model, model.dtype("transformer"))
        branches = cfg.split(prompts, scale=scale, embedded=embedded)
        try:
            yield Step(model, start, list(plan)[6], branches)
        finally:
            for part in ("transformer", "scheduler"):
                model.release(part)


def ways(step: Step, device: str) -> dict[str, Model]:
    """The model as diffusers runs it, with compiled blocks, and optimised; each with its transforms."""
    model, config = step.model, step.model.config("transformer")
    name = type(model.component("transformer")).__name__
    target = Target("transformer", config, name, "bfloat16", device)
    backends = tuple(backend.library for backend in target.exact_backends())
    compiled = model.transformed(Attention("transformer", backends))
    compiled = compiled.transformed(Compile("transformer", "blocks", "default", False))
    made = {"eager": model, "exact": model.transformed(Optimize("transformer", True, backends))}
    allowed = target.exact_backends() if LAYERS[name].attention else target.fast_backends()
    quantized = model.transformed(fp8(device))
    made["fast"] = quantized.transformed(Optimize("transformer", True, tuple(each.library for each in allowed)))
    return made | ({"compiled": compiled} if device == "cuda" else {})


def fp8(device: str) -> Quantize:
    """The transform of `fast`; on a CPU for all layers, which no CPU multiplies faster."""
    return Quantize("transformer", "fp8", paying=device == "cuda")


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.float() - b.float()).norm() / b.float().norm())


def cut(module: Any, lists: Any, count: int) -> Any:
    """A view with the first blocks of each list."""
    made = view(module)
    for name in lists:
        setattr(made, name, torch.nn.ModuleList(list(getattr(made, name))[:count]))
    return made


class Fixed:
    """A model whose transformer is a given module with inputs of a dtype."""

    def __init__(self, model: Model, module: Any, dtype: torch.dtype) -> None:
        self._model, self._module, self._dtype = model, module, dtype

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def component(self, name: str) -> Any:
        return self._module if name == "transformer" else self._model.component(name)

    def dtype(self, name: str) -> torch.dtype:
        return self._dtype


def errors(step: Step, run: DirectRun, count: int = 2) -> dict[str, float]:
    """Errors of the first blocks against float32: diffusers' path and the rebuilt blocks, in the model's dtype."""
    module, lists = step.model.component("transformer"), step.model.family.blocks.lists
    eager = cut(module, lists, count)
    rebuilt = cut(module, lists, count)
    Optimize("transformer", True, ()).apply(rebuilt, run)
    fast = cut(module, lists, count)
    fp8(run.device).apply(fast, run)
    Optimize("transformer", True, ()).apply(fast, run)
    whole = copy.deepcopy(cut(module, lists, count), {}).float()
    found = {"blocks": run.details["rebuilt_blocks"]}
    exact = step(Fixed(step.model, whole, torch.float32))  # type: ignore[arg-type]
    del whole
    for name, each in (("eager", eager), ("exact", rebuilt), ("fast", fast)):
        made = step(Fixed(step.model, each, step.model.dtype("transformer")))  # type: ignore[arg-type]
        assert torch.isfinite(made).all(), f"{name} is not finite"
        found[name] = relative(made, exact)
    return found


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def timed(call: Callable[[], Any], device: str, repeats: int) -> tuple[list[float], str]:
    """Seconds of each of some calls in a row, and the card's clock, power and temperature during them."""
    call()
    wait(device)
    if device != "cuda":
        began = time.perf_counter()
        call()
        return [time.perf_counter() - began], ""
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
    marks[0].record()
    for mark in marks[1:]:
        call()
        mark.record()
    query = ["nvidia-smi", "--query-gpu=clocks.sm,power.draw,temperature.gpu", "--format=csv,noheader"]
    state = subprocess.run(query, capture_output=True, text=True).stdout.strip().splitlines()
    torch.cuda.synchronize()
    return [a.elapsed_time(b) / 1e3 for a, b in pairwise(marks)], state[0] if state else ""


def profile(call: Callable[[], Any], rows: int = 16) -> list[str]:
    """The kernels of one call that take the most time."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    call()
    torch.cuda.synchronize()
    with record(activities=[ProfilerActivity.CUDA]) as made:
        call()
        torch.cuda.synchronize()
    found = sorted(((e.self_device_time_total / 1e3, e.count, e.key) for e in made.key_averages()), reverse=True)
    total = sum(ms for ms, _, _ in found)
    return [f"{total:.2f} ms in all", *(f"{ms:8.2f} ms {count:5d} x {key[:100]}" for ms, count, key in found[:rows])]


def measure(name: str, work: Work, device: str, small: bool, deadline: float, turns: int) -> dict[str, Any]:
    """Errors, first calls, peaks and times of a family."""
    run = DirectRun()
    run.device = device
    found: dict[str, Any] = {"ways": {}}
    with step_of(name, work, device, small) as step:
        say(name, "loaded")
        found["errors"] = errors(step, run)
        say(name, "errors against float32, first blocks:", found["errors"])
        gc.collect()
        models, reference = ways(step, device), step(step.model)
        assert torch.isfinite(reference).all(), "eager is not finite"
        ready = {}
        for way, model in models.items():
            own = DirectRun()
            own.device = device
            try:
                model.acquire("transformer", own)
                ready[way] = model
                began = time.time()
                step(model)  # shows the shapes to the choice of attention
                made = step(model)
                wait(device)
                first = time.time() - began
                error = relative(made, reference)
                if not (torch.isfinite(made).all() and error <= BOUNDS[way]):
                    raise AssertionError(f"not timed: the error to eager is {error:.2e}, the bound {BOUNDS[way]}")
                if device == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                step(model)
                wait(device)
                peak = torch.cuda.max_memory_allocated() if device == "cuda" else 0
                found["ways"][way] = {
                    "first": first,
                    "peak": peak,
                    "error": error,
                    "seconds": [],
                    "details": {key: str(value) for key, value in own.details.items()},
                }
                say(name, way, {k: v for k, v in found["ways"][way].items() if k != "seconds"})
            except Exception as problem:
                traceback.print_exc(limit=-4)
                ready.pop(way, None)
                found["ways"][way] = {"failed": f"{type(problem).__name__}: {str(problem)[:300]}"}
        counts = dict.fromkeys(ready, 1)
        for turn in range(turns):
            for way, model in ready.items():
                row = found["ways"][way]
                if "seconds" not in row or (time.time() > deadline and turn):
                    continue
                seconds, state = timed(lambda m=model: step(m), device, counts[way])  # type: ignore[misc]
                row["seconds"] += seconds
                row["state"] = state
                counts[way] = max(2, min(8, int(1.0 / seconds[0])))
        for way in ("exact", "fast"):
            if device == "cuda" and way in ready:
                found.setdefault("profile", []).extend([way, *profile(lambda m=ready[way]: step(m))])  # type: ignore[misc]
        for model in ready.values():
            model.release("transformer")
    return found


def table(results: dict[str, Any]) -> Iterator[str]:
    yield "| work | way | s a step (least to most) | floor x | error to eager | first s | GiB | attention | clock |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for name, found in results.items():
        for way, row in found.get("ways", {}).items():
            if not row.get("seconds"):
                yield f"| {name} | {way} | {row.get('failed', 'not timed')} | | | | | | |"
                continue
            middle, floor = statistics.median(row["seconds"]), WORKS[name].operations / RATE
            spread = f"{min(row['seconds']):.4f} to {max(row['seconds']):.4f}"
            yield (
                f"| {name} | {way} | {middle:.4f} ({spread}) | {middle / floor:.2f} | {row['error']:.2e} | "
                f"{row['first']:.1f} | {row['peak'] / 2**30:.1f} | {row['details'].get('attention', '')} | "
                f"{row.get('state', '')} |"
            )
        if "errors" in found:
            yield f"| {name} | first blocks against float32 | {found['errors']} | | | | | | |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", help=f"of {', '.join(WORKS)}; separated by commas")
    parser.add_argument("--seconds", type=float, default=500, help="start no family that could end later than this")
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("steps.json"))
    parser.add_argument("--tiny", action="store_true", help="tiny models on the CPU")
    arguments = parser.parse_args()
    device = "cpu" if arguments.tiny else "cuda"
    results = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    if device == "cuda":
        say(torch.cuda.get_device_name(), "torch", torch.__version__)
    with torch.inference_mode():
        for name in arguments.names.split(","):
            work = WORKS[name]
            if "ways" in results.get(name, {}):
                continue
            if time.time() - BEGAN + work.least > arguments.seconds and not arguments.tiny:
                say(name, "left out: too little time")
                continue
            try:
                deadline = BEGAN + arguments.seconds
                results[name] = measure(name, work, device, arguments.tiny, deadline, arguments.turns)
                if device == "cuda":
                    results[name]["card"] = torch.cuda.get_device_name()
            except Exception as error:
                traceback.print_exc()
                results[name] = {"failed": f"{type(error).__name__}: {str(error)[:300]}"}
            arguments.out.write_text(json.dumps(results, indent=1))
            for line in results[name].get("profile", []):
                print("   ", line)
            gc.collect()
            if device == "cuda":
                torch.cuda.empty_cache()
    for line in table(results):
        print(line)


if __name__ == "__main__":
    main()
