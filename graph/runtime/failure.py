"""Errors that end a run early: a node failed, or the run was stopped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from ..compiler.ir import Call
from ..contract.diagnostics import Diagnostic
from ..contract.errors import DoesNotFit, NodeError, OneProblem, WrongValue
from ..contract.node_library import NodeLibrary
from .author_frames import definition, failing_call


class Interrupted(Exception):
    """The run was stopped."""


class NodeFailed(OneProblem):
    """A node raised; `__cause__` is the exception.

    Attributes:
        call: The call that failed.
        where: File, line and column of the call, if known.
        inputs: Text for each parameter: its type with shape and dtype, or its value.
    """

    def __init__(self, call: Call, inputs: Mapping[str, str], cause: BaseException) -> None:
        self.call, self.inputs = call, inputs
        span = call.span
        self.where = f"{span.file}:{span.line}:{span.column}" if span else ""
        lines = [f"{call.id} ({call.type.name}) failed: {reason(cause)}"]
        lines += [f" --> {self.where}"] if self.where else []
        lines += [f"  {name}: {text}" for name, text in inputs.items()]
        code = _code(call, cause)
        lines += [f" = at {code}"] if code else []
        found = cause.diagnostic if isinstance(cause, NodeError) else Diagnostic("failed", reason(cause))
        lines += [f" = help: {found.help}"] if found.help else []
        super().__init__(replace(found, message="\n".join(lines), place=span))
        self.__cause__ = cause


def _code(call: Call, cause: BaseException) -> str:
    """The place in the code of the node's author; empty for an error in words, which needs none."""
    if isinstance(cause, WrongValue):
        return definition(call.type.function)
    return "" if isinstance(cause, NodeError) else failing_call(call.type.function, cause)


def reason(cause: BaseException) -> str:
    text = str(cause) or "no message"
    return text if isinstance(cause, NodeError) else f"{type(cause).__name__}: {text}"


def does_not_fit(error: BaseException | None, libraries: Iterable[NodeLibrary]) -> bool:
    """Whether a run failed because the work does not fit the device. Libraries know the errors of their packages."""
    cause = error.__cause__ if isinstance(error, NodeFailed) else error
    if cause is None or isinstance(cause, DoesNotFit | MemoryError):
        return cause is not None
    return any(library.is_out_of_memory(cause) for library in libraries)
