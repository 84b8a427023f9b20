"""Errors that a user can fix. Each carries diagnostics, one for each problem.

SgdError                an error that the user can fix
├── Problems            all problems of a workflow file or a command line
└── OneProblem          an error with one problem
    ├── LibraryError    a node library cannot be loaded
    ├── NodeError       a node cannot do its work
    │   ├── DoesNotFit  the device has too little memory
    │   ├── UnreadableFile  a file is not what it should be
    │   └── WrongValue  a node returned or changed a value that breaks the rules for nodes
    └── NodeFailed      a node raised an exception during a run (graph/runtime/failure.py)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .diagnostics import Diagnostic


class SgdError(Exception):
    """An error that a user can fix.

    Attributes:
        diagnostics: The problems.
    """

    def __init__(self, diagnostics: Iterable[Diagnostic], message: str) -> None:
        self.diagnostics = list(diagnostics)
        super().__init__(message)


class Problems(SgdError):
    """All problems of a file or a command line, raised when no further check is possible."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        found = list(diagnostics)
        super().__init__(found, "; ".join(f"{d.code}: {d.message}" for d in found))


class OneProblem(SgdError):
    """An error with one problem, and perhaps further ones. `str()` gives the message of the first."""

    def __init__(
        self,
        problem: str | Diagnostic,
        *others: Diagnostic,
        help: str | None = None,
        code: str = "bad-value",
    ) -> None:
        made = problem if isinstance(problem, Diagnostic) else Diagnostic(code, problem, help=help)
        super().__init__([made, *others], made.message)

    @property
    def diagnostic(self) -> Diagnostic:
        """The problem, or the first of several."""
        return self.diagnostics[0]

    @property
    def help(self) -> str | None:
        """How the user can solve the problem; None if the problem has no help line."""
        return self.diagnostic.help


class LibraryError(OneProblem):
    """A node library cannot be loaded."""


class NodeError(OneProblem):
    """A node cannot do its work: `raise NodeError("there is no frame 7", help="the last one is 6")`.

    Args:
        problem: The message for the user, or the diagnostic that a `check` function found.
        others: Further diagnostics, which `sgd check` reports too.
        help: How the user can solve it.
        code: Code of the diagnostic.
    """


class DoesNotFit(NodeError):
    """The device has too little memory; the command line exits with 4."""


class UnfitNetwork(OneProblem):
    """The file with the network of LPIPS cannot be used."""


class UnreadableFile(NodeError):
    """A file cannot be read, or does not hold what it should. The message begins with its name, line and column."""


class WrongValue(NodeError):
    """A node returned a value that breaks the rules for nodes, or changed one that it received.

    Args:
        problem: The message for the user. It names the port.
        call: The call that made the value (`contract/events.py`, `CallInfo`); None for the call that is running.
        help: How the user can solve it.
    """

    def __init__(self, problem: str, *, call: Any = None, help: str | None = None) -> None:
        super().__init__(problem, help=help)
        self.call = call
