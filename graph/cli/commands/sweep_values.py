"""`sgd sweep`."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ...contract.errors import LibraryError, NodeError
from ...contract.node_library import NodeLibrary
from ..cluster.cluster_options import cluster_options, require_possible
from ..command_line import added_options, given, load_library, wrong
from ..common_arguments import device, result_as_json, workflow
from ..store_option import store_option


def add_arguments(to: ArgumentParser, libraries: Sequence[NodeLibrary]) -> None:
    """Add the arguments of `sgd sweep`, and the options of `sgd exec` that libraries add."""
    workflow(to)
    to.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="NAME=V,V…",
        help="values of an input or of a parameter's path: 0,0.05,0.1 or 0:3 (0, 1, 2) or @FILE (one in a line) or a "
        "YAML list; 'NODE={uses: TYPE, name: V}' is a whole node, once for each",
    )
    to.add_argument(
        "--reference",
        action="append",
        default=[],
        metavar="NAME=V",
        help="compare each run with the run that differs only in this value",
    )
    to.add_argument(
        "--output",
        metavar="NAME",
        help="the output to compare (default: all, and the one that differs most counts)",
    )
    to.add_argument("--jobs", type=_jobs, default=1, metavar="N", help="processes that run at once, on a CPU")
    cluster_options(to, "the runs")
    device(to)
    store_option(to)
    result_as_json(to)
    to.add_argument(
        "--out", metavar="DIR", help="the folder of the sweep (default: outputs/<name>-sweep-<date>-<time>)"
    )
    to.add_argument("--quiet", action="store_true", help="no progress and no table")
    to.add_argument(
        "--no-metadata", action="store_true", help="write no recipe into outputs; each run.json has it in any case"
    )
    for option in (option for library in libraries for option in library.options if "exec" in option.commands):
        with suppress(Exception):  # the first to have a name keeps it
            option.add_to(to)


def _jobs(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() else 0
    if not 0 < number <= 1024:
        raise ArgumentTypeError(f"{text!r} is not a number of processes from 1 to 1024")
    return number


def command(arguments: Namespace) -> int:
    """`sgd sweep`. Exits with 1 if a combination failed, and with 3 after an interrupt."""
    from ..sweep.go_on import Shown, begin
    from ..sweep.sweep_file import Sweep, hash_of
    from ..sweep.variations import fixed, variations

    if arguments.out == "":
        return wrong("--out is empty", "name a folder, or leave out --out")
    if not arguments.vary:
        return wrong("nothing varies", "add --vary NAME=V,V…, such as --vary seed=0:3; `sgd exec` makes one run")
    if arguments.output is not None and not arguments.reference:
        return wrong("--output has nothing to compare", "add --reference NAME=V")
    try:
        on_cluster = require_possible(arguments)
        varied = variations(arguments.vary)
        library = load_library(arguments)
        sweep = Sweep(
            arguments.file,
            hash_of(arguments.file),
            str(Path.cwd()),
            varied,
            fixed(arguments.reference, varied),
            {name: str(each.value) for name, each in given(arguments.values, "name=value").items()},
            {name: str(each.value) for name, each in given(arguments.set, "--set path=value").items()},
            tuple(arguments.library),
            arguments.device,
            added_options(arguments, library),
            not arguments.no_metadata,
            arguments.output,
            arguments.jobs,
            arguments.store,
            ray=on_cluster,
            ray_address=arguments.ray_address,
        )
        out = Path(arguments.out) if arguments.out is not None else None
        shown = Shown(arguments.json, arguments.quiet, arguments.traceback)
        return begin(sweep, out, library, shown)
    except (LibraryError, NodeError) as error:
        return wrong(str(error), error.help)
