"""`sgd calibrate`: run the part of a workflow that a library measures, once for each prompt, and write its table.

What is measured is the library's business (`calibration_protocol.py`).
"""

from __future__ import annotations

import json
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from typing import Any

from ...compiler.compile import Checked, check, plan_of
from ...compiler.passes.fold import safe_name
from ...compiler.passes.prune import live
from ...compiler.plan import Plan
from ...contract.calibration_protocol import Calibration
from ...contract.constants import DOES_NOT_FIT, DONE, FAILED, WRONG
from ...contract.device import choose
from ...contract.diagnostics import render
from ...contract.errors import NodeError
from ...contract.events import Observer
from ...contract.suggestions import did_you_mean
from ...language.literals import Given
from ...language.registry import Library
from ...runtime.observers.progress import Progress
from ...runtime.record import write
from ...runtime.run import does_not_fit, run

FEW = 5
LARGEST = 1 << 24  # bytes of a file of prompts


def command(arguments: Namespace) -> int:
    """`sgd calibrate`."""
    from ..command_line import given, hook, load_library, say, wrong

    try:
        if arguments.order < 1:
            raise NodeError(f"--order {arguments.order}: the order of a polynomial is 1 or more")
        library = load_library(arguments)
        values = given(arguments.values, "name=value")
        settings = given(arguments.set, "--set path=value")
        prompts = read_prompts(arguments.prompts) if arguments.prompts is not None else None
        if prompts is not None and arguments.input in values:
            raise NodeError(f"{arguments.input} is given twice: by --prompts and by {arguments.input}=…")
        found = [make(arguments.order) for make in hook(library, "calibrate")]
        plans = Plans(arguments.file, values, settings, library, found, arguments.input, prompts)
        plan, calibration = plans.first()
        target = _target(arguments, plan)
        device = choose(arguments.device, plan.libraries)
    except NodeError as error:
        return wrong(str(error), error.help)
    except _Said:
        return WRONG
    options = {"trust_remote_code": arguments.trust_remote_code, "device": device, **calibration.options}
    texts = plans.texts(plan)
    if len(texts) < FEW:
        say("warning: a table from few prompts may not hold for others; give more with --prompts")
    try:
        for number, each in enumerate(plans):
            if len(plans) > 1:
                say(f"prompt {number + 1} of {len(plans)}: {' '.join(texts[number].split())[:80]}")
            code = _measure(each, device, options, calibration)
            if code != DONE:
                return code
            calibration.check()
        table = calibration.table(texts, {"workflow": plan.name, "workflow_sha256": plan.sha256, "device": device})
    except NodeError as error:
        return wrong(str(error), error.help)
    except _Said:
        return WRONG
    try:
        write(table, target)
    except OSError as error:
        say(f"error: cannot write {target}: {error.strerror}")
        return FAILED
    print(json.dumps(table, indent=1) if arguments.json else f"{calibration.summary(table)}\ntable: {target}")
    return DONE


