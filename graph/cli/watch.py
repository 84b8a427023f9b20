"""`sgd exec --watch`: check and run a workflow again at each save, until an interrupt."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..contract.constants import DONE, INTERRUPTED
from ..contract.interrupts import held, pending, reported
from .command_line import wrong
from .difference import difference, text
from .fitted_tables import wrapped
from .terminal import say, stdout_width
from .watched_files import files_of, states, wait

if TYPE_CHECKING:
    from ..compiler.compile import Checked
    from ..compiler.ir import Graph


@dataclass
class Round:
    """One check and run.

    Attributes:
        arguments: The command line.
        before: The graph of the last round whose workflow was right.
        has_run: Whether an earlier round has run, so that files in `--out` are its own.
        known: The files of the last round.
        is_first: Whether this is the first round of the process.
        checked: The result of the check; None if it did not come to one.
        record: The record of the run; None if nothing ran.
        seen: The states of the files before they were read.
    """

    arguments: Namespace
    before: Graph | None = None
    has_run: bool = False
    known: Sequence[Path] = ()
    is_first: bool = True
    checked: Checked | None = None
    record: Mapping[str, Any] | None = None
    seen: dict[Path, object] = field(default_factory=dict)

    def take(self, checked: Checked) -> None:
        """Take the result of the check, and say which nodes have changed."""
        self.checked = checked
        self.seen = {**states(self.files()), **self.seen}
        if self.before is not None and checked.graph is not None:
            told = text({**difference(self.before, checked.graph), "rerun": []})
            say(told or "no node of the workflow has changed")

    def files(self) -> list[Path]:
        """The files of the workflow; where it is wrong, also those of the last round in which it was right."""
        found = files_of(self.arguments.file, self.arguments.library, self.checked)
        right = self.checked is not None and self.checked.graph is not None
        return found if right else sorted({*found, *self.known})

    def next(self) -> Round:
        """The round after this one."""
        graph = self.checked.graph if self.checked is not None else None
        has_run = self.has_run or self.record is not None
        return Round(self.arguments, graph or self.before, has_run, self.files(), is_first=False)


def watch(arguments: Namespace, run: Callable[[Round], int]) -> int:
    """Run a workflow, and again whenever one of its files is saved. An interrupt while nothing runs ends it with 0.

    Args:
        arguments: The command line.
        run: Checks and runs the workflow once, and returns the exit code.
    """
    from ..runtime.session import session
    from ..store.fingerprints import forget_code

    if arguments.json:
        return wrong("--watch and --json exclude each other", "each run leaves its record in run.json")
    this = Round(arguments)
    with session():
        while True:
            this.seen = dict(states(this.files()))
            code = run(this)
            if code == INTERRUPTED:
                return code
            if this.checked is not None and this.checked.found is not None:
                return wrong(f"--watch: {arguments.file} is no workflow file", "`sgd init` writes its workflow as one")
            if this.is_first and this.checked is not None and not this.checked.errors and this.checked.mesh.size > 1:
                return code  # the command or its file asks for several processes, and the run has refused that
            if this.record is not None:
                say("\n".join(_reused(this.record)))
            changed = _wait(this, arguments.file)
            if not changed:
                return DONE
            say(f"\nchanged: {', '.join(map(_shown, changed))}")
            if any(path.suffix == ".py" for path in changed):
                forget_code()
            this = this.next()


def _wait(this: Round, name: str) -> list[Path]:
    """The files that were saved; none after an interrupt."""
    files = this.files()
    before = states(files)
    before = {path: this.seen.get(path, state) for path, state in before.items()}
    try:
        with held():
            say(f"watching {name}: {len(files)} {'file' if len(files) == 1 else 'files'}; Ctrl-C ends")
            changed = wait(files, before, pending)
            if pending():
                reported()
    except KeyboardInterrupt:  # in a program that calls the command
        changed = []
    if not changed:
        say(f"no longer watching {name}")
    return changed


def _reused(record: Mapping[str, Any]) -> list[str]:
    """Lines with the nodes that ran and those whose results were reused."""
    rows = [row for row in record["nodes"] if not row["name"].startswith("(")]
    inner = {row["name"].rpartition(".")[0] for row in rows}
    leaves = [row for row in rows if row["name"] not in inner]
    ran = [row["name"] for row in leaves if row["calls"]]
    reused = [row["name"] for row in leaves if row.get("reused")]
    found = [("ran", ran), ("reused", reused)]
    return [line for word, names in found if names for line in wrapped(f"{word}: {', '.join(names)}", stdout_width())]


def _shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
