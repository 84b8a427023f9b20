"""Node types for tests of jobs on workers: give the file to `sgd --library`.

Each call leaves a mark in the folder that `SGD_TOY_MARKS` names: the number of its job, of the process and of the call.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from PIL import Image
from sgd.graph.contract.node import OutPath, Run, node


@node("toy.grey")
def grey(level: int, hold: bool = False) -> int:
    """A grey.

    Args:
        level: Its level. 13 fails; 99 kills its worker.
        hold: Wait until a file `go` is in the folder of the marks.
    """
    folder = Path(os.environ["SGD_TOY_MARKS"])
    folder.mkdir(exist_ok=True)
    (folder / f"{level}-{os.getpid()}-{time.monotonic_ns()}").touch()
    if level == 13:
        raise RuntimeError("thirteen cannot be mixed")
    if level == 99:
        os.kill(os.getpid(), signal.SIGKILL)
    while hold and not (folder / "go").exists():
        time.sleep(0.05)
    return level


@node("toy.half")
def half(level: int) -> int:
    """Half of a grey.

    Args:
        level: Its level.
    """
    return level // 2


@node("toy.fill", effect=True)
def fill(level: int, run: Run, path: OutPath) -> Path:
    """Fill a picture.

    Args:
        level: Its level.
        path: The picture.
    """
    target = run.output(path)
    Image.new("RGB", (16, 16), (level, level, level)).save(target)
    return target


@node("toy.all")
def all_(levels: list[int]) -> int:
    """The sum of some levels.

    Args:
        levels: The levels.
    """
    return sum(levels)


@node("toy.list")
def list_(count: int) -> list[int]:
    """Some levels.

    Args:
        count: How many.
    """
    return list(range(count))
