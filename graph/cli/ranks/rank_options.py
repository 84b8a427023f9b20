"""`--processes` and `--parallel`."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Collection

from ...compiler.checks.process_mesh import Asked
from ...contract.device import card_number, choose
from ...contract.errors import NodeError
from ...contract.node_library import NodeLibrary
from ...contract.processes import read_mesh
from ...contract.rank_start import RankPlace, rank_place

COMMANDS = ("exec", "resume")
"""The commands that run in several processes."""


def rank_options(to: ArgumentParser) -> None:
    """Add the options."""
    to.add_argument(
        "--processes",
        metavar="N",
        type=_count,
        help="compute the run in N processes of this host, each with a GPU of its own (see docs/many-gpus.md)",
    )
    to.add_argument(
        "--parallel",
        metavar="SPEC",
        help="how the processes are arranged, such as branches=2 (default: `run` of the file, else sgd chooses)",
    )


def asked_of(arguments: Namespace) -> Asked | None:
    """The processes that a command line asks for; None if its command runs in one process.

    Raises:
        NodeError: If `--parallel` cannot be read, or a launcher started another number of processes.
    """
    if not hasattr(arguments, "processes"):
        return None
    try:
        mesh = read_mesh(arguments.parallel) if arguments.parallel is not None else None
    except NodeError as error:
        raise NodeError(f"--parallel: {error}", help=error.help) from error
    place, count = rank_place(), arguments.processes
    if place is None or arguments.command not in COMMANDS:
        return Asked(count, mesh)
    if count is not None and count != place.size:
        message = f"--processes {count}, but the launcher started {place.size}"
        raise NodeError(message, help="leave out --processes under torchrun")
    return Asked(place.size, mesh)


def refused_option(arguments: Namespace) -> str | None:
    """The first option of `sgd exec` that a run in several processes cannot have, as the user knows it; else None."""
    found = {"--watch": arguments.watch, "--overlap-device": arguments.overlap_device, "--overlap": arguments.overlap}
    return next((option for option, given in found.items() if given), None)


def require_all_cards(
    device: str, size: int, place: RankPlace | None = None, libraries: Collection[NodeLibrary] = ()
) -> None:
    """Check that several processes have a GPU each, if they use GPUs.

    Args:
        device: `--device`.
        size: The number of processes.
        place: The place of this process, if a launcher has started several.
        libraries: The libraries that the run uses. They decide whether `auto` is a GPU.

    Raises:
        NodeError: If the device is one GPU, or this host has fewer GPUs than processes.
    """
    if size > 1 and card_number(device) is not None:
        message = f"--device {device} is one GPU, and each of {size} processes takes one of its own"
        raise NodeError(message, help="write `--device cuda`; CUDA_VISIBLE_DEVICES says which GPUs there are")
    if place is None or not place.cards or not place.on_host or place.on_host <= place.cards:
        return
    if choose(device, libraries) == "cuda":
        help = f"start {place.cards} on each host (`torchrun --nproc-per-node`)"
        raise NodeError(too_few_cards(place.on_host, place.cards), help=help)


def too_few_cards(size: int, found: int) -> str:
    """The problem of processes that have no GPU each. `found`: the GPUs of this machine."""
    return f"{size} processes need {size} GPUs, and this machine has {found}"


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is no number of processes; give 1 or more")
    return int(text)
