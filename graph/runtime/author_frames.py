"""The part of a traceback that belongs to the author of a node: the frames in the package or folder of its function."""

from __future__ import annotations

import inspect
import sys
import sysconfig
import traceback
from collections.abc import Callable
from pathlib import Path
from types import CodeType
from typing import Any

from ..contract.errors import SgdError
from ..contract.source_spans import printable

OURS = tuple(Path(__file__).resolve().parents[2] / name for name in ("graph", "nodes"))
PYTHON = Path(sysconfig.get_paths()["stdlib"]).resolve()
INSTALLED = frozenset(("site-packages", "dist-packages"))


def author_frames(function: Callable[..., Any], error: BaseException) -> list[traceback.FrameSummary]:
    """The frames of an error that lie in the code of a node's author, outermost first; empty if there are none."""
    entries = list(traceback.walk_tb(error.__traceback__))
    code = code_of(function)
    start = next((n for n, (frame, _) in enumerate(entries) if frame.f_code is code), 0)
    home = _home(function)
    own = [(frame, line) for frame, line in entries[start:] if _is_own(frame.f_code.co_filename, home)]
    return list(traceback.StackSummary.extract(iter(own)))


def failing_call(function: Callable[..., Any], error: BaseException) -> str:
    """The deepest of these frames in one line, such as `nodes.py:7 in speed: return x.reshape(3)`; empty if none."""
    frames = author_frames(function, error)
    if not frames:
        return ""
    last = frames[-1]
    source = " ".join((last.line or "").split())[:120]
    return f"{_shown(last.filename)}:{last.lineno} in {last.name}" + (f": {printable(source)}" if source else "")


def definition(function: Callable[..., Any]) -> str:
    """File, line and name of a node's function; empty for a function of this package."""
    code = code_of(function)
    if any(_inside(Path(code.co_filename).resolve(), folder) for folder in OURS):
        return ""
    return f"{_shown(code.co_filename)}:{code.co_firstlineno} in {code.co_name}"


def origin(error: BaseException | None) -> BaseException | None:
    """The first exception behind an error that is not an error in words; None if there is only words."""
    while isinstance(error, SgdError):
        error = error.__cause__
    return error


def traceback_text(error: BaseException) -> str:
    """The traceback of an error, for `--traceback`.

    For the error of a node, the frames of the node's author come first, and then all frames.
    """
    call, cause = getattr(error, "call", None), origin(error)
    lines = []
    if call is not None and cause is not None:
        frames = author_frames(call.type.function, cause)
        if frames:
            lines.append(f"Calls in the code of {call.type.name}, most recent call last:\n")
            lines += traceback.format_list(frames)
            lines += traceback.format_exception_only(cause)
            lines.append("\n")
        lines.append("All calls:\n\n")
        error = error.__cause__ or error
    lines += traceback.format_exception(error)
    return "\n".join(printable(line) for line in "".join(lines).rstrip().split("\n"))


def code_of(function: Callable[..., Any]) -> CodeType:
    """The code of a function below its decorators."""
    code: CodeType = inspect.unwrap(function).__code__
    return code


def _home(function: Callable[..., Any]) -> Path:
    """The folder of a function's package; its file if it is a single module among installed packages."""
    file = Path(code_of(function).co_filename).resolve()
    for folder in OURS:
        if _inside(file, folder):
            return folder
    top = sys.modules.get(inspect.unwrap(function).__module__.partition(".")[0])
    for path in getattr(top, "__path__", ()):
        if _inside(file, Path(path).resolve()):
            return Path(path).resolve()
    return file if file.parent.name in INSTALLED else file.parent


def _is_own(filename: str, home: Path) -> bool:
    """Whether a file belongs to the author, and not to a package that is installed below the author's folder."""
    file = Path(filename).resolve()
    if not _inside(file, home) or INSTALLED.intersection(file.relative_to(home).parts):
        return False
    return not any(_inside(file, folder) for folder in (*OURS, PYTHON) if not _inside(home, folder))


def _inside(file: Path, folder: Path) -> bool:
    return file == folder or folder in file.parents


def _shown(filename: str) -> str:
    """A path relative to the current folder if it is below it."""
    file, here = Path(filename).resolve(), Path.cwd()
    return printable(str(file.relative_to(here) if _inside(file, here) else file))
