"""A node is a typed function: the signature is the whole declaration.

    @node("book.print", version=1)
    def print_book(book: Annotated[Book, Reads("chapters")], paper: Paper, *, draft: bool = False) -> Pages:
        '''Print the chapters of a book. …'''

The decorator returns the function itself, with its `NodeType` as the attribute `node`. The annotation of a parameter
decides its source. A `Port` subclass or a list of it comes from an edge. A plain type may also be written in the file.
The executor supplies `Run`, `Here` and `Wanted`, and creates an instance of a `State` subclass.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, ParamSpec, Protocol, TypeVar, cast

from .diagnostics import Diagnostic
from .facts import FactsClass, facts_class
from .node_annotations import OutPath as OutPath
from .node_annotations import Passes, PathRole, Reads, Shares
from .node_annotations import Source as Source
from .node_docstrings import read_docstring
from .ports import Annotation, Type, from_annotation
from .processes import Mesh, Placement
from .supplied_values import ALL as ALL
from .supplied_values import NO_RUN as NO_RUN
from .supplied_values import Here, Run, State, Wanted
from .supplied_values import Unkept as Unkept

P = ParamSpec("P")
R = TypeVar("R", covariant=True)

ReadsFunction = Callable[[Any], Mapping[str, Iterable[str]]]
DescribeFunction = Callable[[Any], Any]
CheckFunction = Callable[[Any], Iterable[Diagnostic]]
CheckPartsFunction = Callable[[Any, frozenset[str], Mapping[str, Any]], Iterable[Diagnostic]]
RenamesFunction = Callable[[Any], Mapping[str, Mapping[str, str]]]
NotesFunction = Callable[[], Mapping[str, str]]
CheckMeshFunction = Callable[[Any, Mesh], Iterable[Diagnostic]]
OwnFunction = Callable[[Any], Iterable[str]]


USES = "uses"
"""The key of a file that names a node's type. It is no name of a parameter: `--set node.uses=…` exchanges the type."""


@dataclass(frozen=True)
class Input:
    """A parameter of a node type."""

    name: str
    annotation: Any
    type: Type
    optional: bool
    required: bool
    default: Any = None
    doc: str = ""
    reads: frozenset[str] | None = None
    passes: bool = False
    shares: bool = False
    path: Literal["read", "write", "source"] | None = None

    @property
    def is_port(self) -> bool:
        return self.type.is_port


@dataclass(frozen=True)
class Output:
    """An output port of a node type.

    Attributes:
        name: Its name.
        type: The type of its values.
        optional: Whether a value may be None.
        doc: Its description.
        length: The least and the largest length of a list, from `tuple[X, X]` or `Field(min_length=…)`; None for any.
    """

    name: str
    type: Type
    optional: bool = False
    doc: str = ""
    length: tuple[int, int | None] | None = None


@dataclass(frozen=True)
class NodeType:
    """A node type, from its function's signature and docstring."""

    name: str
    version: int
    function: Callable[..., Any]
    inputs: Mapping[str, Input]
    outputs: tuple[Output, ...]
    tuple_result: bool
    effect: bool
    states: Mapping[str, type[State]]
    supplied: Mapping[str, str]
    summary: str
    doc: str
    reads: ReadsFunction | None = None
    describe: DescribeFunction | None = None
    check: CheckFunction | None = None
    renames: RenamesFunction | None = None
    notes: NotesFunction | None = None
    own: OwnFunction | None = None
    check_parts: CheckPartsFunction | None = None
    facts: FactsClass | None = field(default=None, compare=False)
    check_mesh: CheckMeshFunction | None = field(default=None, compare=False)
    processes: Placement = field(default="every", compare=False)
    library: str = field(default="", compare=False)

    @property
    def mergeable(self) -> bool:
        """Whether calls may be merged and hoisted: pure, without state, and the same at every place in the file."""
        return not self.effect and not self.states and "here" not in self.supplied.values()

    def output(self, name: str) -> Output | None:
        return next((o for o in self.outputs if o.name == name), None)

    @property
    def location(self) -> str:
        """`package.module:line` of the function."""
        code = inspect.unwrap(self.function).__code__
        return f"{self.function.__module__}:{code.co_firstlineno}"


class NodeFunction(Protocol[P, R]):
    """A function with `@node`."""

    node: NodeType

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R: ...


