"""The command line: arguments in, calls out. Heavy modules are imported by the command that needs them."""

from __future__ import annotations

if __name__ == "__main__":
    from sgd import entry  # first of all, since it handles interrupts

import argparse
import gc
import re
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

from ..contract.constants import DONE, EXIT_CODES, FAILED, INTERRUPTED
from ..contract.library_command import LibraryCommand
from ..contract.node_library import NodeLibrary
from ..language.library_objects import installed_objects, standard_object
from .collector import collector_paused
from .terminal import say, show

COMMANDS = {
    "exec": "run_workflow",
    "check": "check_files",
    "plan": "show_plan",
    "graph": "draw_graph",
    "nodes": "list_nodes",
    "schema": "print_schema",
    "diff": "compare_files",
    "init": "write_starter",
    "doctor": "describe_machine",
    "completion": "complete_words",
}
"""The module of each command, imported when the command is called. Node libraries add further commands."""

OPEN = ("exec", "plan")
"""Commands that take options of node libraries."""

VALUE = re.compile(r"[A-Za-z_]\w*=", re.ASCII | re.DOTALL)


class Version(argparse.Action):
    """`--version`. The version is looked up when it is asked for: `importlib.metadata` is slow to import."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version

        show(f"sgd {version('sgd')}")
        parser.exit()


def parser(libraries: Sequence[NodeLibrary] | None = None, called: str | None = None) -> argparse.ArgumentParser:
    """Build the argument parser.

    Args:
        libraries: Node libraries that add commands and options; the standard library if not given.
        called: The command that will be parsed. Other commands of libraries are listed without their arguments, so
            that their modules are not imported. All have their arguments if not given.
    """
    libraries = [standard_object()] if libraries is None else libraries
    root = argparse.ArgumentParser(
        prog="sgd", description="Generate images and video from workflow files.", epilog=EXIT_CODES
    )
    root.add_argument("--version", action=Version, help="show program's version number and exit")
    commands = root.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, help: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.", epilog=EXIT_CODES)

    def library_files(to: argparse.ArgumentParser) -> None:
        to.add_argument(
            "--library",
            action="append",
            default=[],
            metavar="FILE",
            help="a Python file with node types; sgd runs the file",
        )

    def workflow(to: argparse.ArgumentParser) -> None:
        to.add_argument("file", metavar="FILE", help="a workflow file, or the name of a bundled workflow")
        to.add_argument("values", nargs="*", default=[], metavar="name=value", help="values of the workflow's inputs")
        to.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="PATH=VALUE",
            help="set a parameter, such as node.parameter=3",
        )
        library_files(to)

    def device(to: argparse.ArgumentParser) -> None:
        to.add_argument(
            "--device",
            choices=["auto", "cpu", "cuda"],
            default="auto",
            help="the device that runs the nodes (default: auto, a GPU if there is one)",
        )

        to.add_argument(
            "--traceback", action="store_true", help="if a node fails, print its calls, those of its author first"
        )

    def running(to: argparse.ArgumentParser) -> None:
        device(to)
        to.add_argument("--json", action="store_true", help="print the result as JSON on stdout")

    exec_ = command("exec", "check, compile and run a workflow")
    workflow(exec_)
    running(exec_)
    exec_.add_argument("--out", metavar="DIR", help="the output folder (default: outputs/<name>-<date>-<time>)")
    exec_.add_argument("--overwrite", action="store_true", help="replace files that exist")
    exec_.add_argument("--quiet", action="store_true", help="no progress and no table")

    check = command("check", "report every problem of workflow files, running nothing")
    check.add_argument("files", nargs="+", metavar="FILE", help="workflow files, or names of bundled workflows")
    check.add_argument("--json", action="store_true", help="print the diagnostics as a JSON list on stdout")
    library_files(check)

    plan = command("plan", "show what would run: order, shapes, parameters, FLOPs, memory")
    workflow(plan)
    running(plan)
    plan.add_argument("--after", metavar="PASS", help="print the graph as it is after this pass of the compiler")

    for name, to in (("exec", exec_), ("plan", plan)):
        for option in (option for library in libraries for option in library.options if name in option.commands):
            with suppress(argparse.ArgumentError):  # the first to have a name keeps it
                option.add_to(to)

    graph = command("graph", "draw the graph of a workflow")
    workflow(graph)
    graph.add_argument(
        "--format", choices=["text", "mermaid", "dot"], default="text", help="the form of the drawing (default: text)"
    )
    graph.add_argument("--profile", metavar="RUN.JSON", help="show the times of a run")

    nodes = command("nodes", "list the installed node types, or describe one")
    nodes.add_argument(
        "name", nargs="?", metavar="NAME", help="a node type, such as text.encode (default: all are listed)"
    )
    nodes.add_argument("--json", action="store_true", help="print the node types as JSON on stdout")
    library_files(nodes)

    schema = command("schema", "print the JSON Schema of workflow files for the installed nodes")
    library_files(schema)

    diff = command("diff", "compare two workflow files")
    diff.add_argument("before", metavar="A", help="a workflow file, or the name of a bundled workflow")
    diff.add_argument("after", metavar="B", help="the workflow file to compare it with")
    diff.add_argument("--json", action="store_true", help="print the differences as JSON on stdout")
    library_files(diff)

    sources = ", or ".join(library.starter_sources for library in libraries if library.starter_sources)
    init = command("init", f"copy a bundled workflow, or write one for {sources or 'a source'}")
    init.add_argument(
        "source",
        nargs="?",
        metavar="NAME|SOURCE",
        help=f"a bundled workflow (default: they are listed), or {sources or 'a source'}",
    )
    init.add_argument("--out", metavar="FILE", help="the file to write (default: <name>.yaml here; - for stdout)")
    init.add_argument("--overwrite", action="store_true", help="replace the file if it exists")

    doctor = command("doctor", "describe this machine: device, memory, disk, and the packages of node libraries")
    doctor.add_argument("--json", action="store_true", help="print the facts as JSON on stdout")

    completion = command("completion", "print a script that completes commands in a shell")
    completion.add_argument("shell", choices=["bash", "zsh", "fish"], metavar="SHELL", help="bash, zsh or fish")
    completion.add_argument(
        "words",
        nargs=argparse.REMAINDER,
        metavar="WORD",
        help="print the completions of the last word of a command line, as the script does",
    )

    for added in (added for library in libraries for added in library.commands):
        if added.name in commands.choices:
            continue  # the first to have a name keeps it
        to = command(added.name, added.help)
        to.set_defaults(library_command=added)
        if called is None or called == added.name:
            workflow(to)
            device(to)
            try:
                import_module(added.module).add_arguments(to)
            except Exception as error:
                root.error(f"the command {added.name} cannot be loaded: {type(error).__name__}: {error}")
    return root


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments. `name=value`, and further files of `check`, may stand anywhere after the command."""
    called = next((word for word in argv if not word.startswith("-")), "")
    root = parser(libraries_for(called, argv), called)
    arguments, rest = root.parse_known_args(argv)
    extra = [a for a in rest if hasattr(arguments, "values") and VALUE.match(a)]
    if hasattr(arguments, "files"):
        further = [a for a in rest if not a.startswith("-")]
        arguments.files += further
        extra += further
    unknown = [a for a in rest if a not in extra]
    if unknown:
        root.error(f"unrecognized arguments: {' '.join(unknown)}")
    if hasattr(arguments, "values"):
        arguments.values += extra
    return arguments


