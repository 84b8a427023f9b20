"""`sgd report --compare A B`."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Iterable

from ...contract.node_library import NodeLibrary
from .comparison import Comparison, compare_runs
from .limits import decibel, percentage
from .output_pairs import Progress
from .recorded_run import read_run


def add_arguments(to: ArgumentParser) -> None:
    """Add `--compare` and its limits."""
    to.add_argument("--compare", nargs=2, metavar=("A", "B"), help="two runs side by side: their folders or run.json")
    to.add_argument(
        "--fail-over",
        type=percentage,
        metavar="PERCENT",
        help="with --compare: exit 1 if B, or a large node of it, is slower than A by more, such as 5%%",
    )
    to.add_argument(
        "--min-psnr",
        type=decibel,
        metavar="DB",
        help="with --compare: exit 1 if an output of B is less like that of A, such as 40",
    )


def compared(names: Iterable[str], libraries: Iterable[NodeLibrary]) -> Comparison:
    """Read two runs and compare them.

    Raises:
        UnreadableFile: If one is not a run.
    """
    before, after = (read_run(name) for name in names)
    with Counting() as progress:
        return compare_runs(before, after, libraries, progress)


class Counting:
    """Shows the number of frames that were compared, on a terminal."""

    def __enter__(self) -> Progress:
        self.shown = 0
        return self.show

    def __exit__(self, *_: object) -> None:
        if self.shown:
            self._write("\r" + " " * self.shown + "\r")

    def show(self, name: str, frames: int) -> None:
        if sys.stderr is not None and sys.stderr.isatty() and frames > 1:
            text = f"comparing {name}: frame {frames}"
            self._write(f"\r{text.ljust(self.shown)}")
            self.shown = max(self.shown, len(text))

    def _write(self, text: str) -> None:
        print(text, end="", file=sys.stderr, flush=True)
