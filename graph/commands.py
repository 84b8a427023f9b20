"""The commands of the command line, one function each: call, print, return the exit code."""

from __future__ import annotations

import json
import os
import sys
import time
from argparse import Namespace
from collections.abc import Iterable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cli import DOES_NOT_FIT, DONE, FAILED, INTERRUPTED, WRONG
from .compile import Checked, check, plan_of
from .library import Library, LibraryError, installed
from .literals import Given
from .node import NodeError
from .source import Diagnostic, did_you_mean, render

if TYPE_CHECKING:
    from .plan import Plan
    from .run import Result


def say(text: str) -> None:
    print(text, file=sys.stderr)


def wrong(message: str, help: str | None = None) -> int:
    say(f"error: {message}" + (f"\n = help: {help}" if help else ""))
    return WRONG


def load_library(arguments: Namespace) -> Library:
    """The installed node types and those of `--library` files."""
    library = installed(tuple(Path(f) for f in arguments.library))
    for warning in library.warnings:
        say(f"warning: {warning}")
    return library


def given(pairs: Iterable[str], what: str) -> dict[str, Given]:
    """`name=value` pairs.

    Raises:
        NodeError: For a pair without `=`, or a name given twice.
    """
    found: dict[str, Given] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise NodeError(f"{pair!r} is not {what}", help=f"write {what}")
        if name in found:
            raise NodeError(f"{name} is given twice")
        found[name] = Given(value, True, Path.cwd())
    return found


def checked(arguments: Namespace, complete: bool) -> tuple[Checked, Library] | int:
    """Check the workflow of a command with its values; diagnostics go to stderr."""
    try:
        library = load_library(arguments)
        inputs = given(arguments.values, "name=value")
        settings = given(arguments.set, "--set path=value")
    except (LibraryError, NodeError) as error:
        return wrong(str(error), getattr(error, "help", None))
    result = check(arguments.file, inputs, settings, library, complete)
    if result.diagnostics:
        say(render(result.diagnostics, result.sources))
    return WRONG if result.errors else (result, library)


def options(arguments: Namespace, device: str) -> dict[str, Any]:
    return {"weights": arguments.weights, "trust_remote_code": arguments.trust_remote_code, "device": device}


def exec_(arguments: Namespace) -> int:
    """`sgd exec`."""
    from .device import choose
    from .observers.progress import Progress
    from .record import Clock
    from .report import each, run_table
    from .run import does_not_fit, run

    if arguments.out == "":
        return wrong("--out is empty", "name a folder, or leave --out away")
    clock = Clock(process_start())
    clock.import_seconds = time.time() - clock.started
    began = time.time()
    found = checked(arguments, complete=True)
    if isinstance(found, int):
        return found
    result, library = found
    plan = plan_of(result, library)
    clock.compile_seconds = time.time() - began
    began = time.time()
    try:
        device = choose(arguments.device, plan.libraries)
        clock.import_seconds += time.time() - began
        progress = [] if arguments.quiet else [Progress()]
        with redirect_stdout(sys.stderr):  # what nodes print is no part of the result
            done = run(
                plan,
                out=arguments.out,
                device=device,
                options=options(arguments, device),
                overwrite=arguments.overwrite,
                observers=progress,
                clock=clock,
            )
    except NodeError as error:
        return wrong(str(error), error.help)
    if arguments.json:
        print(json.dumps(done.record, indent=1))
    elif not arguments.quiet and done.status == "done":
        print(run_table(done.record))
        for tell in (getattr(module, "report", None) for module in plan.libraries):
            text = tell(done.record) if tell is not None else ""
            if text:
                print(f"\n{text}\n")
        for name, value in done.record["outputs"].items():
            for path in each(value):
                print(f"{name}: {done.folder / path if isinstance(path, str) else path}")
        print(f"record: {done.folder / 'run.json'}")
    if done.status == "interrupted":
        kept = ", ".join(str(p) for p in done.written) or "no output yet"
        say(f"interrupted; kept: {kept}; record: {done.folder / 'run.json'}")
        replace = ", with --overwrite," if arguments.out is not None and not arguments.overwrite else ""
        say(f"run the same command again{replace} to start over")
        return interrupted(done)
    if done.status == "failed":
        say(f"error: {str(done.error) or type(done.error).__name__}")
        if done.written:
            say("kept: " + ", ".join(str(p) for p in done.written))
        if does_not_fit(done.error):
            say(" = help: a smaller size, fewer frames or a narrower dtype need less memory; `sgd plan` says how much")
            for line in lighter(plan, options(arguments, device), device):
                say(f" = help: {line}")
            return DOES_NOT_FIT
        return FAILED
    return DONE


def interrupted(done: Result) -> int:
    """The exit code of a run that was interrupted. If it does not stop, this does not return."""
    if done.stuck:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(INTERRUPTED)
    return INTERRUPTED


def lighter(plan: Plan, options: Mapping[str, Any], device: str) -> list[str]:
    """What would make a run fit that did not, from a plan of it; nothing where it cannot be planned."""
    from .device import memory_bytes
    from .estimate import estimate

    try:
        found = estimate(plan, options=options, device=device, memory_bytes=memory_bytes(device))
        return list(found["help"])
    except Exception:
        return []  # the failure itself was reported


