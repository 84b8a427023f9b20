"""One clip on several GPUs: steps and decodes on all cards together and on one, with diffusers beside them.

    python tests/benchmarks/parallel.py wan,hunyuan,flux --seconds 500 --out parallel.json

Each work runs under torchrun with a process for each GPU (`parallel_rank.py`): random weights of full size, `speed:
exact`, no cache gate. The ways take turns in one process. Then diffusers' transformer computes the same step with
compiled blocks and its own context parallelism (`parallel_peer.py`), on one card and on all, for families that have a
plan for it. The file of results is written after each part; the same command goes on after the last one. `--tiny` runs
tiny models on the CPU, in two processes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BEGAN = time.perf_counter()


@dataclass(frozen=True)
class Work:
    """The work of a family. Families have the names of `steps.py`.

    Attributes:
        branches: Both branches of guidance run, so that ranks can have one each.
        peer: diffusers has a plan for context parallelism, and `parallel_peer.py` the inputs.
        seconds: No part is started with less time left.
        target: How many times faster a step is to be on two cards; None if no target was set.
        decode: The same for the decode.
    """

    branches: bool = False
    peer: bool = False
    seconds: int = 80
    target: float | None = None
    decode: float | None = None


WORKS = {
    "wan": Work(branches=True, peer=True, target=1.9, decode=1.7),
    "hunyuan": Work(target=1.85, decode=1.7),
    "flux": Work(peer=True, target=1.6),
    "qwen": Work(branches=True, peer=True),
    "z": Work(),
    "ti2v": Work(branches=True),
    "a14b": Work(branches=True),
}


def cards() -> int:
    """GPUs of this machine."""
    import torch

    return torch.cuda.device_count()


def started(script: str, words: list[str], count: int, seconds: float) -> dict[str, Any]:
    """Run a script in `count` processes under torchrun; the file that it writes, or why it failed."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "made.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
        command += [str(HERE / script), *(str(out) if word == "OUT" else word for word in words)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=max(seconds, 30.0))
        except subprocess.TimeoutExpired:
            return {"failed": f"not done after {seconds:.0f} s"}
        if done.returncode or not out.exists():
            return {"failed": f"exit {done.returncode}: {done.stderr[-1500:]}"}
        found: dict[str, Any] = json.loads(out.read_text())
        return found


def rows(results: dict[str, Any]) -> Iterator[str]:
    """A Markdown table: medians, and how many times faster than one card."""
    yield "| work | ranks | one card, s | all cards, s | times faster | target | GB a rank sent in a step | error |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for name, work in WORKS.items():
        ours = results.get(f"{name} sgd", {})
        for part, found in ours.items():
            if not isinstance(found, dict) or "one" not in found:
                continue
            for way in found:
                if way in ("one", "sent"):
                    continue
                if "seconds" not in found[way] or "seconds" not in found["one"]:
                    yield f"| {name}, {part}, {way} | {ours['ranks']} | {found} | | | | | |"
                    continue
                one, both = (statistics.median(found[key]["seconds"]) for key in ("one", way))
                target = work.decode if part == "decode" else work.target
                yield (
                    f"| {name}, {part}, {way} | {ours['ranks']} | {one:.4f} | {both:.4f} | {one / both:.2f} | "
                    f"{target or '–'} | {found.get('sent', 0) / 1e9:.2f} | {found[way]['error']:.1e} |"
                )
        if "failed" in ours:
            yield f"| {name} | | {ours['failed']} | | | | | |"
        peers = [results.get(f"{name} diffusers {count}", {}) for count in (1, results.get("cards", 2))]
        one, both = (each.get("seconds") for each in peers)
        if one and both:
            yield f"| {name}, diffusers | {results['cards']} | {one:.4f} | {both:.4f} | {one / both:.2f} | – | | |"
        elif any(peers):
            yield f"| {name}, diffusers | | {peers[0]} | {peers[1]} | | | | |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="?", default="wan,hunyuan,flux", help=f"of {', '.join(WORKS)}")
    parser.add_argument("--seconds", type=float, default=500, help="start nothing that could end later than this")
    parser.add_argument("--out", type=Path, default=Path("parallel.json"))
    parser.add_argument("--host-profile", action="store_true", help="also keep where the host spends a step")
    parser.add_argument("--kernels", action="store_true", help="also keep the kernels of a step")
    parser.add_argument("--compiled", action="store_true", help="also steps with compiled blocks")
    parser.add_argument("--graph", action="store_true", help="also steps that are launched as one CUDA graph")
    parser.add_argument("--tiny", action="store_true", help="tiny models on the CPU, without diffusers beside them")
    arguments = parser.parse_args()
    results: dict[str, Any] = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    count = results["cards"] = 2 if arguments.tiny else cards()
    if count < 2:
        sys.exit("this needs two GPUs; --tiny runs on a CPU")
    given = {"--tiny": arguments.tiny, "--host-profile": arguments.host_profile, "--compiled": arguments.compiled}
    given |= {"--graph": arguments.graph, "--kernels": arguments.kernels}
    extra = [word for word, wanted in given.items() if wanted]

    def measure(key: str, script: str, words: list[str], ranks: int, least: int) -> None:
        left = arguments.seconds - (time.perf_counter() - BEGAN)
        if "failed" not in results.get(key, {"failed": ""}):
            return
        if left < least and not arguments.tiny:
            print(f"{key}: put off, too little time", flush=True)
            return
        results[key] = started(script, words, ranks, left)
        print(f"[{time.perf_counter() - BEGAN:4.0f}] {key}: {results[key].get('failed', 'done')}", flush=True)
        arguments.out.write_text(json.dumps(results, indent=1))

    for name in arguments.names.split(","):
        work = WORKS[name]
        meshes = ";".join([*(["branches=2"] if work.branches and count == 2 else []), f"ulysses={count}"])
        words = [name, "--parallel", meshes, "--out", "OUT", *extra]
        measure(f"{name} sgd", "parallel_rank.py", words, count, work.seconds)
        if work.peer and not arguments.tiny:
            for ranks in (1, count):
                measure(f"{name} diffusers {ranks}", "parallel_peer.py", [name, "OUT"], ranks, work.seconds)
    print("\n".join(rows(results)))


if __name__ == "__main__":
    main()