def node(
    name: str,
    *,
    version: int = 1,
    effect: bool = False,
    reads: ReadsFunction | None = None,
    describe: DescribeFunction | None = None,
    check: CheckFunction | None = None,
    renames: RenamesFunction | None = None,
    notes: NotesFunction | None = None,
    own: OwnFunction | None = None,
    check_parts: CheckPartsFunction | None = None,
    check_mesh: CheckMeshFunction | None = None,
    processes: Placement = "every",
) -> Callable[[Callable[P, R]], NodeFunction[P, R]]:
    """Make a node type of a typed function.

    Args:
        name: The name files use, `group.verb`.
        version: Raise it when the same inputs give other outputs.
        effect: The node writes a file, or must run for another reason even if nothing reads its outputs.
        reads: `reads(facts)` gives the parts that are read of some parameters, if these depend on facts.
        describe: `describe(facts)` gives the facts of the output. With several outputs it gives a mapping by port.
        check: `check(facts)` yields the problems that can be found before the run.
        renames: `renames(facts)` gives, for each parameter with `Passes`, a mapping from a part of the output to its
            name in the parameter. Other parts keep their names.
        notes: `notes()` gives facts about this machine by name; `sgd nodes NAME` prints them.
        own: `own(facts)` gives the parts that the output does not share with a parameter (`Shares`).
        check_parts: `check_parts(facts, parts, options)` yields the problems of the parts of the output that a run
            with these options brings into memory.
        check_mesh: `check_mesh(facts, mesh)` yields the reasons why several processes cannot compute the node together
            in this arrangement.
        processes: How the node runs where several processes compute a run. `every`: each rank calls it. `once`: rank 0
            calls it, and sends the outputs to the others. `split`: all ranks call it, and compute it together. Calls
            with an effect run on rank 0 alone, with all calls that read their outputs; and other ranks leave out
            whatever no `split` call needs.

    These functions import nothing heavy. `facts.py` describes their argument.

    Raises:
        TypeError: If the signature or the options are not valid for a node, or the class of facts does not match it.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+", name):
        raise TypeError(f"{name!r} is not a name for a node type: write group.verb in lower case")
    if processes not in typing.get_args(Placement):
        raise TypeError(f"{name}: processes={processes!r} is not one of {', '.join(typing.get_args(Placement))}")
    if effect and processes != "every":
        raise TypeError(f"{name}: a node with an effect runs in one process, so leave out processes={processes!r}")

    def make(function: Callable[P, R]) -> NodeFunction[P, R]:
        hints = typing.get_type_hints(function, include_extras=True)
        summary, doc, docs = read_docstring(inspect.getdoc(function) or "")
        inputs: dict[str, Input] = {}
        states: dict[str, type[State]] = {}
        supplied: dict[str, str] = {}
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY):
                raise TypeError(f"{name}: parameter {parameter.name} must be named")
            hint = hints.get(parameter.name)
            by_executor = {Run: "run", Here: "here", Wanted: "wanted"}
            if hint is None:
                raise TypeError(f"{name}: parameter {parameter.name} has no annotation")
            if inspect.isclass(hint) and issubclass(hint, State):
                states[parameter.name] = hint
            elif hint in by_executor:
                supplied[parameter.name] = by_executor[hint]
            else:
                inputs[parameter.name] = _input(name, parameter, hint, docs)
        if "return" not in hints:
            raise TypeError(f"{name}: no return annotation")
        outputs, tuple_result = _outputs(name, hints["return"], docs)
        try:
            facts = facts_class((reads, describe, check, renames, own, check_parts, check_mesh), inputs)
        except TypeError as error:
            raise TypeError(f"{name}: {error}") from None
        made = cast(NodeFunction[P, R], function)
        made.node = NodeType(
            name,
            version,
            function,
            inputs,
            outputs,
            tuple_result,
            effect,
            states,
            supplied,
            summary,
            doc,
            reads,
            describe,
            check,
            renames,
            notes,
            own,
            check_parts,
            facts,
            check_mesh,
            processes,
        )
        return made

    return make


def _input(node_name: str, parameter: inspect.Parameter, hint: Any, docs: Mapping[str, str]) -> Input:
    if parameter.name == USES:
        raise TypeError(
            f"{node_name}: no parameter can be named `{USES}`: `--set node.{USES}=…` exchanges the node's type"
        )
    try:
        read = from_annotation(hint)
    except TypeError as error:
        raise TypeError(f"{node_name}: parameter {parameter.name}: {error}") from None
    required = parameter.default is parameter.empty
    reads = next((e.parts for e in read.extras if isinstance(e, Reads)), None)
    item = read.type.item or read.type
    role = next((e.role for e in read.extras if isinstance(e, PathRole)), "read" if item.kind == "path" else None)
    return Input(
        parameter.name,
        hint,
        read.type,
        read.optional,
        required,
        None if required else parameter.default,
        docs.get(parameter.name, ""),
        reads,
        any(isinstance(e, Passes) for e in read.extras),
        any(isinstance(e, Shares) for e in read.extras),
        role,
    )


def _outputs(node_name: str, hint: Any, docs: Mapping[str, str]) -> tuple[tuple[Output, ...], bool]:
    if hint is type(None):
        return (), False
    if inspect.isclass(hint) and issubclass(hint, tuple) and hasattr(hint, "_fields"):
        fields = typing.get_type_hints(hint, include_extras=True)
        return tuple(_output(n, from_annotation(h), docs) for n, h in fields.items()), True
    try:
        read = from_annotation(hint)
    except TypeError as error:
        raise TypeError(f"{node_name}: returns {error}") from None
    base = read.type.item if read.type.kind == "list" and read.type.item else read.type
    name = re.sub(r"(?<!^)(?=[A-Z])", "_", base.name).lower() if base.kind == "port" else "value"
    return (_output(name, read, docs),), False


def _output(name: str, read: Annotation, docs: Mapping[str, str]) -> Output:
    return Output(name, read.type, read.optional, docs.get(name, docs.get("return", "")), read.length)
