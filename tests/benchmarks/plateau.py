"""Memory of one process over many different runs: `python tests/benchmarks/plateau.py`.

Each run has a file of its own, with another name, prompt, seed, size, number of steps, guidance, cache gate and dtype.
Every tenth fails in a node, every tenth is refused by the compiler, and each is planned too. Printed are, after every
twenty runs, the resident memory and the number of Python objects that the garbage collector knows, and the growth for
each run over the last two thirds.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

FILE = """
sgd: 1
name: plateau-{number}
inputs: {{source: {{type: str}}}}
nodes:
  loaded_{number}: {{uses: model.load, with: {{source: $source, dtype: {dtype}, vae_dtype: float32}}}}
  model: {{uses: model.attention, with: {{model: $loaded_{number}, backend: sdpa}}}}
  text:
    uses: text.encode
    with: {{model: $model, prompt: ["a circle, number {number}"], negative: "dark {number}", max_length: 24}}
  noise: {{uses: latents.noise, with: {{model: $model, width: {width}, height: 32, frames: {frames}, seed: {number}}}}}
  schedule: {{uses: schedule.make, with: {{model: $model, steps: {steps}}}}}
  gate: {gate}
  denoise:
    for: {{step: $schedule}}
    carry: {{latents: $noise}}
    body:
      split: {{uses: cfg.split, with: {{conditioning: $text, scale: {scale}, guider: {guider}}}}}
      velocity:
        uses: denoiser.predict
        with: {{model: $model, latents: $latents, step: $step, branches: $split, gate: $gate}}
      guided: {{uses: cfg.merge, with: {{predictions: $velocity, branches: $split}}}}
      next:
        uses: schedule.step
        with: {{schedule: $schedule, step: $step, latents: $latents, velocity: $guided}}
    yield: {{latents: $next}}
  frames: {{uses: vae.decode, with: {{model: $model, latents: $denoise}}}}
  sheet: {{uses: frames.grid, with: {{frames: $frames, gap: 0, every: 1}}}}
  image: {{uses: image.save, with: {{frames: $sheet, path: sheet-{number}.png{fault}}}}}
  video: {{uses: video.save, with: {{frames: $frames, path: clip-{number}.mp4}}}}
outputs: {{image: $image, video: $video}}
"""
GATES = [
    "{uses: cache.none}",
    "{uses: cache.fora, with: {every: 2}}",
    "{uses: cache.taylorseer, with: {order: 1}}",
    "{uses: cache.easycache, with: {threshold: 0.05}}",
]


def text_of(number: int) -> str:
    fault = ", frame: 99" if number % 10 == 3 else ", quality: high" if number % 10 == 7 else ""
    return FILE.format(
        number=number,
        dtype=("float32", "bfloat16")[number % 2],
        width=32 + 16 * (number % 3),
        frames=1 + 4 * (number % 2),
        steps=3 + number % 4,
        gate=GATES[number % len(GATES)],
        scale=1 + number / 100,
        guider=("cfg", "apg", "cfg_zero_star")[number % 3],
        fault=fault,
    )


def one(number: int, folder: Path, source: Path) -> str:
    """Compile, plan and run one workflow; its status."""
    import sgd
    from sgd.graph.runtime.estimate import estimate

    file = folder / f"{number}.yaml"
    file.write_text(text_of(number))
    try:
        plan = sgd.compile(file, inputs={"source": str(source)})
    except sgd.Problems:
        return "refused"
    if number % 10 != 3:
        estimate(plan)
    return sgd.run(plan, out=folder / str(number)).status


def resident() -> float:
    """Resident memory of this process, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--trace", action="store_true", help="list the lines that allocate more and more (slow)")
    given = parser.parse_args()
    from helpers import tiny

    rows: list[tuple[int, float, int]] = []
    first: Any = None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = tiny.save("wan", folder / "model")
        counts: dict[str, int] = {}
        print("runs   resident MiB   objects", flush=True)
        for number in range(given.runs):
            status = one(number, folder, source)
            counts[status] = counts.get(status, 0) + 1
            if (number + 1) % 20 == 0:
                gc.collect()
                rows.append((number + 1, resident(), len(gc.get_objects())))
                print(f"{number + 1:4}   {rows[-1][1]:12.1f}   {rows[-1][2]:7}", flush=True)
                if given.trace and number + 1 == given.runs // 3 // 20 * 20:
                    tracemalloc.start(8)
                if given.trace and first is None and tracemalloc.is_tracing() and number + 1 > given.runs // 2:
                    first = tracemalloc.take_snapshot()
    later = rows[len(rows) // 3 :]
    span = max(1, later[-1][0] - later[0][0])
    print(", ".join(f"{count} {status}" for status, count in sorted(counts.items())))
    print(f"growth of each of the last {span} runs: {(later[-1][1] - later[0][1]) / span * 1024:.1f} KiB, ", end="")
    print(f"{(later[-1][2] - later[0][2]) / span:.1f} objects")
    if first is not None:
        for stat in tracemalloc.take_snapshot().compare_to(first, "traceback")[:12]:
            print(f"\n{stat.size_diff / 1024:.1f} KiB, {stat.count_diff} blocks")
            print("\n".join(stat.traceback.format()[-8:]))


if __name__ == "__main__":
    main()
