"""`--memory` and `--card`: plans for another machine than this one."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from dataclasses import dataclass

from ..contract.cards import CARDS, Card, card, memory_size
from ..contract.device import card_number, choose, memory_bytes
from ..contract.errors import NodeError
from ..contract.node_library import NodeLibrary


@dataclass(frozen=True)
class Machine:
    """The machine of a plan.

    Attributes:
        device: `cpu` or `cuda`.
        memory_bytes: Memory of the device; None if it is not known.
        card: The card of `--card`.
        is_here: Whether this is the machine that plans, so that rates measured on it apply.
    """

    device: str
    memory_bytes: int | None
    card: Card | None = None
    is_here: bool = False


def memory(to: ArgumentParser) -> None:
    """`--memory`."""
    to.add_argument("--memory", metavar="SIZE", help="plan for a device with this much memory, such as 24GiB")


def add_arguments(to: ArgumentParser) -> None:
    """`--memory` and `--card`."""
    memory(to)
    names = ", ".join(CARDS)
    to.add_argument("--card", metavar="NAME", help=f"plan for this card: {names}; --memory changes its memory")


def named_card(arguments: Namespace) -> Card | None:
    """The card of `--card`; None without it.

    Raises:
        NodeError: If no card has this name.
    """
    return card(arguments.card) if getattr(arguments, "card", None) is not None else None


def machine(arguments: Namespace, libraries: Iterable[NodeLibrary]) -> Machine:
    """The machine that a command line names: this one, or one with the memory or the card of the options.

    A machine of the options has a GPU if the plan can use one, except with `--device cpu`.

    Raises:
        NodeError: If an option is wrong, or this machine lacks the device.
    """
    libraries = tuple(libraries)
    size = memory_size(arguments.memory) if arguments.memory is not None else None
    known = named_card(arguments)
    if size is None and known is None:
        device = choose(arguments.device, libraries)
        return Machine(device, memory_bytes(device), is_here=True)
    named = getattr(arguments, "device", "auto")
    if card_number(named) is not None:
        option = "--card" if known is not None else "--memory"
        help = "leave one out: the numbers of GPUs are those of this machine"
        raise NodeError(f"{option} and --device {named} exclude each other", help=help)
    if known is not None and named == "cpu":
        raise NodeError(
            f"--card {arguments.card} and --device cpu exclude each other",
            help="leave one out; `--memory 32GiB --device cpu` plans for a machine without a GPU",
        )
    on_cpu = named == "cpu" or not any(library.uses_gpu for library in libraries)
    size = known.memory_bytes if size is None and known is not None else size
    return Machine("cpu" if on_cpu else "cuda", size, known)
