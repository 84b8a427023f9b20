"""The output folder of a run, taken before anything runs, if all known outputs are possible there."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from ..compiler.ir import Const
from ..compiler.passes.fold import safe_name
from ..compiler.plan import Plan
from ..contract.errors import NodeError
from ..contract.events import Observer
from ..contract.store_mark import in_store
from .context import RECORD, Context
from .output_folder import OutputFolder


def default_folder(name: str, base: Path = Path("outputs")) -> Path:
    """`outputs/<name>-<date>-<time>`, with a number at the end if that folder exists."""
    stamp = base / f"{safe_name(name)}-{datetime.now():%Y%m%d-%H%M%S}"
    folder, number = stamp, 2
    while folder.exists():
        folder, number = stamp.with_name(f"{stamp.name}-{number}"), number + 1
    return folder


def known_outputs(plan: Plan) -> list[str]:
    """The output paths of a plan that are known before the run."""
    found = []
    for call in plan.calls():
        for name, parameter in call.type.inputs.items():
            if parameter.path == "write":
                arg = call.args.get(name)
                value = (
                    parameter.default if arg is None else arg.source.value if isinstance(arg.source, Const) else None
                )
                if value is not None:
                    found.append(str(value))
    return found


def prepare_folder(plan: Plan, out: Path | None, overwrite: bool) -> OutputFolder:
    """Take the output folder, if all known output paths of the plan are possible there.

    Args:
        plan: The plan.
        out: The folder; None for a new one.
        overwrite: Files that exist may be replaced.

    Raises:
        NodeError: If the folder belongs to another run or cannot be made, a file exists, lies outside the folder or
            would be written twice.
    """
    while True:
        path = out or default_folder(plan.name)
        if in_store(path.absolute()):
            raise NodeError(f"the output folder {path} lies in a store", help="name another folder with --out")
        try:
            folder = OutputFolder(path, new=out is None)
            break
        except FileExistsError:
            continue  # another run that began in this second has it
    try:
        check_outputs(plan, path, overwrite)
    except NodeError as error:
        folder.release()
        folder.remove_if_empty()
        if folder.left:
            raise NodeError(f"{error}; {folder.left}", help=error.help) from error
        raise
    except BaseException:
        folder.release()
        raise
    return folder


def check_outputs(plan: Plan, folder: Path, overwrite: bool) -> None:
    """Check the known output paths of a plan.

    Raises:
        NodeError: If a file exists, lies outside the folder or would be written twice.
    """
    context = Context(folder, Observer(), overwrite=overwrite)
    if (folder / RECORD).exists() and not overwrite:
        raise NodeError(f"{folder / RECORD} exists", help="pass --overwrite, or another --out")
    seen: set[Path] = set()
    for path in known_outputs(plan):
        target = context.check(path)
        if target in seen:
            raise NodeError(f"{path} would be written twice", help="give each node that writes its own path")
        seen.add(target)
