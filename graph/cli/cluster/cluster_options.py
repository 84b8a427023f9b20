"""The options `--ray` and `--ray-address`: their definition, and the options that they exclude."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ...contract.device import card_number
from ...contract.errors import NodeError
from ...contract.rank_start import rank_place
from ..common_arguments import SNAPSHOT_SECONDS
from ..store_option import OFF


def cluster_options(to: ArgumentParser, jobs: str) -> None:
    """Add the options.

    Args:
        to: The parser.
        jobs: The jobs of the command, for the help text.
    """
    to.add_argument("--ray", action="store_true", help=f"deal {jobs} to the workers of a Ray cluster")
    to.add_argument(
        "--ray-address",
        metavar="HOST:PORT|auto",
        help="the cluster of --ray (default: one that is started on this machine, and ends with the command)",
    )


def require_possible(arguments: Namespace) -> bool:
    """Whether a command line asks for a cluster. Raises if its other options do not allow that.

    Raises:
        NodeError: If it has another option that cannot be combined with `--ray`, or `--ray-address` without `--ray`;
            or if Ray is not installed.
    """
    if not arguments.ray:
        if arguments.ray_address is not None:
            raise NodeError("--ray-address has no meaning without --ray", help="add --ray")
        return False
    if arguments.ray_address == "":
        raise NodeError("--ray-address is empty", help="name a cluster, or leave it out to start one here")
    if rank_place() is not None:
        raise NodeError("--ray cannot run under torchrun", help="run `sgd` once, without torchrun")
    refused = _refused(arguments) if arguments.command == "exec" else "--jobs" if arguments.jobs > 1 else None
    if refused is None and card_number(arguments.device) is not None:
        refused = f"--device {arguments.device}"
    if refused is None and arguments.store not in (None, OFF):
        refused = "--store"
    if refused is not None:
        raise NodeError(f"--ray cannot be combined with {refused}", help="leave one of them out")
    from ...runtime.cluster.ray_cluster import require_ray

    require_ray()
    return True


def _refused(arguments: Namespace) -> str | None:
    """The first option on the command line of `sgd exec` that excludes `--ray`; None if there is none."""
    found = {
        "--processes": arguments.processes is not None,
        "--parallel": arguments.parallel is not None,
        "--overlap": arguments.overlap,
        "--overlap-device": arguments.overlap_device is not None,
        "--watch": arguments.watch,
        "--strict": arguments.strict,
        "--snapshot-every": arguments.snapshot_every != SNAPSHOT_SECONDS,
        "--preview": bool(arguments.preview),
        "--profile": arguments.profile != "nodes",
        "--profile-nodes": arguments.profile_nodes is not None,
        "--profile-steps": arguments.profile_steps is not None,
        "--trace": arguments.trace is not None,
        "--trace-values": arguments.trace_values is not None,
    }
    return next((option for option, given in found.items() if given), None)
