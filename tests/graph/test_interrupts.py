"""SIGINT and SIGTERM from the first line of the command to its last: exit code 3, one line, no children left."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import sgd
from helpers.processes import of_session

ROOT = Path(sgd.__file__).parent
SIGNALS = [signal.SIGINT, signal.SIGTERM]


def launch(words: list[str], folder: Path) -> subprocess.Popen[str]:
    """A process in a group of its own that hears Ctrl-C."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}

    def hear() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    return subprocess.Popen(words, cwd=folder, text=True, start_new_session=True, preexec_fn=hear, **pipes)  # noqa: PLW1509


def command(folder: Path, *words: str) -> subprocess.Popen[str]:
    return launch([sys.executable, "-m", "sgd", *words], folder)


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_the_entry_point_imports_nothing_that_takes_time() -> None:
    def imported(file: str) -> list[str]:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        return [alias.name for node in top for alias in node.names]

    assert imported("entry.py") == ["signal", "sys"]
    assert imported("__init__.py") == []
    assert imported("graph/contract/interrupts.py") == ["annotations", "signal", "sys"]


def test_the_names_of_the_package_are_there_nevertheless() -> None:
    assert all(getattr(sgd, name) is not None for name in sgd.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = sgd.nothing  # type: ignore[attr-defined]


@pytest.mark.parametrize("number", SIGNALS)
def test_an_interrupt_right_after_the_first_lines_of_the_entry_point(tmp_path: Path, number: int) -> None:
    code = f"import os, sgd.entry; os.kill(os.getpid(), {int(number)}); print('on it goes')"
    assert ended(launch([sys.executable, "-c", code], tmp_path)) == (3, "", "interrupted\n")


def test_an_interrupt_that_the_shell_ignores_stays_ignored(tmp_path: Path) -> None:
    code = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    code += "import sgd.entry, sys, os; from sgd.graph.contract import interrupts; interrupts.install()\n"
    code += "os.kill(os.getpid(), signal.SIGINT); print('on it goes')"
    assert ended(launch([sys.executable, "-c", code], tmp_path)) == (0, "on it goes\n", "")


TIMED = """
import os, threading, time

def later() -> None:
    time.sleep({delay})
    os.kill(os.getpid(), {number})

threading.Thread(target=later, daemon=True).start()
{work}
"""


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("delay", [0.05, 0.3])
def test_an_interrupt_while_torch_is_imported(tmp_path: Path, number: int, delay: float) -> None:
    work = "import torch, torch._dynamo\nimport diffusers, transformers\ntime.sleep(20)"
    (tmp_path / "nodes.py").write_text(TIMED.format(delay=delay, number=int(number), work=work))
    process = command(tmp_path, "nodes", "--library", "nodes.py")
    assert ended(process) == (3, "", "interrupted\n")


@pytest.mark.parametrize("number", SIGNALS)
def test_an_interrupt_that_code_would_swallow_ends_the_process(tmp_path: Path, number: int) -> None:
    """An exception in its place would be caught here, and be printed by the last one."""
    work = """
class Deleted:
    def __del__(self):
        time.sleep(0.01)

while True:
    try:
        for _ in range(10):
            Deleted()
    except BaseException:
        pass
"""
    (tmp_path / "nodes.py").write_text(TIMED.format(delay=0.1, number=int(number), work=work))
    assert ended(command(tmp_path, "nodes", "--library", "nodes.py")) == (3, "", "interrupted\n")


def test_an_interrupt_while_planning(tmp_path: Path) -> None:
    nodes = """
import os, sys, time
from sgd.graph.contract.node import Run, node

@node("slow.think")
def think(run: Run) -> int:
    "Thinks while it is planned."
    assert run.planning
    print("asleep", file=sys.stderr, flush=True)
    time.sleep(30)
    return 1
"""
    (tmp_path / "nodes.py").write_text(nodes)
    (tmp_path / "w.yaml").write_text("sgd: 1\nnodes: {a: {uses: slow.think}}\noutputs: {a: $a}\n")
    process = command(tmp_path, "plan", "w.yaml", "--library", "nodes.py")
    assert process.stderr is not None
    assert process.stderr.readline() == "asleep\n"
    process.send_signal(signal.SIGINT)
    assert ended(process) == (3, "", "interrupted\n")


CHILDREN = """
import subprocess, sys, time
from sgd.graph.contract.node import node

@node("slow.parent")
def parent() -> int:
    "Starts a child that starts a child."
    code = "import subprocess, time; subprocess.Popen(['sleep', '60']); print('x', flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    child.stdout.readline()
    print("asleep", file=sys.stderr, flush=True)
    child.wait()
    return 1
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("number", SIGNALS)
def test_an_interrupt_ends_children_and_their_children(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "nodes.py").write_text(CHILDREN)
    (tmp_path / "w.yaml").write_text("sgd: 1\nnodes: {a: {uses: slow.parent}}\noutputs: {a: $a}\n")
    process = command(tmp_path, "exec", "w.yaml", "--library", "nodes.py", "--out", "out")
    assert process.stderr is not None
    assert process.stderr.readline() == "asleep\n"
    assert len(of_session(process.pid)) == 3
    process.send_signal(number)
    code, out, err = ended(process)
    assert (code, out) == (3, "")
    assert err.startswith("interrupted; files kept: none; record: out/run.json; ")
    assert len(err.splitlines()) == 1
    deadline = time.monotonic() + 5
    while of_session(process.pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert of_session(process.pid) == []


def test_an_interrupt_after_the_last_line_was_printed(tmp_path: Path) -> None:
    """While exit functions run, the process still ends with 3 and one line."""
    work = "import atexit; atexit.register(time.sleep, 30)"
    (tmp_path / "nodes.py").write_text(TIMED.format(delay=0, number=0, work=work))
    process = command(tmp_path, "nodes", "--json", "--library", "nodes.py")
    assert process.stdout is not None
    while process.stdout.readline() != "]\n":
        pass
    process.send_signal(signal.SIGTERM)
    assert ended(process) == (3, "", "interrupted\n")


def test_an_interrupt_in_a_program_that_uses_sgd_is_its_own(tmp_path: Path) -> None:
    """The library installs no handler, and a program's handler is called."""
    code = """
import signal, sys
import sgd
from sgd.graph.contract import interrupts
import sgd.graph.runtime.run
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
with interrupts.held():
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        print("mine")
assert not interrupts.pending()
"""
    assert ended(launch([sys.executable, "-c", code], tmp_path)) == (0, "mine\n", "")


def test_a_second_interrupt_ends_a_block_that_hangs(tmp_path: Path) -> None:
    code = """
import os, signal, sys, time
from sgd.graph.contract import interrupts
interrupts.install()
with interrupts.held():
    os.kill(os.getpid(), signal.SIGINT)
    print("held", flush=True)
    while True:
        time.sleep(0.01)
"""
    process = launch([sys.executable, "-c", code], tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    time.sleep(1.1)
    os.kill(process.pid, signal.SIGINT)
    assert ended(process) == (3, "", "interrupted\n")
