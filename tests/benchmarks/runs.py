"""Whole runs of bundled workflows at full size with random weights, on a GPU: `python tests/benchmarks/runs.py FOLDER`.

Each run is `sgd exec` in a process of its own, of a bundled file whose model goes through `model.attention` and, where
asked, `model.compile`. The tables are printed, and records (`run.json`) are left in the folder. Random weights cost the
time and memory of real ones; what they generate shows nothing.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import sgd

WORKFLOWS = Path(sgd.__file__).parent / "workflows"
CLIP, IMAGE = ("hunyuan_video_480p", "steps=10"), ("flux_dev", "steps=28")
RUNS: dict[str, tuple[tuple[str, str], dict[str, str], list[str]]] = {
    # bundled file and steps; model.attention and model.compile; more of the command line
    "clip-sdpa": (CLIP, {}, []),
    "clip-auto": (CLIP, {"attention": "backend: auto"}, ["--set", "decoded.tiling=false"]),
    "image-sdpa": (IMAGE, {}, []),
    "clip-keep-sdpa": (CLIP, {}, ["--set", "text.padding=keep"]),
    "clip-auto-compiled": (CLIP, {"attention": "backend: auto", "compile": "region: blocks"}, []),
    "image-auto-compiled": (IMAGE, {"attention": "backend: auto", "compile": "region: blocks"}, []),
    "image-auto": (IMAGE, {"attention": "backend: auto"}, []),
    "clip-sage": (CLIP, {"attention": "backend: sage"}, []),
    "clip-flash4": (CLIP, {"attention": "backend: flash4"}, []),
    "clip-keep-cudnn": (CLIP, {"attention": "backend: cudnn"}, ["--set", "text.padding=keep"]),
}


def variant(text: str, transforms: dict[str, str]) -> str:
    """The text of a workflow file whose node `model` is what these transforms make of the loaded model."""
    text = text.replace("./parts/", f"{WORKFLOWS}/parts/")
    if not transforms:
        return text
    names = ["loaded", *list(transforms)[:-1], "model"]
    text = re.sub(r"^  model: \{uses: model\.load", "  loaded: {uses: model.load", text, count=1, flags=re.MULTILINE)
    nodes = [
        f"  {made}: {{uses: model.{kind}, with: {{model: ${given}, {setting}}}}}"
        for given, made, (kind, setting) in zip(names[:-1], names[1:], transforms.items(), strict=True)
    ]
    head, rest = text.split("nodes:\n", 1)
    return head + "nodes:\n" + "\n".join(nodes) + "\n" + rest


def run(name: str, folder: Path, limit: float) -> dict[str, Any]:
    (bundled, steps), transforms, more = RUNS[name]
    out = folder / name
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"{bundled}.yaml"
    file.write_text(variant((WORKFLOWS / f"{bundled}.yaml").read_text(), transforms))
    command = [sys.executable, "-m", "sgd.graph.cli.main", "exec", str(file), "prompt=a lighthouse in a storm", steps]
    command.append("cache=0")  # random weights: what a gate decides means nothing
    command += ["--weights", "dummy", "--device", "cuda", "--out", str(out), "--overwrite", *more]
    began = perf_counter()
    print(f"\n== {name}: {steps}, {transforms} {' '.join(more)}", flush=True)
    try:
        code = subprocess.run(command, timeout=limit, stderr=subprocess.STDOUT).returncode
    except subprocess.TimeoutExpired:
        code = 124
    print(f"== {name}: exit {code}, {perf_counter() - began:.1f} s", flush=True)
    record = out / "run.json"
    found: dict[str, Any] = {"exit": code, "wall_seconds": perf_counter() - began}
    if record.exists():
        written = json.loads(record.read_text())
        found |= {key: written.get(key) for key in ("status", "phases", "peak_bytes", "environment", "warnings")}
        for node in written["nodes"]:
            short = node["name"].rsplit(".", 1)[-1]
            if node["type"] in ("text.encode", "denoiser.predict", "vae.decode"):
                kept = ("calls", "seconds", "device_seconds", "peak_bytes", "detail")
                found[short] = {key: node[key] for key in kept}
        found["steps"] = [round(step["seconds"], 4) for step in written["steps"]]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the runs are written")
    parser.add_argument("--only", default=",".join(RUNS), help="names of runs, with commas: " + ", ".join(RUNS))
    parser.add_argument("--seconds", type=float, default=1800.0, help="when to stop")
    given = parser.parse_args()
    began = perf_counter()
    found = {}
    for name in given.only.split(","):
        left = given.seconds - (perf_counter() - began)
        if left < 30:
            print(f"== {name}: no time left", flush=True)
            continue
        found[name] = run(name, given.folder.resolve(), left)
        (given.folder / "runs.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
