"""Commands and options that a node library adds to the command line.

A library lists a command as data: name, help line, and the name of a module. The command line imports the module
when the command is called. The module cannot import the compiler or the runtime; it receives a `WorkflowFile`, which
checks the workflow and runs the part of it that the command asks for.

The data are named tuples, since `sgd --help` loads this module and dataclasses take longer to import.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from pathlib import Path

    from .events import Observer
    from .file_edits import FileEdit
    from .ports import Type


class RunOption(NamedTuple):
    """An option of `sgd exec`, `sgd plan` or both. Nodes read its value from `Run.options`.

    Attributes:
        name: Its name without the dashes in front, such as `trust-remote-code`.
        help: One line about it.
        choices: The values that it takes, the default first. An option without choices is a switch: False or True.
        commands: The commands that take it, `exec` and `plan` or one of them.
        decides: Whether the result depends on it, so that recipes keep it. Permissions are never kept.
        permission: Whether it allows something that a file may not allow: a resumed run needs it again.
    """

    name: str
    help: str
    choices: tuple[str, ...] = ()
    commands: tuple[str, ...] = ("exec", "plan")
    decides: bool = False
    permission: bool = False

    @property
    def key(self) -> str:
        """The key of `Run.options`: the name with `_` for `-`."""
        return self.name.replace("-", "_")

    @property
    def default(self) -> str | bool:
        """The value if the option is not given."""
        return self.choices[0] if self.choices else False

    def add_to(self, parser: ArgumentParser) -> None:
        """Add the option to a parser.

        Raises:
            ArgumentError: If the parser has an option of this name.
        """
        if self.choices:
            kind: dict[str, Any] = {"choices": self.choices, "default": self.default}
        else:
            kind = {"action": "store_true"}
        parser.add_argument(f"--{self.name}", dest=f"option_{self.key}", help=self.help, **kind)

    def value_in(self, arguments: Namespace) -> str | bool:
        """The value on a command line; the default if its parser does not have the option."""
        value: str | bool = getattr(arguments, f"option_{self.key}", self.default)
        return value


class LibraryCommand(NamedTuple):
    """A command that works on a workflow file.

    The command line gives it the arguments FILE, `name=value`, `--set`, `--library` and `--device`.

    Attributes:
        name: The word after `sgd`.
        help: One line about it, in lower case and without a full stop.
        module: The full name of a module with the functions of `CommandModule`.
    """

    name: str
    help: str
    module: str


class CommandModule(Protocol):
    """Functions of a command's module."""

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the arguments that only this command has."""

    def command(self, arguments: Namespace, workflow: WorkflowFile) -> int:
        """Run the command.

        Returns:
            The exit code (`contract/constants.py`).

        Raises:
            NodeError: If the command line is wrong. The message is printed, and the exit code is 2.
            CommandEnded: If `workflow` has printed the reason.
        """


class CommandEnded(Exception):
    """Raised to end a command after the reason has been printed. `code` is the exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the command ended with exit code {code}")
        self.code = code


class WorkflowFile(Protocol):
    """The workflow of a command: the file with the values and settings of the command line."""

    @property
    def file(self) -> str:
        """The path or name on the command line."""

    @property
    def given(self) -> Collection[str]:
        """Names of the inputs that the command line gives a value."""

    def input_types(self) -> Mapping[str, Type] | None:
        """The type of each input by name; None if the workflow has errors. A later call of `part` prints them."""

    def node_of(self, node_type: str, parameter: str) -> str | None:
        """The node whose output is wired to a parameter.

        Args:
            node_type: Name of the node type that has the parameter.
            parameter: The parameter.

        Returns:
            The node's path; None if no call of this type would run, or the parameter is not wired to a node.

        Raises:
            CommandEnded: If the workflow has errors. They were printed.
            NodeError: If calls of this type are wired to different nodes.
        """

    def inputs_of(self, node: str) -> Collection[str]:
        """Names of the inputs that a node of the file reads and no other does, in file order.

        Args:
            node: The node's path.

        Returns:
            The names; none if the workflow has errors.
        """

    def edit(self, edits: Iterable[FileEdit], write: bool = True) -> Path:
        """Write edits into the file, in one step, and return its path. All other bytes of the file stay.

        Args:
            edits: The edits.
            write: False to see whether the edits can be made, and change nothing.

        Raises:
            NodeError: If the user cannot change the file, such as a bundled one, or an edit cannot be made.
            CommandEnded: If the file cannot be written. The reason was printed.
        """

    def part(self, node_types: Collection[str], values: Mapping[str, Any]) -> WorkflowPart | None:
        """Compile the calls of some node types, and the calls that these need.

        Args:
            node_types: Names of node types.
            values: Python values of inputs. They override values of the command line.

        Returns:
            The compiled part; None if the workflow would run no call of these types.

        Raises:
            CommandEnded: If the workflow has errors. They were printed.
        """

    def output_file(self, out: str | None, default: str, overwrite: bool) -> Path:
        """The path of the file that the command writes. This method checks that the file can be written.

        Args:
            out: The value of `--out`.
            default: The name of the file without `--out`.
            overwrite: Whether a file that exists is replaced.

        Raises:
            NodeError: If nothing can be written there, or a file exists.
        """

    def save(self, content: Mapping[str, Any], path: Path) -> None:
        """Write JSON to a file in one step, so that a reader never sees a partial file.

        Raises:
            CommandEnded: If the file cannot be written. The reason was printed.
        """

    def say(self, text: str) -> None:
        """Print a line on stderr."""


class WorkflowPart(Protocol):
    """A part of a workflow that can run."""

    @property
    def name(self) -> str:
        """The workflow's name."""

    @property
    def file_name(self) -> str:
        """The workflow's name, made safe for a file."""

    @property
    def sha256(self) -> str:
        """The SHA-256 of the file's text."""

    @property
    def inputs(self) -> Mapping[str, Any]:
        """Values of the workflow's inputs by name."""

    @property
    def device(self) -> str:
        """The device that the part runs on: `cpu` or `cuda`.

        Raises:
            NodeError: If the command line asks for a GPU and there is none.
        """

    def run(self, observer: Observer, options: Mapping[str, Any], unfinished: str) -> None:
        """Run the part and delete the files that its nodes write.

        All runs of a command are those of one session, and share the results of nodes that no loop comes before. Such
        nodes must not depend on `options`. Calls that `part` asked for are made in each run.

        Args:
            observer: Receives the events of the run.
            options: Values for `Run.options`.
            unfinished: Text that the messages add if the run does not end well, such as `no table was written`.

        Raises:
            CommandEnded: If the run failed or was interrupted, or the observer failed. The reason was printed.
        """
