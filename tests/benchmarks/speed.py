"""The table of speed on a GPU: steps, decodes, the start of a process and a gate, each beside diffusers at its best.

    python tests/benchmarks/speed.py [NAMES] [--out speed.json] [--seconds 520] [--kernels] [--markdown speed.md]

Each row of the table (`speed_rows.py`) is measured in a process of its own, in which the ways take turns: diffusers'
eager path, diffusers with compiled blocks and the fastest exact attention, `exact` and `fast`. Results must be finite
and right before anything is timed. A row is written into the file when it is done, and the same command goes on after
the last one. No row begins that could end later than `--seconds`.

`--kernels` lists the kernels of each way that takes longer than its target; rows that were measured without them are
measured again. `--tiny` takes tiny models on the CPU: its times mean nothing. `--table` prints what the file holds.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from datetime import date
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from benchmarks.machine import this_machine
from benchmarks.speed_results import Measured, Results
from benchmarks.speed_rows import ROWS, Row
from benchmarks.speed_table import missed, table

KINDS = {"step": "steps", "decode": "decodes", "start": "start_row", "gate": "gates_full_size"}
"""The module with the function `measure` of each kind of row."""

SPARE = 5.0
"""Seconds that a process needs to end, and to be ended."""


def measure(row: Row, *, tiny: bool, kernels: bool, seconds: float = 40.0) -> Measured:
    """Measure one row in this process.

    Args:
        row: The row.
        tiny: Whether to take tiny models on the CPU.
        kernels: Whether to list the kernels of ways that miss their target.
        seconds: How long the turns may take.
    """
    device = "cpu" if tiny else "cuda"
    found = Measured(this_machine(device), str(date.today()))
    wanted: Callable[[Measured], list[str]] = (lambda found: missed(row, found)) if kernels else lambda _: []
    module = import_module(f"benchmarks.{KINDS[row.kind]}")
    try:
        with torch.no_grad():
            module.measure(row.work, found, device=device, small=tiny, seconds=seconds, missed=wanted)
    except Exception as problem:
        traceback.print_exc()
        found.failed = " ".join(f"{type(problem).__name__}: {problem}".split())[:300]
    return found


def done(row: Row, results: Results, kernels: bool) -> bool:
    """Whether the file has a result of a row, with its kernels if they are wanted."""
    found = results.rows.get(row.name)
    if found is None or found.failed:
        return False
    has_kernels = row.kind in ("step", "decode") and found.machine.product > 0
    return not (kernels and has_kernels and any(not found.ways[way].kernels for way in missed(row, found)))


def in_a_process(row: Row, options: argparse.Namespace, left: float) -> None:
    """Measure one row in a process of its own, which writes the file; it is ended after `left` seconds."""
    command = [sys.executable, __file__, row.name, "--out", str(options.out), "--here"]
    command += ["--kernels"] if options.kernels else []
    try:
        code = subprocess.run(command, timeout=left, check=False).returncode
        problem = f"its process ended with {code}" if code else ""
    except subprocess.TimeoutExpired:
        problem = f"not done after {left:.0f} s"
    if problem:
        results = Results(options.out)
        results.put(row.name, Measured(this_machine("cpu"), str(date.today()), failed=problem))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="?", default=",".join(ROWS), help=f"of {', '.join(ROWS)}; with commas")
    parser.add_argument("--out", type=Path, default=Path("speed.json"), help="the file of results")
    parser.add_argument("--markdown", type=Path, help="a file for the table, which is printed in any case")
    parser.add_argument("--seconds", type=float, default=520, help="begin no row that could end later than this")
    parser.add_argument("--kernels", action="store_true", help="list kernels where a target is missed")
    parser.add_argument("--tiny", action="store_true", help="tiny models on the CPU")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    parser.add_argument("--here", action="store_true", help="measure in this process")
    options = parser.parse_args()
    unknown = [name for name in options.names.split(",") if name not in ROWS]
    if unknown:
        parser.error(f"no row {', '.join(unknown)}; the rows are {', '.join(ROWS)}")
    if not (options.tiny or options.table or torch.cuda.is_available()):
        parser.error("this needs an NVIDIA GPU and a torch that was built for CUDA; --tiny tries the script")
    rows, began, results = [ROWS[name] for name in options.names.split(",")], time.monotonic(), Results(options.out)
    for row in () if options.table else rows:
        left = options.seconds - (time.monotonic() - began) - SPARE
        if done(row, results, options.kernels):
            continue
        if options.tiny or options.here:
            results.put(row.name, measure(row, tiny=options.tiny, kernels=options.kernels))
            continue
        if left < row.least:
            print(f"{row.name}: put off, {left:.0f} s are left and it may take {row.least}", flush=True)
            continue
        print(f"{row.name}: begins, {left:.0f} s are left", flush=True)
        in_a_process(row, options, left)
        results = Results(options.out)
    if options.here:
        return
    text = "\n".join(table(rows, results.rows))
    print(text)
    if options.markdown:
        options.markdown.write_text(text + "\n")


if __name__ == "__main__":
    main()