def read_prompts(path: str) -> list[str]:
    """The lines of a file that are not blank.

    Raises:
        NodeError: If there is none, or no such file of text.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(LARGEST + 1)  # a device may have no end
        if len(content) > LARGEST:
            raise NodeError(f"--prompts {path}: it is larger than {LARGEST >> 20} MiB", help="take fewer prompts")
        lines = content.decode("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise NodeError(f"--prompts {path}: {getattr(error, 'strerror', None) or 'it is no UTF-8 text'}") from error
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise NodeError(f"--prompts {path}: there is no prompt in it", help="write one prompt on each line")
    return found


class _Said(Exception):
    """The file is wrong, and its diagnostics were printed."""


class Plans:
    """The plans of a workflow with each prompt, up to what is measured.

    Args:
        file: A path, or the name of a bundled workflow.
        values: Values of inputs beside the prompt.
        settings: Values of parameters by path.
        library: Node types.
        calibrations: What may be measured.
        name: The input that takes the prompt.
        prompts: The texts; None for what the workflow has itself.
    """

    def __init__(
        self,
        file: str,
        values: Mapping[str, Given],
        settings: Mapping[str, Given],
        library: Library,
        calibrations: Sequence[Calibration],
        name: str,
        prompts: Sequence[str] | None,
    ) -> None:
        self.file, self.values, self.settings, self.library = file, values, settings, library
        self.calibrations, self.name, self.prompts = calibrations, name, prompts
        self._several: bool | None = None

    def __len__(self) -> int:
        return 1 if self.prompts is None else len(self.prompts)

    def __iter__(self) -> Iterator[Plan]:
        for prompt in [None] if self.prompts is None else self.prompts:
            yield self._plan(prompt)[0]

    def first(self) -> tuple[Plan, Calibration]:
        """The first plan, and what measures it; warnings about the workflow are printed.

        Raises:
            NodeError: If there is nothing to measure, or no such input.
            _Said: If the workflow is wrong.
        """
        return self._plan(self.prompts[0] if self.prompts else None, aloud=True)

    def texts(self, plan: Plan) -> list[str]:
        """The prompts, as far as they are inputs."""
        if self.prompts is not None:
            return list(self.prompts)
        own = plan.inputs.get(self.name)
        return [own] if isinstance(own, str) else [str(text) for text in own] if isinstance(own, list) else []

    def _plan(self, prompt: str | None, aloud: bool = False) -> tuple[Plan, Calibration]:
        from ..command_line import say

        checked = self._checked(prompt)
        if checked.diagnostics and (aloud or checked.errors):
            say(render(checked.diagnostics, checked.sources))
        if checked.errors:
            raise _Said
        assert checked.graph is not None
        running = live(checked.graph)
        for calibration in self.calibrations:
            roots = {c.id for c in checked.graph.calls() if c.type.name in calibration.nodes and c.id in running}
            if roots:
                return plan_of(checked, self.library, roots), calibration
        what = ", ".join(sorted(name for c in self.calibrations for name in c.nodes)) or "anything to calibrate"
        raise NodeError(f"{self.file} has no {what} that would run", help="calibrate a workflow with a denoise loop")

    def _checked(self, prompt: str | None) -> Checked:
        values = dict(self.values)
        with ExitStack() as stack:
            for calibration in self.calibrations:
                stack.enter_context(calibration.compiling())
            if prompt is not None:
                values[self.name] = Given([prompt] if self._takes_several() else prompt, False, Path.cwd())
            return check(self.file, values, self.settings, self.library, complete=True)

    def _takes_several(self) -> bool:
        """Whether the input for prompts is a list.

        Raises:
            NodeError: If there is no such input, or it is for something else.
        """
        if self._several is None:
            graph = check(self.file, library=self.library, fold_inputs=False).graph
            if graph is None:
                return False  # the check that follows says what is wrong with the file
            declared = graph.inputs.get(self.name)
            if declared is None:
                names = list(graph.inputs)
                help = did_you_mean(self.name, names) or f"choose one with --input: {', '.join(names) or 'it has none'}"
                raise NodeError(f"{self.file} has no input `{self.name}` for the prompts", help=help)
            kind = declared.type.item if declared.type.item is not None else declared.type
            if kind.kind != "str":
                message = f"the input `{self.name}` of {self.file} is {declared.type}, and prompts are text"
                raise NodeError(message, help="choose another with --input")
            self._several = declared.type.kind == "list"
        return self._several


def _target(arguments: Namespace, plan: Plan) -> Path:
    """Where the table goes.

    Raises:
        NodeError: If nothing can be written there, or a file is in the way.
    """
    if arguments.out == "":
        raise NodeError("--out is empty", help="name a file, or leave --out away")
    target = Path(arguments.out or f"{safe_name(plan.name)}-table.json")
    try:
        if target.is_dir():
            raise NodeError(f"{target} is a folder", help="name a file with --out")
        if target.exists() and not arguments.overwrite:
            raise NodeError(f"{target} exists", help="pass --overwrite, or another --out")
        probe = target.with_suffix(".json.tmp")  # where it is written first
        probe.touch()
        probe.unlink()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise NodeError(f"cannot write to {str(target)[:60]}: {reason}", help="choose another --out") from error
    return target


def _measure(plan: Plan, device: str, options: Mapping[str, Any], calibration: Calibration) -> int:
    """Run a plan for what is heard of it, and keep none of its files."""
    from ..command_line import interrupted, say

    with tempfile.TemporaryDirectory(prefix="sgd-calibrate-") as folder, redirect_stdout(sys.stderr):
        heard: list[Observer] = [calibration, Progress()]
        done = run(plan, out=folder, device=device, options=options, overwrite=True, observers=heard)
    if any(warning.startswith(f"{type(calibration).__name__} failed") for warning in done.record["warnings"]):
        say("error: not everything that was measured was heard; no table was written")
        return FAILED
    if done.status == "interrupted":
        say("interrupted; no table was written")
        return interrupted(done)
    if done.status == "failed":
        say(f"error: {str(done.error) or type(done.error).__name__}")
        return DOES_NOT_FIT if does_not_fit(done.error) else FAILED
    return DONE