def process_start() -> float:
    """When this process started, seconds since the epoch; now, where the system does not tell."""
    try:
        ticks = float(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        uptime = float(Path("/proc/uptime").read_text().split()[0])
        return time.time() - uptime + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return time.time()


def check_(arguments: Namespace) -> int:
    """`sgd check`."""
    try:
        library = load_library(arguments)
    except LibraryError as error:
        return wrong(str(error))
    found: list[Diagnostic] = []
    for file in arguments.files:
        result = check(file, library=library)
        found += result.diagnostics
        if result.diagnostics and not arguments.json:
            say(render(result.diagnostics, result.sources))
    if arguments.json:
        print(json.dumps([d.json() for d in found], indent=1))
    return WRONG if any(d.severity == "error" for d in found) else DONE


def plan_(arguments: Namespace) -> int:
    """`sgd plan`."""
    from .device import choose, memory_bytes
    from .estimate import estimate
    from .execute import NodeFailed
    from .report import plan_table

    found = checked(arguments, complete=True)
    if isinstance(found, int):
        return found
    result, library = found
    plan = plan_of(result, library)
    try:
        device = choose(arguments.device, plan.libraries)
        memory = memory_bytes(device)
        estimated = estimate(plan, options=options(arguments, device), device=device, memory_bytes=memory)
    except NodeFailed as error:
        say(f"error: {error}")
        return FAILED
    except NodeError as error:
        return wrong(str(error), error.help)
    print(json.dumps(estimated, indent=1) if arguments.json else plan_table(estimated))
    if not arguments.json:
        for line in estimated["help"]:
            print(f"help: {line}")
    return DONE


def graph_(arguments: Namespace) -> int:
    """`sgd graph`."""
    from .picture import FORMATS, times_of

    found = checked(arguments, complete=False)
    if isinstance(found, int):
        return found
    times = None
    if arguments.profile:
        try:
            times = times_of(json.loads(Path(arguments.profile).read_text()))
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            return wrong(f"--profile {arguments.profile}: not the record of a run ({error})")
    assert found[0].graph is not None
    print(FORMATS[arguments.format](found[0].graph, times))
    return DONE


def nodes_(arguments: Namespace) -> int:
    """`sgd nodes`."""
    from .show import as_json, details, listing

    try:
        library = load_library(arguments)
    except LibraryError as error:
        return wrong(str(error))
    if arguments.name is None:
        types = [as_json(library.nodes[n]) for n in sorted(library.nodes)]
        print(json.dumps(types, indent=1) if arguments.json else listing(library))
        return DONE
    type = library.nodes.get(arguments.name)
    if type is None:
        help = did_you_mean(arguments.name, library.nodes) or "`sgd nodes` lists what is installed"
        return wrong(f"no node type `{arguments.name}`", help)
    print(json.dumps(as_json(type), indent=1) if arguments.json else details(type))
    return DONE


def schema_(arguments: Namespace) -> int:
    """`sgd schema`."""
    from .schema import schema

    try:
        print(json.dumps(schema(load_library(arguments)), indent=1))
    except LibraryError as error:
        return wrong(str(error))
    return DONE


def diff_(arguments: Namespace) -> int:
    """`sgd diff`."""
    from .difference import difference, text

    try:
        library = load_library(arguments)
    except LibraryError as error:
        return wrong(str(error))
    results = [check(file, library=library, fold_inputs=False) for file in (arguments.before, arguments.after)]
    for result in results:
        if result.errors:
            say(render(result.errors, result.sources))
    before, after = (result.graph for result in results)
    if before is None or after is None:
        return WRONG
    found = difference(before, after)
    shown = json.dumps(found, indent=1) if arguments.json else text(found)
    if shown:
        print(shown)
    return DONE


def hook(library: Library, name: str) -> list[Any]:
    """What the installed libraries define under a name."""
    return [getattr(m, name) for m in library.modules.values() if hasattr(m, name)]


def init_(arguments: Namespace) -> int:
    """`sgd init`."""
    text = None
    try:
        for starter in hook(installed(), "starter"):
            name, text = starter(arguments.source)
    except NodeError as error:
        return wrong(str(error), error.help)
    assert text is not None
    if arguments.out == "-":
        print(text, end="")
        return DONE
    path = Path(arguments.out or f"{name}.yaml")
    if path.exists() and not arguments.overwrite:
        return wrong(f"{path} exists", "pass --overwrite, or another --out")
    try:
        path.write_text(text)
    except OSError as error:
        return wrong(f"cannot write {path}: {error.strerror}")
    say(f"wrote {path}; try `sgd check {path}` and `sgd plan {path}`")
    return DONE


def calibrate_(arguments: Namespace) -> int:
    """`sgd calibrate`."""
    from .calibrate import command

    return command(arguments)


def doctor_(arguments: Namespace) -> int:
    """`sgd doctor`."""
    from .report import columns

    found: dict[str, Mapping[str, str]] = {}
    for doctor in hook(installed(), "doctor"):
        found.update(doctor())
    if arguments.json:
        print(json.dumps(found, indent=1))
        return DONE
    for section, facts in found.items():
        print(section)
        print("\n".join(f"  {line}" for line in columns([[k, v] for k, v in facts.items()])))
    return DONE
