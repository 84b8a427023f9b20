"""`sgd plan`."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...compiler.compile import compile_graph, plan_of
from ...compiler.pass_list import PASSES
from ...contract.cards import planning_for
from ...contract.constants import DONE, FAILED
from ...contract.device import cards
from ...contract.errors import NodeError
from ...contract.node_library import NodeLibrary
from ...contract.processes import mesh_of
from ...contract.suggestions import did_you_mean
from ..command_line import checked, options, say_failure, wrong
from ..common_arguments import device, result_as_json, workflow
from ..fitted_tables import wrapped
from ..other_machine import add_arguments as other_machine
from ..other_machine import named_card
from ..ranks.rank_options import rank_options, require_all_cards, too_few_cards
from ..store_option import OFF, forecast_for, forecast_lines, store_option
from ..terminal import show, stdout_width

if TYPE_CHECKING:
    from ...compiler.compile import Checked
    from ...contract.processes import Mesh
    from ...language.registry import Library
    from ..other_machine import Machine


AFTER = ("fold", *(each.name for each in PASSES))
"""The values of `--after`: `fold` (the values of inputs are put in), then the name of each pass."""


def add_arguments(to: ArgumentParser, _: Sequence[NodeLibrary]) -> None:
    """Add the arguments of `sgd plan`."""
    workflow(to)
    device(to)
    rank_options(to)
    other_machine(to)
    store_option(to)
    result_as_json(to)
    to.add_argument("--after", metavar="PASS", help="print the graph as it is after this pass of the compiler")


def command(arguments: Namespace) -> int:
    """`sgd plan`."""
    try:
        known = named_card(arguments)
    except NodeError as error:
        return wrong(str(error), error.help)
    with planning_for(known):
        return _plan(arguments)


def _plan(arguments: Namespace) -> int:
    from ...runtime.estimate import estimate
    from ...runtime.failure import NodeFailed
    from ...runtime.limits_file import stored_or_none
    from ..fitting_text import with_floors
    from ..other_machine import machine
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
        mesh = result.mesh
        require_all_cards(arguments.device, mesh.size)
        on = machine(arguments, plan.libraries)
        if arguments.store not in (None, OFF) and not on.is_here:
            return wrong("the stored results are those of this machine", "leave out --store, --memory and --card")
        given = options(arguments, library, on.device)
        limits = stored_or_none(on.device, plan.libraries) if on.is_here else None
        estimated = estimate(
            plan, options=given, device=on.device, memory_bytes=on.memory_bytes, limits=limits, mesh=mesh
        )
        if mesh.size > 1:
            estimated["parallel_from"] = _chosen_by(result, arguments)
            estimated["warnings"] += _too_few_cards(on, mesh)
        if on.card is not None:
            estimated = with_floors(estimated, on.card)
        stored = forecast_for(arguments.store, plan, on.device, given, mesh) if on.is_here else None
        estimated["store"] = stored.json() if stored is not None else None
        for row in estimated["nodes"]:
            node = stored.nodes.get(row["name"]) if stored is not None else None
            row["stored"] = node.text if node is not None else None
        lines: list[str] = []
        if estimated["fits"] is False:
            estimated["edits"], lines = _edits(result, on, arguments, library)
    except NodeFailed as error:
        say_failure(error, arguments)
        return FAILED
    except NodeError as error:
        return wrong(str(error), error.help)
    show(json.dumps(estimated, indent=1) if arguments.json else plan_table(estimated, stdout_width()))
    if not arguments.json:
        for text in forecast_lines(stored) if stored is not None else []:
            show("\n".join(wrapped(text, stdout_width(), "    ")))
        for line in estimated["help"]:
            show("\n".join(wrapped(f"help: {line}", stdout_width(), "  ")))
        for line in lines:
            show(line)
    return DONE


def _chosen_by(result: Checked, arguments: Namespace) -> str:
    """The origin of the arrangement of the processes: a key of `role_table.CHOSEN`."""
    if arguments.parallel is not None:
        return "command line"
    written = result.document.parallel if result.document is not None else None
    if written is None:
        return "choice"
    asked = mesh_of({name: value.data for name, value in written.data.items()})
    return "file" if asked == result.mesh else "choice"  # `--processes` wins over another number in the file


def _too_few_cards(on: Machine, mesh: Mesh) -> list[str]:
    """A warning if this machine has fewer GPUs than the run has processes, which `sgd exec` refuses."""
    found = cards(on.device) if on.is_here else None
    if found is None or found >= mesh.size:
        return []
    return [f"{too_few_cards(mesh.size, found)}: give --processes {max(found, 1)}"]


def _edits(
    result: Checked, on: Machine, arguments: Namespace, library: Library
) -> tuple[dict[str, Any] | None, list[str]]:
    """The edits that make a plan fit, as the value of `edits` in JSON and as lines; None if there is no file."""
    from ..fitting_text import as_json, edits_for_plan, paste

    document = result.document
    if document is None or document.path is None:
        return None, []
    text = document.source.text
    fitted, changes = edits_for_plan(document.path, text, on, arguments, library, result.mesh)
    return as_json(fitted, changes), ["", *paste(document.source.name, fitted, changes)]


def _after(checked: Checked, arguments: Namespace) -> int:
    """Print the graph as it is after one pass."""
    from ..picture import as_json, text

    graph = checked.graph
    assert graph is not None
    if arguments.after != "fold":
        graph, _ = compile_graph(graph, checked.known, after=arguments.after)
    show(json.dumps(as_json(graph), indent=1) if arguments.json else text(graph))
    return DONE
