"""Clips in a row with and without `--overlap`, at full size with random weights: `python tests/benchmarks/overlap.py`.

    python tests/benchmarks/overlap.py --out FILE [--clips 16] [--steps 50,4] [--rounds 1] [--seconds N]
    python tests/benchmarks/overlap.py --out FILE --overlap-device cuda:1

The workflow is `wan2_1_t2v` over a list of prompts: three loops, which encode the prompts, denoise, and decode and
write. All runs are in one process that keeps weights and compiled blocks, after one run that is not counted. For each
number of steps, a run without overlap and one with it make a pair; with `--overlap-device`, a third run decodes on
another GPU (`apart`). `span` is the time from the first step to the last byte. `bound` is the time of denoising in the
run without overlap (device time of its turns), plus one decode with its file. A row of FILE is written after each run,
and the same command goes on after the last row. Where PyAV is missing, clips are written as raw bytes. `--tiny` takes
the bundled model, on any device.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any

import sgd
from sgd.graph.contract.device import choose
from sgd.graph.contract.node import OutPath, Run, node
from sgd.graph.contract.process_state import released
from sgd.graph.language.registry import installed
from sgd.nodes.support.pixels import to_bytes
from sgd.nodes.values import File, Frames

WORKFLOWS = Path(sgd.__file__).parent / "workflows"
TEXT = """\
sgd: 1
name: overlap
inputs:
  prompts: {{type: "list[str]"}}
  seeds: {{type: "list[int]"}}
  steps: {{type: int}}
nodes:
  loaded: {{uses: model.load, with: {{source: {source}}}}}
  model: {{uses: model.optimize, with: {{model: $loaded, level: {level}}}}}
  schedule: {{uses: schedule.make, with: {{model: $model, steps: $steps, shift: 3.0}}}}
  encode:
    for: {{prompt: $prompts}}
    body:
      text: {{uses: text.encode, with: {{model: $model, prompt: $prompt, negative: blurry}}}}
    yield: {{text: $text}}
  generate:
    for: {{text: $encode, seed: $seeds}}
    body:
      noise:
        uses: latents.noise
        with: {{model: $model, width: {width}, height: {height}, frames: {frames}, seed: $seed}}
      denoise:
        uses: "sgd:parts/cfg_denoise.yaml"
        with: {{model: $model, text: $text, latents: $noise, schedule: $schedule, scale: 5.0}}
    yield: {{latents: $denoise}}
  save:
    for: {{latents: $generate}}
    body:
      frames: {{uses: vae.decode, with: {{model: $model, latents: $latents}}}}
      file: {{uses: {saver}, with: {{frames: $frames, path: "clip-${{index}}.{suffix}"}}}}
    yield: {{file: $file}}
