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

from ..contract.collector import collector_paused
from ..contract.constants import DONE, EXIT_CODES, FAILED, INTERRUPTED
from ..contract.device import one_card
from ..contract.library_command import LibraryCommand
from ..contract.node_library import NodeLibrary
from ..contract.rank_start import rank_place
from ..language.library_objects import installed_objects, standard_object
from .common_arguments import device, workflow
from .early_display import display_for
from .terminal import say, show

COMMANDS = {
    "exec": ("run_workflow", "check, compile and run a workflow"),
    "check": ("check_files", "report every problem of workflow files, running nothing"),
    "plan": ("show_plan", "show what would run: order, shapes, parameters, FLOPs, memory"),
    "graph": ("draw_graph", "draw the graph of a workflow"),
    "nodes": ("list_nodes", "list the installed node types, or describe one"),
    "schema": ("print_schema", "print the JSON Schema of workflow files for the installed nodes"),
    "report": ("write_report", "write the report of runs: one HTML page with outputs, graph, times and memory"),
    "diff": ("compare_files", "compare two workflows, runs, pictures or clips"),
    "resume": ("resume_run", "go on with a run that was interrupted"),
    "replay": ("replay_run", "run a recorded run again, and compare its outputs"),
    "sweep": ("sweep_values", "run a workflow with every combination of some values, and compare the runs"),
    "runs": ("list_runs", "list the runs in a folder, or make a gallery of them"),
    "clean": ("clean_runs", "remove failed runs and what killed runs left, never a finished run"),
    "store": ("manage_store", "list, check and remove stored results"),
    "init": ("write_starter", "copy a bundled workflow, or write one for a source that a node library knows"),
    "doctor": ("describe_machine", "describe this machine: device, memory, disk, and the packages of node libraries"),
    "completion": ("complete_words", "print a script that completes commands in a shell"),
}
"""Module and help of each command. The module is imported when the command is called; its `add_arguments` adds the
command's arguments. Node libraries add further commands."""

OPEN = ("exec", "plan", "replay", "resume", "sweep")
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
        called: The command that will be parsed. Other commands are listed without their arguments, so that their
            modules are not imported. All have their arguments if not given.
    """
    libraries = [standard_object()] if libraries is None else libraries
    root = argparse.ArgumentParser(
        prog="sgd", description="Generate images and video from workflow files.", epilog=EXIT_CODES
    )
    root.add_argument("--version", action=Version, help="show program's version number and exit")
    commands = root.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, help: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.", epilog=EXIT_CODES)

    for name, (module, help) in COMMANDS.items():
        to = command(name, help)
        if called is not None and called != name:
            continue
        import_module(f".commands.{module}", __package__).add_arguments(to, libraries)
        for option in (option for library in libraries for option in library.options if name in option.commands):
            with suppress(argparse.ArgumentError):  # the first to have a name keeps it
                option.add_to(to)

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
    display = None
    try:
        with collector_paused():
            display = display_for(argv)
            arguments = parse(argv)
            arguments.display, arguments.command_line = display, list(argv)
            if rank_place() is not None:
                from .ranks.other_rank import refused

                stopped = refused(arguments.command)
                if stopped is not None:
                    return stopped
            added: LibraryCommand | None = getattr(arguments, "library_command", None)
            name = ".partial_run" if added is not None else f".commands.{COMMANDS[arguments.command][0]}"
            module = import_module(name, __package__)
        with one_card(getattr(arguments, "device", "auto")):
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
        if display is not None:
            display.stop()
        gc.unfreeze()  # the process may go on after this command
        with suppress(ValueError):
            if before is signal.SIG_DFL:
                signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    entry.main()
