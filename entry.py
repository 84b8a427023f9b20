"""The `sgd` command. From its first lines on, an interrupt ends the process with one line and exit code 3.

So this module imports nothing at its top that takes time. Whoever imports it gets its handlers: it is for processes
that are the command.
"""

import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def _interrupted(*_: object) -> None:
    """Until `graph/contract/interrupts.py` is imported: there is no run, and there are no children."""
    import os

    try:
        os.write(2, b"interrupted\n")
    finally:
        os._exit(3)


signal.signal(signal.SIGTERM, _interrupted)
if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
    signal.signal(signal.SIGINT, _interrupted)


def main() -> "NoReturn":
    """Run the command line of this process, and end the process."""
    from .graph.contract import interrupts

    interrupts.install()
    _open_standard_streams()
    from .graph.cli import terminal

    terminal.guard()
    code: object = 1
    try:
        from .graph.cli.main import main as command

        code = command(sys.argv[1:])
    except SystemExit as exit:
        code = exit.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
    _leave(code)


def _open_standard_streams() -> None:
    """Open the null device in place of standard streams that are closed: no file of a run may get their numbers."""
    import os

    while True:
        descriptor = os.open(os.devnull, os.O_RDWR)
        if descriptor > 2:
            os.close(descriptor)
            break
        os.set_inheritable(descriptor, True)
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115 - for the whole process


def _leave(code: object) -> "NoReturn":
    """End the process as Python does, but for its last phase, in which it no longer hears interrupts."""
    import atexit
    import os
    import threading

    from .graph.cli import terminal
    from .graph.contract import interrupts

    if isinstance(code, str):
        print(code, file=sys.stderr)
    number = code if isinstance(code, int) else 0 if code is None else 1
    if number == interrupts.EXIT_CODE:
        terminal.flush()
        interrupts.end("")
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    terminal.flush()
    interrupts.ignore()
    os._exit(number)