def libraries_for(called: str, argv: Sequence[str]) -> list[NodeLibrary]:
    """Node libraries that may add something to a command line.

    Installed packages are imported for commands that take options of libraries, for unknown commands, and for help.
    """
    found = [standard_object()]
    known = {*COMMANDS, *(command.name for library in found for command in library.commands)}
    if called in OPEN or called not in known or not {"-h", "--help"}.isdisjoint(argv):
        found += installed_objects()
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """The `sgd` command. Returns the exit code.

    Args:
        argv: The words after `sgd`. Without them this is the command of the process: `sgd/entry.py` handles interrupts,
            guards the streams, calls this again with the words of the process, and ends the process. In a program that
            gives words, SIGTERM acts as Ctrl-C meanwhile, if it has no handler.
    """
    if argv is None:
        from sgd import entry

        entry.main()
    before = signal.getsignal(signal.SIGTERM)
    with suppress(ValueError):  # only the main thread can set a handler
        if before is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with collector_paused():
            arguments = parse(argv)
            added: LibraryCommand | None = getattr(arguments, "library_command", None)
            name = ".partial_run" if added is not None else f".commands.{COMMANDS[arguments.command]}"
            module = import_module(name, __package__)
        code: int = module.command(arguments) if added is None else module.run_library_command(added, arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe has gone; Python would complain again when it closes stdout.
        sys.stdout = None  # type: ignore[assignment]
        return DONE
    except OSError as error:
        # A command reports errors of its own files. This is an error of its output, such as a full disk behind a pipe.
        sys.stdout = None  # type: ignore[assignment]
        say(f"error: {error.strerror or error}")
        return FAILED
    finally:
        gc.unfreeze()  # the process may go on after this command
        with suppress(ValueError):
            if before is signal.SIG_DFL:
                signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    entry.main()
