"""`sgd report --compare A B`."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...contract.constants import DONE, FAILED
from ...contract.errors import LibraryError, NodeError, UnfitNetwork, UnreadableFile
from ...contract.node_library import NodeLibrary
from ..command_line import load_library, wrong
from ..terminal import say, show, stdout_width
from .limits import Limits, decibel, percentage

if TYPE_CHECKING:
    from .comparison import Comparison
    from .output_pairs import Progress

NAME = "comparison.html"


def add_arguments(to: ArgumentParser) -> None:
    """Add `--compare`, its measures and its limits."""
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
    to.add_argument(
        "--lpips",
        metavar="FILE",
        help="with --compare: also LPIPS, with the network in this file, such as AlexNet (needs the package lpips)",
    )


def options_given(arguments: Namespace) -> bool:
    """Whether the command line has an option of `--compare`."""
    return any(each is not None for each in (arguments.fail_over, arguments.min_psnr, arguments.lpips))


def command(arguments: Namespace) -> int:
    """Compare two runs: write the page, print the text, check the limits."""
    if arguments.compare is None:
        if options_given(arguments):
            return wrong("--fail-over, --min-psnr and --lpips belong to --compare", "add --compare A B")
        return wrong("no run is named", "name the folder of a run, or compare two with --compare A B")
    if arguments.runs:
        return wrong(f"--compare takes two runs, and {arguments.runs[0]} is a third", "write --compare A B alone")
    from ..page_files import page_beside, target_of, write_page
    from .comparison_page import comparison_page
    from .comparison_text import comparison_text
    from .limits import broken

    limits = Limits(arguments.fail_over, arguments.min_psnr)
    network = None if arguments.lpips is None else Path(arguments.lpips)
    if network is not None and not network.is_file():
        help = "name a file of AlexNet, VGG16 or SqueezeNet 1.1, as torchvision saves it"
        return wrong(f"--lpips: there is no file {network}", help)
    try:
        library = load_library(arguments)
        out = arguments.out
        path = page_beside(Path(), NAME) if out is None else target_of(out, arguments.overwrite)
        found = compared(arguments.compare, library.libraries.values(), network)
        lines = broken(found, limits)
        text, notes = comparison_page(found, limits, lines, path.parent)
        write_page(path, text)
    except (LibraryError, NodeError, UnfitNetwork) as error:
        return wrong(str(error), error.help)
    for note in notes:
        say(f"warning: {note}")
    show(comparison_text(found, stdout_width()))
    show(f"\ncomparison: {path}")
    for line in lines:
        say(f"error: {line}")
    return FAILED if lines else DONE


def compared(names: Sequence[str], libraries: Iterable[NodeLibrary], network: Path | None = None) -> Comparison:
    """Read two runs and compare them. `network`: the file with the network of LPIPS; None without LPIPS.

    Raises:
        UnreadableFile: If one is not a run.
        UnfitNetwork: If `network` cannot be read, or is of no known kind.
    """
    from .compared_run import compared_run
    from .comparison import compare_runs
    from .sides import kind_of_side

    for name in names:
        path = Path(name)
        if kind_of_side(name) != "run" and path.is_file() and path.suffix.lower() != ".json":
            raise UnreadableFile(f"{name} is no run", help="`sgd diff` compares workflows, pictures and clips")
    before, after = (compared_run(name) for name in names)
    with Counting() as progress:
        return compare_runs(before, after, libraries, progress, network)


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
