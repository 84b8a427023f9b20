"""`sgd plan`."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...compiler.compile import compile_graph, plan_of
from ...compiler.pass_list import PASSES
from ...contract.constants import DONE, FAILED
from ...contract.errors import NodeError
from ...contract.node_library import NodeLibrary
from ...contract.suggestions import did_you_mean
from ..command_line import checked, options, say_failure, wrong
from ..common_arguments import device, result_as_json, workflow
from ..terminal import show

if TYPE_CHECKING:
    from ...compiler.compile import Checked


AFTER = ("fold", *(each.name for each in PASSES))
"""The values of `--after`: `fold` (the values of inputs are put in), then the name of each pass."""


def add_arguments(to: ArgumentParser, _: Sequence[NodeLibrary]) -> None:
    """Add the arguments of `sgd plan`."""
    workflow(to)
    device(to)
    result_as_json(to)
    to.add_argument("--after", metavar="PASS", help="print the graph as it is after this pass of the compiler")


def command(arguments: Namespace) -> int:
    """`sgd plan`."""
    from ...contract.device import choose, memory_bytes
    from ...runtime.estimate import estimate
    from ...runtime.execute import NodeFailed
    from ...runtime.limits_file import stored_or_none
    from ..plan_table import plan_table

    if arguments.after is not None and arguments.after not in AFTER:
        help = did_you_mean(arguments.after, AFTER) or f"passes, in order: {', '.join(AFTER)}"
        return wrong(f"--after {arguments.after}: there is no such pass", help)
    found = checked(arguments, complete=True)
    if isinstance(found, int):
        return found
    result, library = found
    if arguments.after is not None:
        return _after(result, arguments)
    plan = plan_of(result, library)
    try:
        device = choose(arguments.device, plan.libraries)
        memory = memory_bytes(device)
        given, limits = options(arguments, library, device), stored_or_none(device, plan.libraries)
        estimated = estimate(plan, options=given, device=device, memory_bytes=memory, limits=limits)
    except NodeFailed as error:
        say_failure(error, arguments)
        return FAILED
    except NodeError as error:
        return wrong(str(error), error.help)
    show(json.dumps(estimated, indent=1) if arguments.json else plan_table(estimated))
    if not arguments.json:
        for line in estimated["help"]:
            show(f"help: {line}")
    return DONE


def _after(checked: Checked, arguments: Namespace) -> int:
    """Print the graph as it is after one pass."""
    from ..picture import as_json, text

    graph = checked.graph
    assert graph is not None
    if arguments.after != "fold":
        graph, _ = compile_graph(graph, checked.known, after=arguments.after)
    show(json.dumps(as_json(graph), indent=1) if arguments.json else text(graph))
    return DONE
