"""The command line: arguments in, calls out. Heavy modules are imported by the command that needs them."""

from __future__ import annotations

import argparse
import re
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from ..contract.constants import DONE, EXIT_CODES, FAILED, INTERRUPTED

COMMANDS = {
    "exec": "run_workflow",
    "check": "check_files",
    "plan": "show_plan",
    "graph": "draw_graph",
    "nodes": "list_nodes",
    "schema": "print_schema",
    "diff": "compare_files",
    "init": "write_starter",
    "calibrate": "calibrate",
    "doctor": "describe_machine",
}
"""The module of each command, imported when the command is called."""

VALUE = re.compile(r"[A-Za-z_]\w*=", re.ASCII | re.DOTALL)


def parser() -> argparse.ArgumentParser:
    """The argument parser; each command's function name is its default `command`."""
    from importlib.metadata import version

    root = argparse.ArgumentParser(
        prog="sgd", description="Generate images and video from workflow files.", epilog=EXIT_CODES
    )
    root.add_argument("--version", action="version", version=f"sgd {version('sgd')}")
    commands = root.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, help: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.", epilog=EXIT_CODES)

    def libraries(to: argparse.ArgumentParser) -> None:
        to.add_argument(
            "--library", action="append", default=[], metavar="FILE", help="a Python file with node types; it is run"
        )

    def workflow(to: argparse.ArgumentParser) -> None:
        to.add_argument("file", metavar="FILE", help="a workflow file, or the name of a bundled workflow")
        to.add_argument("values", nargs="*", default=[], metavar="name=value", help="values of the workflow's inputs")
        to.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="PATH=VALUE",
            help="set a parameter, such as model.dtype=float32",
        )
        libraries(to)

    def device(to: argparse.ArgumentParser) -> None:
        to.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
        to.add_argument(
            "--trust-remote-code", action="store_true", help="let a model repository run its own Python code"
        )

    def running(to: argparse.ArgumentParser) -> None:
        device(to)
        to.add_argument(
            "--weights",
            choices=["real", "dummy"],
            default="real",
            help="dummy: random weights of the model's size, for benchmarks and dry runs",
        )
        to.add_argument("--json", action="store_true", help="print the result as JSON on stdout")

    exec_ = command("exec", "check, compile and run a workflow")
    workflow(exec_)
    running(exec_)
    exec_.add_argument("--out", metavar="DIR", help="the output folder (default: outputs/<name>-<date>-<time>)")
    exec_.add_argument("--overwrite", action="store_true", help="replace files that exist")
    exec_.add_argument("--quiet", action="store_true", help="no progress and no table")

    check = command("check", "report every problem of workflow files, running nothing")
    check.add_argument("files", nargs="+", metavar="FILE")
    check.add_argument("--json", action="store_true", help="print the diagnostics as a JSON list on stdout")
    libraries(check)

    plan = command("plan", "show what would run: order, shapes, parameters, FLOPs, memory")
    workflow(plan)
    running(plan)
    plan.add_argument("--after", metavar="PASS", help="print the graph as it is after this pass of the compiler")

    graph = command("graph", "draw the graph of a workflow")
    workflow(graph)
    graph.add_argument("--format", choices=["text", "mermaid", "dot"], default="text")
    graph.add_argument("--profile", metavar="RUN.JSON", help="show the times of a run")

    nodes = command("nodes", "list the installed node types, or describe one")
    nodes.add_argument("name", nargs="?", metavar="NAME")
    nodes.add_argument("--json", action="store_true")
    libraries(nodes)

    schema = command("schema", "print the JSON Schema of workflow files for the installed nodes")
    libraries(schema)

    diff = command("diff", "compare two workflow files")
    diff.add_argument("before", metavar="A")
    diff.add_argument("after", metavar="B")
    diff.add_argument("--json", action="store_true")
    libraries(diff)

    init = command("init", "write a workflow for a model: a folder, or a name on the Hugging Face hub")
    init.add_argument("source", metavar="SOURCE")
    init.add_argument("--out", metavar="FILE", help="where to write it (default: <model>.yaml here; - for stdout)")
    init.add_argument("--overwrite", action="store_true")

    calibrate = command("calibrate", "measure a workflow's model and schedule, and write a table that cache gates take")
    workflow(calibrate)
    device(calibrate)
    calibrate.add_argument("--prompts", metavar="FILE", help="texts to measure with, one on each line")
    calibrate.add_argument("--input", default="prompt", metavar="NAME", help="the input that takes them (prompt)")
    calibrate.add_argument("--order", type=int, default=4, metavar="N", help="order of the polynomials (4)")
    calibrate.add_argument("--out", metavar="TABLE", help="where to write it (default: <name>-table.json here)")
    calibrate.add_argument("--overwrite", action="store_true", help="replace a table that exists")
    calibrate.add_argument("--json", action="store_true", help="print the table on stdout")

    doctor = command("doctor", "describe this machine: device, memory, libraries, attention backends, disk, hub")
    doctor.add_argument("--json", action="store_true")
    return root


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse; `name=value`, and further files of `check`, may stand anywhere after the command."""
    root = parser()
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


def main(argv: Sequence[str] | None = None) -> int:
    """The `sgd` command. Returns the exit code."""
    signal.signal(signal.SIGTERM, _terminated)
    arguments = parse(sys.argv[1:] if argv is None else argv)
    try:
        module = import_module(f".commands.{COMMANDS[arguments.command]}", __package__)
        code: int = module.command(arguments)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe has gone; Python would complain again when it closes stdout.
        sys.stdout = None  # type: ignore[assignment]
        return DONE
    except OSError as error:
        # What a command itself reads and writes it answers for; this is its output, such as a full disk behind a pipe.
        sys.stdout = None  # type: ignore[assignment]
        print(f"error: {error.strerror or error}", file=sys.stderr)
        return FAILED


def _terminated(*_: Any) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
