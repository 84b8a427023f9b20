"""Find a workflow file by its path, or a bundled workflow by its name."""

from __future__ import annotations

from pathlib import Path

from ...contract.diagnostics import Diagnostic
from ...contract.errors import Problems
from ...contract.suggestions import did_you_mean
from ...contract.text_tables import shortened
from ...contract.workflow_folders import bundled_workflows


def find_workflow(file: str | Path) -> tuple[Path, str]:
    """Find a workflow file by its path, or a bundled workflow by its name.

    Returns:
        The path of the file, and the path that diagnostics show.

    Raises:
        Problems: If there is no such file.
    """
    path = Path(file)
    try:
        if path.is_file():
            return path, str(file)
    except OSError as error:
        message = f"cannot read {shortened(file)}: {error.strerror}"
        raise Problems([Diagnostic("composite-not-found", message)]) from None
    folder = bundled_workflows()
    name = str(file)
    if "/" not in name and (folder / f"{name}.yaml").is_file():
        path = folder / f"{name}.yaml"
        # Diagnostics show a path that can be opened, relative to the current folder if the file is inside it.
        here = Path.cwd()
        return path, str(path.relative_to(here) if path.is_relative_to(here) else path)
    bundled = sorted(p.stem for p in folder.glob("*.yaml"))
    reason = "is a folder" if path.is_dir() else "does not exist, and no bundled workflow has that name"
    beside = [str(path.parent / found.name) for found in _workflow_files(path.parent)]
    help = did_you_mean(name, [*bundled, *beside]) or "bundled workflows: " + ", ".join(bundled)
    raise Problems([Diagnostic("composite-not-found", f"{file} {reason}", None, help=help)])


def _workflow_files(folder: Path) -> list[Path]:
    """The files in a folder whose names are those of workflows; none if it cannot be read."""
    try:
        return sorted(path for path in folder.iterdir() if path.suffix in (".yaml", ".yml"))
    except OSError:
        return []