outputs: {{files: $save}}
"""
FULL = {"source": "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "width": 832, "height": 480, "frames": 81}
TINY = {"source": "sgd:models/tiny-wan", "width": 96, "height": 96, "frames": 17}


@node("benchmark.write", effect=True)
def write(run: Run, frames: Frames, path: OutPath) -> File:
    """Write a clip as raw bytes of RGB, where no video can be encoded."""
    target = run.output(path)
    pixels = to_bytes(frames.tensor[0])
    with released():
        target.write_bytes(pixels.tobytes())
    return File(target)


def plan_for(folder: Path, work: dict[str, Any], level: str, clips: int, steps: int) -> Any:
    """The plan of a number of clips."""
    video = find_spec("av") is not None
    saver, suffix = ("video.save", "mp4") if video else ("benchmark.write", "rgb")
    file = folder / "overlap.yaml"
    file.write_text(TEXT.format(**work, level=level, saver=saver, suffix=suffix))
    library = installed((Path(__file__),))
    prompts = [f"a lighthouse in a storm, seen from the sea, number {number}" for number in range(clips)]
    inputs = {"prompts": prompts, "seeds": list(range(clips)), "steps": steps}
    return sgd.compile(file, inputs=inputs, library=library)


def measured(plan: Any, out: Path, device: str, overlap: bool | str) -> dict[str, Any]:
    """A row: one run, and the times of its record."""
    began = perf_counter()
    done = sgd.run(plan, out=out, device=device, options={"weights": "dummy"}, overwrite=True, overlap=overlap)
    wall = perf_counter() - began
    if done.error is not None:
        raise done.error
    record = done.record
    turns = {name: [t for t in record["steps"] if t["loop"] == name] for name in ("generate", "save")}
    rows = {row["name"]: row for row in record["nodes"]}
    last = turns["save"][-1]
    files = b"".join(hashlib.sha256(path.read_bytes()).digest() for path in sorted(done.written))
    return {
        "wall_seconds": wall,
        "phases": record["phases"],
        "span": last["start"] + last["seconds"] - turns["generate"][0]["start"],
        "denoise": sum(t["seconds"] if t["device_seconds"] is None else t["device_seconds"] for t in turns["generate"]),
        "tails": [turn["seconds"] for turn in turns["save"]],
        "decode_device_seconds": rows["save.frames"]["device_seconds"],
        "decode_seconds": rows["save.frames"]["seconds"],
        "write_seconds": rows["save.file"]["seconds"],
        "overlapped_seconds": record.get("overlapped_seconds"),
        "overlap_device": record.get("overlap_device"),
        "peak_bytes": record["peak_bytes"],
        "device": record["environment"]["device"],
        "sha256": hashlib.sha256(files).hexdigest(),
        "warnings": record["warnings"],
    }


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The pairs as text."""
    lines = ["clips steps round  mode | without   with  faster | denoising + last tail   with / that | equal files"]
    for name, row in rows.items():
        clips, steps, mode, number = name.split("/")
        before = rows.get(f"{clips}/{steps}/without/{number}")
        if mode == "without" or before is None:
            continue
        bound = before["denoise"] + before["tails"][-1]
        lines.append(
            f"{clips:>5} {steps:>5} {number:>5} {mode:>5} | {before['span']:7.2f} {row['span']:6.2f} "
            f"{before['span'] / row['span']:7.3f} | {before['denoise']:9.2f} + {before['tails'][-1]:9.2f}   "
            f"{row['span'] / bound:11.3f} | {before['sha256'] == row['sha256']}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the JSON file of the rows")
    parser.add_argument("--clips", type=int, default=16, help="clips of each run")
    parser.add_argument("--steps", default="4,50", help="numbers of steps, with commas")
    parser.add_argument("--rounds", type=int, default=1, help="pairs for each number of steps")
    parser.add_argument("--level", default="exact", help="the level of model.optimize")
    parser.add_argument("--seconds", type=float, default=540.0, help="begin no run that would not be over by then")
    parser.add_argument("--overlap-device", metavar="cuda:N", help="measure runs that decode on this GPU too")
    parser.add_argument("--tiny", action="store_true", help="the bundled model, on any device")
    given = parser.parse_args()
    began = perf_counter()
    rows: dict[str, dict[str, Any]] = json.loads(given.out.read_text()) if given.out.exists() else {}
    work = TINY if given.tiny else FULL
    device = choose("auto", installed().libraries.values())
    overlaps: dict[str, bool | str] = {"without": False, "with": True}
    if given.overlap_device is not None:
        overlaps["apart"] = given.overlap_device
    names = [
        (steps, mode, f"{given.clips}/{steps}/{mode}/{number}")
        for number in range(given.rounds)
        for steps in map(int, given.steps.split(","))
        for mode in (overlaps if number % 2 == 0 else reversed(overlaps))
    ]
    with tempfile.TemporaryDirectory() as name, sgd.session():
        folder, warm = Path(name), False
        a_step = 0.0
        for steps, mode, row in names:
            if row in rows:
                continue
            if not warm:
                plan = plan_for(folder, work, given.level, 2, 2)
                for overlap in overlaps.values():
                    found = measured(plan, folder / "warm", device, overlap)
                    print(f"warm-up: {found['wall_seconds']:.1f} s", flush=True)
                a_step, warm = found["denoise"] / 4, True
            needs = given.clips * (steps * a_step + found["decode_seconds"] / 2 + found["write_seconds"] / 2)
            if perf_counter() - began + 1.2 * needs > given.seconds:
                print(f"{row}: no time left (about {needs:.0f} s); start the script again", flush=True)
                break
            plan = plan_for(folder, work, given.level, given.clips, steps)
            rows[row] = measured(plan, folder / "run", device, overlaps[mode])
            given.out.write_text(json.dumps(rows, indent=1))
            print(f"{row}: span {rows[row]['span']:.2f} s, {rows[row]['warnings']}", flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
