"""The compiled plan: calls in order, with the steps that acquire and release components and free values."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..contract.node_library import NodeLibrary
from ..language.recipe import Recipe
from .ir import Arg, Call, Const, Declared, Loop, Ref, Var, edges, output_ports

Value = Ref | Var


@dataclass(frozen=True)
class Acquire:
    """Acquire a part of a value before its first reader. `readers`: the paths of all calls that need it."""

    holder: Ref
    part: str
    readers: tuple[str, ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True)
class Release:
    """Release a part of a value after its last reader."""

    holder: Ref
    part: str


@dataclass(frozen=True)
class CallStep:
    """Run a call, then free the values that have no later reader."""

    call: Call
    free: tuple[Value, ...] = ()


@dataclass(frozen=True)
class LoopStep:
    """Run a loop. Values in `free_first` are freed when the first iteration begins, values in `free` after the loop."""

    loop: Loop
    body: tuple[Step, ...]
    free_first: tuple[Value, ...] = ()
    free: tuple[Value, ...] = ()


Step = Acquire | Release | CallStep | LoopStep


@dataclass(frozen=True)
class ExpectedPsnr:
    """The least PSNR in dB of an output against a reference file. `written` is the file's path in the workflow."""

    least: float
    output: str
    reference: Path
    written: str


@dataclass(frozen=True)
class Expected:
    """The limits of a workflow's `expect`: seconds and GiB at most, and a PSNR; None for no limit."""

    seconds: float | None = None
    peak_gib: float | None = None
    psnr: ExpectedPsnr | None = None

    @property
    def measures(self) -> bool:
        """Whether there is a limit of time or memory, so that every node must run."""
        return self.seconds is not None or self.peak_gib is not None


@dataclass(frozen=True)
class Plan:
    """A compiled workflow.

    Attributes:
        name: The workflow's name.
        steps: Steps in order; loops are nested.
        outputs: The source of each workflow output.
        names: The node type, `loop`, or the used file, for the path of every node, loop and composite.
        edges: The edges of the file, as `graph/compiler/edge_list.py` describes them.
        inputs: The values of the workflow's inputs.
        settings: Values of `--set` by path.
        libraries: The libraries whose nodes the plan uses.
        loaded: All libraries that were loaded.
        file: The workflow file and the SHA-256 of its text.
        warnings: Diagnostics that did not stop compilation, as text.
        expected: The limits of the file's `expect`; None if it has none.
        recipe: The recipe as far as the file and the values decide it; None for a plan without a file.
    """

    name: str
    steps: tuple[Step, ...]
    outputs: Mapping[str, Arg]
    names: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    libraries: tuple[NodeLibrary, ...] = ()
    loaded: tuple[NodeLibrary, ...] = ()
    file: Path | None = None
    sha256: str = ""
    warnings: tuple[str, ...] = ()
    declared: Mapping[str, Declared] = field(default_factory=dict)
    expected: Expected | None = None
    edges: tuple[tuple[str, str], ...] = ()
    recipe: Recipe | None = None

    def walk(self) -> Iterator[tuple[Step, tuple[Loop, ...]]]:
        """Every step with the loops around it."""
        yield from _walk(self.steps, ())

    def calls(self) -> Iterator[Call]:
        return (step.call for step, _ in self.walk() if isinstance(step, CallStep))

    def __str__(self) -> str:
        return "\n".join(_lines(self.steps, ""))


def _walk(steps: tuple[Step, ...], around: tuple[Loop, ...]) -> Iterator[tuple[Step, tuple[Loop, ...]]]:
    for step in steps:
        yield step, around
        if isinstance(step, LoopStep):
            yield from _walk(step.body, (*around, step.loop))


def _lines(steps: tuple[Step, ...], indent: str) -> Iterator[str]:
    for step in steps:
        if isinstance(step, Acquire | Release):
            sign = "+" if isinstance(step, Acquire) else "-"
            yield f"{indent}{sign} {step.part} of {step.holder.node}"
        elif isinstance(step, CallStep):
            also = f" (also {', '.join(step.call.names[1:])})" if step.call.names[1:] else ""
            yield f"{indent}{step.call.id}: {step.call.type.name}{also}"
        else:
            over = ", ".join(f"{n} in {_source(a)}" for n, a in step.loop.over.items())
            yield f"{indent}{step.loop.id}: for {over}"
            yield from _lines(step.body, indent + "  ")


def _source(arg: Arg) -> str:
    if isinstance(arg.source, Ref):
        return f"{arg.source.node}.{arg.source.port}"
    return (
        f"{len(arg.source.value)} values"
        if isinstance(arg.source, Const) and isinstance(arg.source.value, list)
        else "…"
    )


def after_effects(plan: Plan) -> frozenset[str]:
    """Paths of calls with effects, and of calls that read their results, also through loops."""
    skipped: set[str] = set()
    unknown: set[Ref | Var] = set()
    before = -1
    while before != len(unknown) + len(skipped):
        before = len(unknown) + len(skipped)
        for step, _ in plan.walk():
            if isinstance(step, CallStep):
                if step.call.type.effect or unknown.intersection(edges(step.call.sources)):
                    skipped.add(step.call.id)
                    unknown.update(Ref(step.call.id, port) for port in output_ports(step.call))
            elif isinstance(step, LoopStep):
                loop = step.loop
                for name, arg in (*loop.over.items(), *loop.carry.items()):
                    if unknown.intersection(edges([arg])):
                        unknown.add(Var(loop.id, name))
                for name, arg in loop.body.outputs.items():
                    if unknown.intersection(edges([arg])):
                        unknown.update([Ref(loop.id, name), *([Var(loop.id, name)] if loop.carry else [])])
    return frozenset(skipped)


def needed_for(plan: Plan, wanted: Collection[str]) -> frozenset[str]:
    """Paths of some calls, and of all calls whose results they need, also through loops."""
    needed: set[str] = set(wanted)
    values: set[Value] = set()
    before = -1
    while before != len(needed) + len(values):
        before = len(needed) + len(values)
        for step, around in plan.walk():
            if isinstance(step, CallStep):
                call = step.call
                if call.id in needed or any(Ref(call.id, port) in values for port in output_ports(call)):
                    needed.add(call.id)
                    values.update(edges(call.sources))
                    values.update(edge for loop in around for edge in edges(loop.over.values()))
            elif isinstance(step, LoopStep):
                loop = step.loop
                for name, arg in loop.body.outputs.items():
                    if Ref(loop.id, name) in values or Var(loop.id, name) in values:
                        values.update(edges([arg, *([loop.carry[name]] if name in loop.carry else [])]))
                values.update(e for n, arg in loop.over.items() if Var(loop.id, n) in values for e in edges([arg]))
    return frozenset(needed)
