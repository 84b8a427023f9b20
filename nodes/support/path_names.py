"""Names of output files, and a way to write files that leaves no partial file if a run is interrupted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...graph.contract.errors import NodeError
from ...graph.contract.node import Run


@contextmanager
def written(run: Run, target: Path) -> Iterator[Path]:
    """A temporary file beside `target`; it becomes `target` only if the block raises no error.

    Raises:
        NodeError: If the file cannot be written.
    """
    part = run.temporary(target)
    try:
        yield part
        part.replace(target)
    except OSError as error:
        raise NodeError(f"{target} cannot be written: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


def numbered(path: Path, count: int) -> list[Path]:
    """A path for each of `count` entries of a batch: `path` for one, else with -0, -1, … before the extension."""
    path = Path(path)
    return [path] if count == 1 else [path.with_name(f"{path.stem}-{index}{path.suffix}") for index in range(count)]
