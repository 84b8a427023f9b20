"""Calls that have written their files: a resumed run skips them, and a run that may be resumed tells of them."""

from __future__ import annotations

from ..compiler.ir import Ref
from ..compiler.plan import CallStep, LoopStep, Step
from ..resume.position import FinishedEffect
from .arguments import Environment
from .loop_stack import LoopStack
from .step_wrap import StepWrap


class FinishedEffects(StepWrap):
    """Tells of the calls that have written their files, and skips those of the run that is resumed.

    Args:
        loops: The loops under way, the listener, and the place where the run begins.
    """

    def __init__(self, loops: LoopStack) -> None:
        self.loops, self.positions = loops, loops.positions
        self.before = loops.start.effects if loops.start is not None else {}

    def replaces(self, step: Step, environment: Environment) -> bool:
        if not self.before or not isinstance(step, CallStep) or not step.call.type.effect:
            return False
        found = self.before.get((step.call.id, self.loops.turns))
        if found is None:
            return False
        environment.update({Ref(step.call.id, port): value for port, value in found.outputs.items()})
        for freed in step.free:
            environment.pop(freed, None)
        self.loops.run.observer.values_freed(step.free)
        return True

    def ran(self, step: CallStep | LoopStep, environment: Environment) -> None:
        if self.positions is None or not isinstance(step, CallStep) or not step.call.type.effect:
            return
        call = step.call
        refs = {output.name: Ref(call.id, output.name) for output in call.type.outputs}
        outputs = {port: environment[ref] for port, ref in refs.items() if ref in environment}
        files = self.loops.run.kept_files.pop(call.id, ())
        self.positions.effect_finished(FinishedEffect(call.id, self.loops.turns, outputs, files))
