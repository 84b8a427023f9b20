"""How long a process takes to start: `python tests/benchmarks/start.py [-- WORKFLOW WORDS …]`.

Processes of `sgd exec` run one after the other. For each, the table shows seconds from the start of the process to the
first call of a node, to the call of `text.encode`, whose components are then in memory, and to the end of the first
step of a loop, the seconds of this step alone, and the phases `import` and `load` of its record. `cpu` is the
processor time of the process, which other work on the machine changes less.

`--against FOLDER` takes turns with another package `sgd`, such as that of the commit before, with the same packages
around it. `--cold` asks the system to forget the files of the installed packages before each process; files that
another process maps stay. `--device` and `--weights` are those of `sgd exec`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import sgd
from sgd.graph.contract.text_tables import columns


@dataclass(frozen=True)
class Times:
    """Seconds of one process."""

    whole: float
    cpu: float
    first_node: float
    text: float
    first_step: float
    step: float
    imported: float
    loaded: float


TITLES = ("whole", "cpu", "first node", "text.encode", "first step", "(alone)", "(import)", "(load)")


def process(package: Path, words: list[str]) -> Times:
    """Run `sgd exec` of a package in a process of its own, and read its record and its trace."""
    paths = [str(package), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        command = [sys.executable, "-m", "sgd", "exec", *words, "--quiet", "--out", f"{folder}/out"]
        command += ["--trace", str(trace)]
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        whole, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            sys.exit(f"{' '.join(command)}\n{done.stderr}")
        record = json.loads((Path(folder) / "out" / "run.json").read_text())
        events = json.loads(trace.read_text())["traceEvents"]
    phases = record["phases"]
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Times(whole, cpu, *starts(events), phases["import"], phases["load"])


def starts(events: list[dict[str, Any]]) -> tuple[float, float, float, float]:
    """Seconds to the first call of a node, to that of `text.encode`, to the end of a loop's first step, and of it."""
    work = [event for event in events if event["ph"] == "X"]
    nodes = [event for event in work if event["cat"] == "node"]
    text = [event["ts"] for event in nodes if event["name"].endswith("text.encode")]
    steps = [(event["ts"] + event["dur"], event["dur"]) for event in work if event["cat"] == "turn"]
    end, took = min(steps, default=(float("nan"), float("nan")))
    first = min(event["ts"] for event in nodes)
    return first / 1e6, min(text, default=float("nan")) / 1e6, end / 1e6, took / 1e6


def forget_files() -> None:
    """Ask the system to drop the installed packages' files from its cache."""
    for path in Path(sysconfig.get_paths()["purelib"]).rglob("*"):
        if path.suffix in {".py", ".pyc", ".so"} or ".so." in path.name:
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def row(name: str, times: list[Times]) -> list[str]:
    """The median of each column over all processes."""
    return [name, *(f"{statistics.median(getattr(each, field.name) for each in times):.2f}" for field in fields(Times))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", default=["quickstart", "steps=2"], help="words after `sgd exec`")
    parser.add_argument("--repeats", type=int, default=3, help="processes of each installation (default: 3)")
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="a folder that holds another package `sgd`")
    parser.add_argument("--cold", action="store_true", help="forget the packages' files before each process")
    parser.add_argument("--device", default="auto", help="as in `sgd exec`")
    parser.add_argument("--weights", default="real", help="as in `sgd exec`")
    given = parser.parse_args()
    words = [*given.words, "--device", given.device, "--weights", given.weights]
    ours = Path(sgd.__file__).parents[1]
    packages = {"ours": ours} if given.against is None else {"other": given.against.resolve(), "ours": ours}
    found: dict[str, list[Times]] = {name: [] for name in packages}
    for _ in range(given.repeats):
        for name, package in packages.items():
            if given.cold:
                forget_files()
            found[name].append(process(package, words))
            print(f"{name}: {found[name][-1].whole:.2f} s", file=sys.stderr)
    print(f"sgd exec {' '.join(words)}; {'cold' if given.cold else 'warm'} files; {device()}; {platform.platform()}")
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores; medians of {given.repeats}, seconds")
    print("\n".join(columns([("", *TITLES), *(row(name, times) for name, times in found.items())])))
    if len(found) == 2:
        pairs = list(zip(found["other"], found["ours"], strict=True))
        for field in ("cpu", "text"):
            ratios = sorted(getattr(ours, field) / getattr(other, field) for other, ours in pairs)
            print(f"{field}, ours / other, by pair: {', '.join(f'{ratio:.2f}' for ratio in ratios)}")


def device() -> str:
    """The name of the GPU, if there is one."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


if __name__ == "__main__":
    main()
