"""Writing files so that an interrupted run leaves no half of one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...graph.contract.errors import NodeError


@contextmanager
def written(target: Path) -> Iterator[Path]:
    """A name beside `target` to write to, which becomes `target` only if the block ends well.

    Raises:
        NodeError: If the file system refuses.
    """
    part = target.with_name(f".{target.name}.part")
    try:
        yield part
        part.replace(target)
    except OSError as error:
        raise NodeError(f"{target} cannot be written: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


def numbered(path: Path, count: int) -> list[Path]:
    """A name for each of `count` entries of a batch: the name itself for one, with -0, -1, … for more."""
    path = Path(path)
    return [path] if count == 1 else [path.with_name(f"{path.stem}-{index}{path.suffix}") for index in range(count)]
