"""`sgd tune`: find the cheapest gate that keeps a fidelity, and write it into the workflow file."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ....graph.contract.constants import DONE, FAILED
from ....graph.contract.errors import NodeError
from ....graph.contract.file_edits import ReplaceNode
from ....graph.contract.library_command import WorkflowFile
from ...library.standard_library import TRUST_REMOTE_CODE
from ..calibration.calibrate import own_texts, read_prompts, takes_several
from ..calibration.table import put_aside
from . import tuned_table
from .choose_plan import choose_plan, most_tried
from .find_plans import find_plans
from .step_plan import StepPlan
from .trajectory import Trajectory
from .tuned_table import KEY, TunedPlan, TunedSchedule, TunedTable
from .tuning_runs import PROBED, OutOfTime, Progress, TuningRuns, measurement, probes, summary

FEW = 4
"""The fewest prompts to measure, and the fewest others to choose with."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of `sgd tune`."""
    TRUST_REMOTE_CODE.add_to(parser)
    parser.add_argument(
        "--psnr",
        required=True,
        metavar="DB[,DB…]",
        help="the PSNR in dB that the worst clip keeps; the table holds plans for further ones too",
    )
    parser.add_argument("--prompts", metavar="FILE", help="a text file with one prompt on each line, eight or more")
    parser.add_argument("--input", default="prompt", metavar="NAME", help="the input for the prompts (default: prompt)")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="begin no further run after this time")
    parser.add_argument("--table", metavar="TABLE", help="the table to write (default: <name>-tuned.json by FILE)")


