"""The start of a process, for `speed.py`: `sgd exec` with random weights, again and again.

The first process fills the caches of files and kernels, and does not count. diffusers has no such command, so the row
compares with a process that imports its pipeline and its text encoder, and loads and encodes nothing.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import sgd
from benchmarks import start
from benchmarks.machine import state, waited
from benchmarks.speed_results import Measured, Way

WORDS = {
    "cuda": ["z_image_turbo", "prompt=boat", "steps=2", "cache=0", "--device", "cuda", "--weights", "dummy"],
    "cpu": ["quickstart", "steps=2", "--device", "cpu"],
}
IMPORTS = {
    "cuda": "from diffusers import ZImagePipeline; from transformers import Qwen3ForCausalLM",
    "cpu": "from diffusers import WanPipeline; from transformers import UMT5EncoderModel",
}
TEXT, STEP, THEIRS = "until `text.encode`", "first step", "imports of diffusers"
"""The ways: from the start of the process to the call; the first step of its loop alone; diffusers' imports alone."""


def measure(
    work: str, found: Measured, *, device: str, small: bool, seconds: float, missed: Callable[[Measured], list[str]]
) -> None:
    """Seconds until `text.encode` is called, and of the first step of the loop.

    Args:
        work: Not used: there is one workflow for each device.
        found: Receives the results.
        device: `cuda` or `cpu`.
        small: Whether one process after the first is enough.
        seconds: Not used: there are three processes.
        missed: Not used: kernels of a start are not listed.
    """
    package, words = Path(sgd.__file__).parents[1], WORDS[device]

    def process() -> start.Times:
        try:
            return start.process(package, words)
        except SystemExit as problem:
            raise RuntimeError(str(problem)[-300:]) from None

    def imports() -> None:
        subprocess.run([sys.executable, "-c", IMPORTS[device]], check=True, capture_output=True)

    first, whole = process(), []
    text, step, theirs = Way(first=first.text), Way(first=first.step), Way(first=waited(imports, "cpu"))
    found.ways |= {TEXT: text, STEP: step, THEIRS: theirs}
    for _ in range(1 if small else 3):
        made = process()
        text.seconds.append(made.text)
        step.seconds.append(made.step)
        whole.append(made.first_step)
        theirs.seconds.append(waited(imports, "cpu"))
    text.state = step.state = state() if device == "cuda" else ""
    alone = f"the imports of diffusers alone take {theirs.median:.1f} s"
    found.notes.append(f"`{' '.join(words)}`; {alone}; the first step ends after {min(whole):.1f} s")
