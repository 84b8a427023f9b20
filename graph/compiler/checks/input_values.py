"""Inputs of a workflow: the value of each, and warnings for those that nothing reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Set

from ...contract.diagnostics import Diagnostic
from ...contract.suggestions import did_you_mean
from ...language.literals import Given, normalise
from ..frontend.declarations import input_problem
from ..ir import Const, Declared, Graph, Input, Source, leaves, used, used_by_graph


def input_values(
    inputs: Mapping[str, Declared], given: Mapping[str, Given], found: list[Diagnostic], complete: bool
) -> dict[str, Const]:
    """Find the value of each input: the given value, else the default. Problems go to `found`."""
    result: dict[str, Const] = {}
    for name, value in given.items():
        declared = inputs.get(name)
        if declared is None:
            help = did_you_mean(name, inputs) or "inputs: " + (", ".join(inputs) or "none")
            found.append(Diagnostic("unknown-input", f"this workflow has no input `{name}`", None, help=help))
            continue
        read = value.read(declared.type)
        problem = input_problem(declared, read)
        if problem is not None:
            span = declared.span
            found.append(Diagnostic("bad-value", f"input `{name}`: {problem}", span, help=declared.about or None))
        else:
            result[name] = Const(normalise(declared.type, read), value.base)
    for name, declared in inputs.items():
        if name in given:
            continue
        if declared.default is not None:
            result[name] = declared.default
        elif complete:
            about = f": {declared.about}" if declared.about else ""
            message = f"input `{name}` ({declared.type}) has no default and was not given{about}"
            help = (
                f"give {name}=…"
                if not declared.type.is_port
                else "only another workflow can give this input: use this file in another workflow"
            )
            found.append(Diagnostic("missing-input", message.rstrip("."), declared.span, help=help))
    return result


def unread_inputs(graph: Graph, dropped: Set[str]) -> Iterable[Diagnostic]:
    """Warnings for inputs that nothing reads. `dropped`: inputs that only parameters without a use read."""
    read = Counter(_names(used_by_graph(graph))) + _in_constraints(graph)
    for name, declared in graph.inputs.items():
        if name not in read and name not in dropped:
            message = f"input `{name}` is not used"
            yield Diagnostic("unused-node", message, declared.span, severity="warning")


def inputs_of_one(graph: Graph, node: str) -> list[str]:
    """Names of the inputs that one call reads and nothing else, in file order. `graph` is as the file is written."""
    own = Counter(leaf for call in graph.calls() if call.id == node for leaf in _names(used(call)))
    others = Counter(_names(used_by_graph(graph))) + _in_constraints(graph) - own
    return [name for name in graph.inputs if name in own and name not in others]


def _in_constraints(graph: Graph) -> Counter[str]:
    return Counter(name for c in graph.constraints for name in _names(leaves(c.arg.source)))


def _names(sources: Iterable[Source]) -> Iterator[str]:
    """The names of the inputs among sources."""
    return (source.name for source in sources if isinstance(source, Input))
