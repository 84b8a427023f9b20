"""`sgd tune`: find the cheapest gate that keeps a fidelity, and write it into the workflow file."""

from __future__ import annotations

import json
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ....graph.contract.constants import DONE, FAILED
from ....graph.contract.errors import NodeError
from ....graph.contract.file_edits import ReplaceNode
from ....graph.contract.library_command import WorkflowFile
from ...library.standard_library import TRUST_REMOTE_CODE
from ..calibration.table import put_aside
from .choose_plan import choose_plan, most_tried
from .find_plans import find_plans
from .finished_runs import FinishedFile, FinishedRuns
from .linear_guidance import tuning
from .linear_predictor import Measurement
from .made_table import digest, digests, made_table, versions, with_others
from .remaining_time import RemainingTime
from .step_plan import StepPlan
from .tolerance_bound import CONFIDENCE, SHARE
from .trajectory import Trajectory
from .tuned_table import Fidelity, TunedSchedule
from .tuning_prompts import SEED, tuning_prompts
from .tuning_runs import PROBED, OutOfTime, TuningRuns, measurement, probes, summary


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of `sgd tune`."""
    TRUST_REMOTE_CODE.add_to(parser)
    parser.add_argument(
        "--psnr",
        required=True,
        metavar="DB[,DB…]",
        help="the PSNR in dB that clips keep; the table holds plans for further ones too",
    )
    parser.add_argument("--prompts", metavar="FILE", help="a text file with one prompt on each line, eight or more")
    parser.add_argument("--input", default="prompt", metavar="NAME", help="the input for the prompts (default: prompt)")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="begin no further run after this time")
    parser.add_argument("--table", metavar="TABLE", help="the table to write (default: <name>-tuned.json by FILE)")


def command(arguments: Namespace, workflow: WorkflowFile) -> int:
    """`sgd tune`."""
    if arguments.budget is not None and arguments.budget <= 0:
        raise NodeError(f"--budget {arguments.budget:g}: a budget is a number of seconds above 0")
    with put_aside(), tuning():
        return Tuning(arguments, workflow).run()


class Tuning:
    """One call of `sgd tune`.

    Raises:
        NodeError: If the workflow has no gate that can be replaced, or there are too few prompts.
    """

    def __init__(self, arguments: Namespace, workflow: WorkflowFile) -> None:
        self.workflow = workflow
        self.psnr, *self.further = wanted(arguments.psnr)
        self.file = Path(workflow.file)
        gate = workflow.node_of("denoiser.predict", "gate")
        if gate is None:
            help = "add a node `gate: {uses: cache.none}`, and wire it to the denoise loop: `gate: $gate`"
            raise NodeError(f"{workflow.file} has no gate that this command could replace", help=help)
        self.gate = gate
        self.table = Path(arguments.table) if arguments.table else self.file.with_name(f"{self.file.stem}-tuned.json")
        workflow.edit([self.edit()], write=False)
        prompts = self.prompts = tuning_prompts(arguments, workflow)
        self.measured, self.others = prompts.measured, prompts.chosen
        options = {TRUST_REMOTE_CODE.key: TRUST_REMOTE_CODE.value_in(arguments)}
        ends = None if arguments.budget is None else time.monotonic() + arguments.budget
        self.runs = TuningRuns(workflow, prompts.values, options, ends)
        self.file_of_runs = FinishedFile(self.table.with_name(f".{self.table.name}.progress"))
        self.finished = FinishedRuns({}, ())
        self.told: set[str] = set()

    def edit(self) -> ReplaceNode:
        """The edit that puts the tuned gate into the file."""
        beside = self.table.parent.resolve() == self.file.parent.resolve()
        path = f"./{self.table.name}" if beside else str(self.table.resolve())
        psnr = int(self.psnr) if self.psnr == int(self.psnr) else self.psnr
        return ReplaceNode(self.gate, "cache.tuned", {"table": path, "psnr": psnr})

    def run(self) -> int:
        try:
            first = self.runs.run(self.measured[0], StepPlan(""), decode=False)
        except OutOfTime:
            raise NodeError("the budget ended before the first run") from None
        self.runs.references[self.measured[0]] = first
        self.finished = self.file_of_runs.of(FinishedRuns(self.key(first), [float(v.norm()) for v in first.velocities]))
        if self.file_of_runs.problem:
            self.workflow.say(f"warning: {self.file_of_runs.path} is not used: {self.file_of_runs.problem}")
        try:
            plans = find_plans(self.measure(first))
            found = {psnr: self.choose(plans, psnr) for psnr in (self.psnr, *self.further)}
        except OutOfTime:
            self.workflow.say(
                f"the budget is spent, and no table was written; the same command goes on from {self.file_of_runs.path}"
            )
            return FAILED
        for psnr, plan in found.items():
            if plan is None:
                self.unreached(psnr, error=psnr == self.psnr)
        if found[self.psnr] is None:
            return FAILED
        self.report(self.save(first, plans), first.steps)
        return DONE

    def unreached(self, psnr: float, error: bool) -> None:
        """Say that no plan keeps a PSNR."""
        tried = [summary(each) for each in self.finished.psnr.values() if len(each) == len(self.others)]
        best = max(tried, key=lambda each: each.kept, default=None)
        found = f"; the best that was tried keeps {best.kept:.4g} dB: {told(best)}" if best is not None else ""
        self.workflow.say(
            f"{'error' if error else 'warning'}: no plan that reuses a step keeps {psnr:g} dB{found}\n"
            "  = help: ask for less, or take more steps; if the bound decides, more prompts raise it"
        )

    def key(self, first: Trajectory) -> dict[str, Any]:
        """Facts that decide the results of the runs, as JSON."""
        made = {
            "facts": dict(first.facts[0]),
            "measured": digests(self.measured),
            "chosen": digests(self.others),
            "seeds": self.prompts.seeds,
            "versions": versions(),
        }
        found: dict[str, Any] = json.loads(json.dumps(made, default=str))
        return found

    def measure(self, first: Trajectory) -> Measurement:
        """Measure the velocities of each prompt, and how errors grow."""
        steps = first.steps
        at, probed = probes(steps), self.measured[:PROBED]
        missing = [prompt for prompt in self.measured if digest(prompt) not in self.finished.grams]
        left = [
            (prompt, step)
            for prompt in probed
            for step in at
            if digest(prompt) not in self.finished.gains.get(str(step), {})
        ]
        self.tell(steps, missing, left)
        for prompt in missing:
            self.finished.grams[digest(prompt)] = self.runs.reference(prompt, steps, decode=False).gram()
            self.keep()
            if prompt not in probed:
                self.runs.references.pop(prompt, None)
        for prompt, step in left:
            gain = self.runs.gain(prompt, step, steps)
            self.finished.gains.setdefault(str(step), {})[digest(prompt)] = gain
            self.keep()
        self.runs.references.clear()
        return measurement(self.finished, first.sigmas, first.deltas)

    def tell(self, steps: int, missing: list[str], left: list[tuple[str, int]]) -> None:
        """Say how many runs there will be. How long they take is said after the next one."""
        clips, plans = len(self.others), min(most_tried(steps) * (1 + len(self.further)), steps - 1)
        if not self.prompts.seeds:
            help = f"an input `{SEED}` without a value on the command line gives each its own"
            self.workflow.say(f"warning: all clips have one seed; {help}")
        self.workflow.say(
            f"tuning {steps} steps: {len(missing)} runs to measure velocities, {len(left)} to see how errors grow, "
            f"{clips} that compute every step, then up to {plans} plans with {clips} clips each"
        )
        # A prompt whose errors are probed is run again, unless this process ran it: the first one, or a missing one.
        again = {prompt for prompt, _ in left} - {*missing, self.measured[0]}
        measuring = len(set(missing) - {self.measured[0]}) + len(left) + len(again)
        self.runs.ran = RemainingTime(self.workflow.say, measuring, clips * (1 + plans)).ran

    def choose(self, plans: Mapping[int, StepPlan], psnr: float) -> StepPlan | None:
        """Find the plan with the fewest computed steps that keeps the PSNR.

        A plan that fails in one clip is not tried with the rest.
        """

        def kept(plan: StepPlan) -> float:
            found = self.finished.psnr.setdefault(plan.mask, {})
            share = f"{plan.computed} of {len(plan.mask)} steps computed"
            for number, prompt in enumerate(self.others, 1):
                if digest(prompt) not in found:
                    found[digest(prompt)] = self.runs.fidelity(prompt, plan)
                    self.keep()
                if (worst := found[digest(prompt)]) < psnr:
                    self.workflow.say(f"{share}: {worst:.1f} dB in clip {number} of {len(self.others)}, too little")
                    return worst
            fidelity = summary(found)
            if plan.mask not in self.told:
                self.told.add(plan.mask)
                self.workflow.say(f"{share}: {told(fidelity)}")
            return fidelity.kept

        return choose_plan(plans, psnr, kept)

    def keep(self) -> None:
        """Keep the finished runs for the case that the command ends here."""
        self.workflow.save(self.file_of_runs.content(self.finished), self.file_of_runs.path)

    def save(self, first: Trajectory, plans: Mapping[int, StepPlan]) -> TunedSchedule:
        """Write the table, and the gate into the file. Returns the part of the table for this number of steps."""
        own = made_table(first.facts[0], self.prompts, plans.values(), self.finished)
        table, lost = with_others(own, self.table)
        if lost is not None:
            self.workflow.say(f"warning: {lost}")
        self.workflow.save(table.model_dump(), self.table)
        self.replace_gate()
        if self.file_of_runs.others:
            self.workflow.save(self.file_of_runs.content(None), self.file_of_runs.path)
        else:
            self.file_of_runs.path.unlink(missing_ok=True)
        schedule = table.schedule(first.steps)
        assert schedule is not None, "it was just made"
        return schedule

    def replace_gate(self) -> None:
        """Write the gate into the file, and name the inputs that lose their effect."""
        inputs = self.workflow.inputs_of(self.gate)
        self.workflow.edit([self.edit()])
        for name in inputs:
            self.workflow.say(
                f"warning: the input `{name}` is not read any more and has no effect: "
                f"remove it from {self.file}, or leave it there"
            )

    def report(self, schedule: TunedSchedule, steps: int) -> None:
        plan = schedule.cheapest(self.psnr)
        assert plan is not None, "a plan was found"
        held = "the worst clip" if plan.psnr.worst <= plan.psnr.bound else "the bound"
        print(
            f"{plan.mask.count('1')} of {steps} steps are computed: {plan.mask}\n"
            f"PSNR of {plan.psnr.clips} clips that were not measured: {told(plan.psnr)}\n"
            f"bound: with {CONFIDENCE:.0%} confidence {SHARE:.1%} of all clips keep it; {held} decided\n"
            f"table: {self.table}\ngate: `{self.gate}` of {self.file}",
            file=sys.stdout,
        )


def told(fidelity: Fidelity) -> str:
    """The fidelity of a plan in words."""
    return f"{fidelity.worst:.1f} dB in the worst clip, bound {fidelity.bound:.1f}, median {fidelity.median:.1f}"


def wanted(text: str) -> list[float]:
    """The values of `--psnr`.

    Raises:
        NodeError: If one is not a number, or not above 0 and at most 100.
    """
    try:
        found = [float(each) for each in text.split(",")]
    except ValueError:
        raise NodeError(f"--psnr {text}: not a number", help="write a PSNR in dB, such as 40") from None
    for each in found:
        if not 0 < each <= 100:
            raise NodeError(f"--psnr {each:g}: a PSNR is above 0 and at most 100 dB")
    return found
