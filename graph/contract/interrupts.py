"""Interrupts of the command line: SIGINT (Ctrl-C) and SIGTERM.

An interrupt ends the process at once, between two instructions of Python, or as soon as a call of another language
returns. Work that must come to an orderly end stands in a block `with held():`. There an interrupt is noted, and
`pending` tells of it; the block ends the work soon. A second interrupt, a second later, ends the process even there.

Nothing of this holds in a program that calls `sgd.run`: it has its own handlers, and `pending` is always false.
"""

from __future__ import annotations

import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

PATIENCE = 1.0
"""Seconds after the first interrupt in a `held` block from which on a further one ends the process."""

EXIT_CODE = 3


class _State:
    """Of this process: whether it is the command; blocks that hold interrupts back; the first interrupt.

    `since` is the time of that interrupt, and `reported` tells whether the user was told of it. `before_end` is the
    function that `before_end` was given.
    """

    installed = False
    held = 0
    since: float | None = None
    reported = False
    before_end: Callable[[], None] | None = None


def install() -> None:
    """Handle interrupts from now on. SIGINT stays ignored where it was, as in the background of a shell."""
    _State.installed = True
    signal.signal(signal.SIGTERM, _interrupted)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _interrupted)


def installed() -> bool:
    """Whether this process is the `sgd` command, and not a program that calls sgd."""
    return _State.installed


def _interrupted(*_: Any) -> None:
    import time

    now = time.monotonic()
    if _State.held and (_State.since is None or now - _State.since < PATIENCE):
        _State.since = _State.since or now
        return
    end()


def pending() -> bool:
    """Whether there was an interrupt in a `held` block."""
    return _State.since is not None


def reported() -> None:
    """Say no more about the interrupt: the command has told the user."""
    _State.reported = True


def withdraw() -> None:
    """Take back the interrupt, and hear no more: it is that of a launcher, which ends all after a fault of one."""
    if _State.installed:
        _State.since = None
        ignore()


class held:
    """A block in which an interrupt is noted. If the block has not reported it, the process ends after the block."""

    def __enter__(self) -> None:
        _State.held += 1

    def __exit__(self, *_: Any) -> None:
        _State.held -= 1
        if not _State.held and pending() and not _State.reported:
            end()


def before_end(function: Callable[[], None] | None) -> None:
    """Call a function when an interrupt ends the process, before the message. It replaces the last one; None: none.

    The function must be quick and take no lock: it runs between any two instructions of the main thread.
    """
    _State.before_end = function


def ignore() -> None:
    """Hear no more interrupts: the process ends anyway."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def end(text: str = "interrupted") -> NoReturn:
    """End the process and its children now, with exit code 3.

    Args:
        text: A line for stderr, unless the interrupt was reported.
    """
    import os

    ignore()
    try:
        if _State.before_end is not None:
            try:  # noqa: SIM105 - contextlib may be half imported
                _State.before_end()
            except Exception:  # the terminal may be gone
                pass
        if text and not _State.reported:
            os.write(2, f"{text}\n".encode())
        for child in descendants():
            try:  # noqa: SIM105 - contextlib may be half imported
                os.kill(child, getattr(signal, "SIGKILL", signal.SIGTERM))
            except OSError:
                pass
    finally:
        os._exit(EXIT_CODE)


def descendants(of: int | None = None) -> list[int]:
    """Process numbers of the children of a process, and of theirs. `of`: its number; this process if not given."""
    import os

    parents: dict[int, int] = {}
    try:
        for name in os.listdir("/proc"):
            if name.isdigit():
                try:
                    with open(f"/proc/{name}/stat", "rb") as file:
                        parents[int(name)] = int(file.read().rpartition(b")")[2].split()[1])
                except (OSError, ValueError, IndexError):
                    continue
    except OSError:  # not Linux
        psutil = sys.modules.get("psutil")
        return [] if psutil is None else [child.pid for child in psutil.Process(of).children(recursive=True)]
    found, seen = [of or os.getpid()], 0
    while seen < len(found):
        found += [child for child, parent in parents.items() if parent == found[seen]]
        seen += 1
    return found[1:]