def command(arguments: Namespace, workflow: WorkflowFile) -> int:
    """`sgd tune`."""
    if arguments.budget is not None and arguments.budget <= 0:
        raise NodeError(f"--budget {arguments.budget:g}: a budget is a number of seconds above 0")
    with put_aside():
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
        self.measured, self.others, values = self.prompts(arguments)
        options = {TRUST_REMOTE_CODE.key: TRUST_REMOTE_CODE.value_in(arguments)}
        ends = None if arguments.budget is None else time.monotonic() + arguments.budget
        self.runs = TuningRuns(workflow, values, options, ends)
        self.kept = self.table.with_name(f".{self.table.name}.progress")
        self.progress = Progress({})

    def edit(self) -> ReplaceNode:
        """The edit that puts the tuned gate into the file."""
        beside = self.table.parent.resolve() == self.file.parent.resolve()
        path = f"./{self.table.name}" if beside else str(self.table.resolve())
        psnr = int(self.psnr) if self.psnr == int(self.psnr) else self.psnr
        return ReplaceNode(self.gate, "cache.tuned", {"table": path, "psnr": psnr})

    def prompts(self, arguments: Namespace) -> tuple[list[str], list[str], dict[str, dict[str, Any]]]:
        """The prompts to measure, the prompts to choose with, and the values of inputs for each."""
        name = arguments.input
        if arguments.prompts is not None and name in self.workflow.given:
            raise NodeError(f"{name} is given twice: by --prompts and by {name}=…")
        several = takes_several(self.workflow, name)
        if arguments.prompts is not None:
            texts = read_prompts(arguments.prompts)
        else:
            part = self.workflow.part({"denoiser.predict"}, {})
            texts = list(own_texts(part.inputs.get(name))) if part is not None else []
        texts = list(dict.fromkeys(texts))
        if len(texts) < 2 * FEW:
            message = f"{len(texts)} different prompt{'s' * (len(texts) != 1)}, and a plan needs {2 * FEW}: {FEW} to "
            help = "give a file with one prompt on each line: --prompts prompts.txt"
            raise NodeError(f"{message}measure with, and {FEW} others to choose with", help=help)
        return texts[::2], texts[1::2], {text: {name: [text] if several else text} for text in texts}

    def run(self) -> int:
        try:
            first = self.runs.run(self.measured[0], StepPlan(""), decode=False)
        except OutOfTime:
            raise NodeError("the budget ended before the first run") from None
        key = self.key(first)
        self.progress = Progress.read(self.kept, key)
        try:
            plans = find_plans(self.measure(first))
            found = self.choose(plans, self.psnr)
            for psnr in self.further:
                self.choose(plans, psnr)
        except OutOfTime:
            self.workflow.say(
                f"the budget is spent, and no table was written; the same command goes on from {self.kept}"
            )
            return FAILED
        if found is None:
            reached = max((min(each.values()) for each in self.progress.psnr.values()), default=0.0)
            self.workflow.say(
                f"error: no plan that reuses a step keeps {self.psnr:g} dB in the worst of {len(self.others)} clips; "
                f"the best that was tried keeps {reached:.4g} dB\n  = help: ask for less, or take more steps"
            )
            return FAILED
        self.save(first, plans)
        self.report(found, len(first.velocities))
        return DONE

    def key(self, first: Trajectory) -> dict[str, Any]:
        """Everything that decides the results of the runs, as JSON."""
        made = {
            "facts": dict(first.facts[0]),
            "measured": digests(self.measured),
            "chosen": digests(self.others),
            "velocity": hashlib.sha256(first.velocities[0].numpy().tobytes()).hexdigest(),
            "versions": {name: version(name) for name in ("sgd", "torch", "diffusers")},
        }
        found: dict[str, Any] = json.loads(json.dumps(made, default=str))
        return found

    def measure(self, first: Trajectory) -> Any:
        """Measure the velocities of each prompt, and how errors grow."""
        steps = len(first.velocities)
        at, probed = probes(steps), self.measured[:PROBED]
        missing = [prompt for prompt in self.measured if digest(prompt) not in self.progress.grams]
        left = [
            (prompt, step)
            for prompt in probed
            for step in at
            if digest(prompt) not in self.progress.gains.get(str(step), {})
        ]
        clips, total = len(self.others), len(missing) + len(left) + len(self.others)
        self.workflow.say(
            f"tuning {steps} steps: {len(missing)} runs to measure velocities, {len(left)} to see how errors grow, "
            f"{clips} that compute every step, then up to {most_tried(steps)} plans with {clips} clips each"
        )
        began = time.monotonic()
        for prompt in missing:
            self.progress.grams[digest(prompt)] = self.runs.reference(prompt, steps, decode=False).gram()
            self.keep()
            if prompt not in probed:
                self.runs.references.pop(prompt)
        if missing:
            each = (time.monotonic() - began) / len(missing)
            self.workflow.say(f"a run takes {each:.3g} s; the first {total} runs take about {each * total:.3g} s")
        for prompt, step in left:
            gain = self.runs.gain(prompt, step, steps)
            self.progress.gains.setdefault(str(step), {})[digest(prompt)] = gain
            self.keep()
        return measurement(self.progress, first.sigmas, first.deltas)

    def choose(self, plans: Mapping[int, StepPlan], psnr: float) -> StepPlan | None:
        """Find the plan with the fewest computed steps whose worst clip keeps the PSNR."""

        def worst(plan: StepPlan) -> float:
            found = self.progress.psnr.setdefault(plan.mask, {})
            for prompt in self.others:
                if digest(prompt) not in found:
                    found[digest(prompt)] = self.runs.fidelity(prompt, plan)
                    self.keep()
            fidelity = summary(found)
            share = f"{plan.computed} of {len(plan.mask)} steps computed"
            self.workflow.say(f"{share}: {fidelity.worst:.1f} dB in the worst clip, median {fidelity.median:.1f}")
            return fidelity.worst

        return choose_plan(plans, psnr, worst)

    def keep(self) -> None:
        """Keep the finished runs for the case that the command ends here."""
        self.workflow.save(asdict(self.progress), self.kept)

    def save(self, first: Trajectory, plans: Mapping[int, StepPlan]) -> None:
        """Write the table, and the gate into the file."""
        facts = first.facts[0]
        schedule = TunedSchedule(
            scheduler=facts["use"]["scheduler"],
            timesteps=list(facts["use"]["timesteps"]),
            size=list(facts["size"]),
            scale=facts["scale"],
            measured=digests(self.measured),
            chosen=digests(self.others),
            made={
                **{library: version(library) for library in ("sgd", "torch", "diffusers")},
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
            },
            plans=[
                tuned_plan(plan, self.progress.psnr[plan.mask])
                for plan in plans.values()
                if len(self.progress.psnr.get(plan.mask, {})) == len(self.others)
            ],
        )
        use = facts["use"]
        names = ("class_name", "config", "weights", "adapters")
        identity = {**{name: use[name] for name in names}, "dtype": facts["dtype"]}
        made = {KEY: 1, "model": facts["model"], "component": use["component"], "identity": identity}
        table = TunedTable.model_validate({**made, "schedules": [schedule.model_dump()]})
        table = with_others(table, self.table)
        self.workflow.save(table.model_dump(), self.table)
        self.workflow.edit([self.edit()])
        self.kept.unlink(missing_ok=True)

    def report(self, plan: StepPlan, steps: int) -> None:
        fidelity = summary(self.progress.psnr[plan.mask])
        print(
            f"{plan.computed} of {steps} steps are computed: {plan.mask}\n"
            f"PSNR of {fidelity.clips} clips that were not measured: {fidelity.worst:.1f} dB in the worst, "
            f"median {fidelity.median:.1f}\ntable: {self.table}\ngate: `{self.gate}` of {self.file}",
            file=sys.stdout,
        )


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


def tuned_plan(plan: StepPlan, found: Mapping[str, float]) -> TunedPlan:
    """A plan with its fidelity, for the table."""
    return TunedPlan.model_validate({**asdict(plan), "psnr": summary(found).model_dump()})


def with_others(table: TunedTable, path: Path) -> TunedTable:
    """Add the schedules of a table that exists, if it is of the same model, for other numbers of steps.

    Plans of the same measurement stay too.
    """
    try:
        old = tuned_table.read(path)
    except NodeError:
        return table
    if (old.identity, old.component) != (table.identity, table.component):
        return table
    own = table.schedules[0]
    same = old.schedule(len(own.timesteps))
    if same is not None and (same.measured, same.chosen, same.timesteps) == (own.measured, own.chosen, own.timesteps):
        masks = {plan.mask for plan in own.plans}
        plans = [*own.plans, *(plan for plan in same.plans if plan.mask not in masks)]
        own = own.model_copy(update={"plans": sorted(plans, key=lambda plan: plan.mask.count("1"))})
    others = [schedule for schedule in old.schedules if len(schedule.timesteps) != len(own.timesteps)]
    return table.model_copy(update={"schedules": sorted([own, *others], key=lambda found: len(found.timesteps))})


def digest(text: str) -> str:
    """A digest of a prompt: the table names no texts."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digests(texts: Sequence[str]) -> list[str]:
    return [digest(text) for text in texts]
