"""Options of `sgd exec` that measure a run: `--profile`, `--trace` and the options that belong to them."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..runtime.profiling import Profiling

MODES = ("off", "nodes", "torch", "nvtx")


def profile_options(to: ArgumentParser) -> None:
    """Add the options to a parser."""
    to.add_argument(
        "--profile",
        choices=MODES,
        default="nodes",
        help="off: no times; nodes: time and memory of each node (default); torch: also kernels, by the PyTorch "
        "Profiler; nvtx: also NVTX ranges for Nsight Systems",
    )
    to.add_argument(
        "--profile-nodes",
        metavar="GLOB",
        help="the nodes of torch and nvtx: a pattern of paths, loops and composites included, such as 'loop.*'",
    )
    to.add_argument(
        "--profile-steps",
        metavar="STEPS",
        help="the turns of loops of torch and nvtx: 5, 0:3 (which is 0, 1, 2), 2:10:2, 0,5:8; nodes outside of loops "
        "are in no step, and --profile-nodes alone chooses them",
    )
    to.add_argument("--trace", metavar="FILE", help="write the course of the run, to open in https://ui.perfetto.dev")
    to.add_argument(
        "--trace-values",
        metavar="FILE",
        help="write mean, deviation, largest value and count of not-finite values of every output tensor, as lines of "
        "JSON; waits for the device after every node",
    )


def profiling_of(arguments: Namespace) -> Profiling:
    """The options of a command line.

    Raises:
        NodeError: If they do not fit together.
    """
    from ..runtime.observers.kernel_profile import quiet_profiler
    from ..runtime.profiling import Profiling

    if arguments.profile == "torch":
        quiet_profiler()
    return Profiling(
        arguments.profile,
        arguments.profile_nodes,
        arguments.profile_steps,
        arguments.trace,
        arguments.trace_values,
    )
