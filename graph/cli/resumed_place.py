"""The place where a run goes on, or the reasons why it cannot."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..contract.errors import NodeError
from ..resume.snapshot_folder import BEGUN, SnapshotFolder
from .command_line import told_elsewhere
from .terminal import say

if TYPE_CHECKING:
    from ..compiler.plan import Plan
    from ..resume.snapshot_reading import Resumed

OVER = "`sgd exec` with another --out, or with --overwrite, starts over"


def resumed_from(
    plan: Plan, started: dict[str, Any], folder: SnapshotFolder, options: dict[str, Any], device: str
) -> Resumed:
    """The newest snapshot that is whole. A damaged one is told, and the record will say so.

    Args:
        plan: The plan of the workflow as it is now.
        started: How the run was started.
        folder: Its snapshots.
        options: Values of the options of node libraries.
        device: The device of the run.

    Raises:
        NodeError: If a file, a package or the device is another than that of the run.
    """
    from ..resume.snapshot_reading import Resumed, resumed_at
    from ..runtime.resume_checks import changed_code, changed_files, changed_reads, changes, code_of_plan
    from ..runtime.used_files import UsedFiles

    now = UsedFiles(plan, device, options, False, say).recipe()
    assert now is not None, "the plan of a file has a recipe"
    reasons = changes(started, now, str(folder.path / BEGUN)) + changed_code(started["code"], code_of_plan(plan))
    found, used, warnings = Resumed(), None, []
    for path, snapshot in folder.snapshots():
        if isinstance(snapshot, str):
            warnings.append(f"{snapshot}; the run goes on from an earlier place")
            continue
        try:
            found = resumed_at(snapshot, plan) if not reasons else found
        except ValueError as error:
            reasons.append(f"{path.name}: {error}")
        else:
            reasons += changed_files(snapshot, folder.out)
            used = snapshot
        break
    reasons += [reason for reason in changed_reads(started["reads"], used) if reason not in reasons]
    if reasons:
        shown = "".join(f"\n  {reason}" for reason in reasons)
        message = f"the run in {folder.out} cannot go on, since its result would be another:{shown}"
        raise NodeError(message, help=f"put back what has changed, or start over: {OVER}")
    for warning in warnings if not told_elsewhere() else ():
        say(f"warning: {warning}")
    return replace(found, warnings=tuple(warnings))
