"""The display of a run in a pseudo terminal: it moves early, fits, survives, and leaves the terminal clean."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.terminals import Session, in_terminal, sgd
from sgd.graph.cli.early_display import display_for
from sgd.graph.contract import interrupts
from sgd.graph.runtime.observers.live_display import LiveDisplay
from sgd.graph.runtime.observers.progress import Progress
from sgd.graph.runtime.observers.progress_lines import Activity, Turns, activity_line, clock, loop_line, loop_text
from wcwidth import wcswidth

NODES = """
import sys, time
{before}
from sgd.graph.contract.node import OutPath, Run, node
from sgd.graph.contract.ports import Port

class Cell(Port):
    def facts(self):
        return {{}}

class Big(Port):
    def parts(self): return ("encoder",)
    def facts(self): return {{}}
    def acquire(self, part, run):
        began = time.monotonic()
        total = 3 * 2**30
        run.loading(part, total, lambda: int(min((time.monotonic() - began) / 0.8, 1) * total))
        time.sleep(0.9)
    def release(self, part): pass

from typing import Annotated
from sgd.graph.contract.node import Reads

@node("t.big")
def big() -> Big:
    "Has a component."
    return Big()

@node("t.start")
def start(big: Annotated[Big, Reads("encoder")]) -> Cell:
    "Reads the component."
    return Cell()

@node("t.work")
def work(run: Run, cell: Cell, turn: int, seconds: float = 0.3) -> Cell:
    "Takes time, and prints."
    time.sleep(seconds)
    print(f"printed in turn {{turn}}")
    if turn == 1:
        run.warn("mind the [bold]gap[/bold] " + "x" * 70)
        sys.stderr.write("\\r 10%|#    |")
        sys.stderr.write("\\r100%|#####|\\n")
    return Cell()

@node("t.save", effect=True)
def save(run: Run, cell: Cell, path: OutPath = "a.txt") -> str:
    "Writes."
    run.output(path).write_text("x")
    return "x"
"""
FLOW = """
sgd: 1
name: t
inputs: {seconds: {type: float, default: 0.3}}
nodes:
  big: {uses: t.big}
  first: {uses: t.start, with: {big: $big}}
  turns:
    for: {turn: [0, 1, 2, 3]}
    carry: {cell: $first}
    body: {work: {uses: t.work, with: {cell: $cell, turn: $turn, seconds: $seconds}}}
    yield: {cell: $work}
  save: {uses: t.save, with: {cell: $turns}}
outputs: {save: $save}
"""
WORDS = ("exec", "w.yaml", "--library", "nodes.py", "--out", "o")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "nodes.py").write_text(NODES.format(before=""))
    (tmp_path / "w.yaml").write_text(FLOW)
    return tmp_path


def clean(done: Session) -> None:
    """The cursor is visible, and nothing of the display is left."""
    assert done.screen is not None
    assert not done.screen.cursor.hidden
    assert done.raw.rindex(b"\x1b[?25h") > done.raw.rindex(b"\x1b[?25l")
    left = [line for line in done.lines if re.search("[━─⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏]", line)]
    assert left == []


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_a_run_shows_phases_loading_turns_and_the_results_last(folder: Path, columns: int) -> None:
    done = sgd(*WORDS, folder=folder, columns=columns)
    assert done.code == 0, done.text
    shown = [line for _, lines in done.times for line in lines]
    for text in ("starting", "checking w.yaml", "loading encoder", "turns.work"):
        assert any(re.search(f"[⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏] {text}", line) for line in shown), text
    loading = [float(found) for line in shown for found in re.findall(r"([\d.]+) GiB of 3.00 GiB", line)]
    assert len(set(loading)) >= 2
    assert loading == sorted(loading)
    turns = [match for line in shown if (match := re.search(r"turns  .*?(\d)/4(?:  (\d:\d\d) left)?", line))]
    assert {match[1] for match in turns} >= {"1", "2", "3"}
    assert all(match[2] in ("0:00", "0:01", "0:02") for match in turns if match[1] != "0")
    clean(done)
    assert [line for line in done.lines if "printed in turn" in line] == [f"printed in turn {n}" for n in range(4)]
    assert [line for line in done.lines if "%|" in line] == ["100%|#####|"]
    assert "warning: turns.work: mind the [bold]gap[/bold]" in " ".join(done.lines)
    # The results stand last: the table, then the paths.
    last = [line for line in done.lines if line][-2:]
    assert last[0].startswith("save: ")
    assert last[1] == "record: o/run.json"
    table = done.lines[next(n for n, line in enumerate(done.lines) if line.startswith("node ")) :]
    assert all(wcswidth(line) <= columns for line in table)
    assert next(line for line in table if line.startswith("done in "))


def test_something_moves_before_anything_slow_is_imported(folder: Path) -> None:
    """Half a second, or as many times the start of Python itself as that is on an idle machine."""
    (folder / "nodes.py").write_text(NODES.format(before="time.sleep(1.5)"))
    bare = min(timed_python(folder) for _ in range(3))
    done = sgd(*WORDS, "seconds=0", folder=folder)
    assert done.code == 0, done.text
    assert done.first("starting") <= max(0.5, 15 * bare)
    # It moves on while the import lasts.
    frames = {line[0] for seconds, lines in done.times for line in lines if "checking w.yaml" in line}
    assert len(frames) >= 5


def timed_python(folder: Path) -> float:
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "pass"], cwd=folder, check=True)
    return time.monotonic() - began


def test_an_import_that_holds_pythons_lock_does_no_harm(folder: Path) -> None:
    # `ctypes.PyDLL` keeps the lock during the call, as an extension does while it is imported.
    hold = "import ctypes; ctypes.PyDLL(None).usleep(900_000)"
    (folder / "nodes.py").write_text(NODES.format(before=hold))
    done = sgd(*WORDS, "seconds=0", folder=folder)
    assert done.code == 0, done.text
    clean(done)


@pytest.mark.parametrize("seen", ["checking w.yaml", "1/4"])
def test_an_interrupt_leaves_the_terminal_clean(folder: Path, seen: str) -> None:
    (folder / "nodes.py").write_text(NODES.format(before="time.sleep(1)"))
    done = sgd(*WORDS, folder=folder, interrupt=lambda lines: any(seen in line for line in lines))
    assert done.code == 3, done.text
    clean(done)
    last = [line for line in done.lines if line]
    assert last[-1].startswith("interrupted") or "interrupted" in " ".join(last[-3:])


def test_wrong_files_are_reported_above_and_the_display_goes(folder: Path) -> None:
    (folder / "w.yaml").write_text(FLOW.replace("t.start", "t.strat"))
    done = sgd(*WORDS, folder=folder)
    assert done.code == 2
    clean(done)
    assert any(line.startswith("error[unknown-node-type]") for line in done.lines)


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(folder: Path) -> None:
    done = sgd(*WORDS, folder=folder, environment={"TERM": "dumb"})
    assert done.code == 0
    assert b"\x1b" not in done.raw
    assert [line for line in done.lines if line.startswith(("checking", "importing", "loading"))] == [
        "checking w.yaml",
        "importing packages",
        "loading encoder",
    ]


def test_no_color_has_no_colours(folder: Path) -> None:
    done = sgd(*WORDS, folder=folder, environment={"NO_COLOR": "1"})
    assert done.code == 0
    assert re.findall(rb"\x1b\[[0-9;]*m", done.raw.replace(b"\x1b[0m", b"").replace(b"\x1b[1m", b"")) == []
    assert any("1/4" in line for _, lines in done.times for line in lines)


def test_quiet_shows_nothing(folder: Path) -> None:
    done = sgd(*WORDS, "--quiet", folder=folder)
    assert done.code == 0
    assert b"\x1b[" not in done.raw
    assert [line for line in done.lines if line] == [f"printed in turn {n}" for n in range(2)] + [
        "100%|#####|",
        *(f"printed in turn {n}" for n in range(2, 4)),
    ]


def test_json_goes_to_a_file_while_the_display_is_on_the_terminal(folder: Path) -> None:
    import json

    with (folder / "out.json").open("wb") as file:
        done = sgd(*WORDS, "--json", folder=folder, stdout=file.fileno())
    assert done.code == 0
    assert json.loads((folder / "out.json").read_text())["status"] == "done"
    assert any("2/4" in line for _, lines in done.times for line in lines)
    clean(done)


def test_a_pipe_gets_warnings_and_prints_alone(folder: Path) -> None:
    words = [sys.executable, "-m", "sgd", *WORDS]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0
    assert "\x1b" not in done.stdout + done.stderr
    assert "loading" not in done.stderr
    assert "warning: turns.work: mind the gap" in done.stderr.replace("[bold]", "").replace("[/bold]", "")


def test_a_command_line_that_is_wrong_ends_clean(folder: Path) -> None:
    done = sgd("exec", "w.yaml", "--no-such-option", folder=folder)
    assert done.code == 2
    clean(done)
    assert any("unrecognized arguments: --no-such-option" in line for line in done.lines)


@pytest.mark.parametrize("columns", [60, 80, 200])
@pytest.mark.parametrize("words", [["nodes"], ["nodes", "model.attention"], ["init"]], ids=" ".join)
def test_the_tables_of_commands_fit_the_terminal(tmp_path: Path, words: list[str], columns: int) -> None:
    done = sgd(*words, folder=tmp_path, columns=columns, rows=400)
    assert done.code == 0
    # A terminal that wraps a line leaves its last cell full; the lines themselves are in the raw bytes.
    lines = done.text.replace("\r", "").split("\n")
    assert len(lines) > 10
    assert all(wcswidth(line) <= columns for line in lines)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_only_watched_commands_on_a_terminal_have_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", Terminal())
    assert display_for(["check", "w.yaml"]) is None
    assert display_for(["exec", "w.yaml", "--quiet"]) is None
    assert display_for(["exec", "--help"]) is None
    assert display_for([]) is None
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert display_for(["exec", "w.yaml"]) is None


def test_a_display_puts_the_streams_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    display = LiveDisplay(stream)
    display.start()
    display.start()
    wrapped = sys.stderr
    assert wrapped is not stream
    print("whole", file=sys.stderr)
    print("half", end="", file=sys.stderr)
    display.stop()
    display.stop()
    assert sys.stderr is stream
    assert interrupts._State.before_end is None
    text = stream.getvalue()
    assert text.index("whole") < text.index("half")
    print("late", file=wrapped)  # a logger may have kept it
    assert stream.getvalue().endswith("late\n")


def test_the_time_left_leaves_the_first_turn_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("sgd.graph.runtime.observers.progress_lines.monotonic", lambda: now)
    turns = Turns("l", 12)
    assert turns.left() is None
    now = 130.0  # it compiles
    turns.finished(0)
    assert turns.left() == 330.0
    now = 132.0
    turns.finished(1)
    assert turns.left() == 20.0
    now = 133.0
    assert turns.left() == 19.0
    assert loop_text(turns) == "l: 2 of 12, 0:19 left"
    now = 1000.0
    assert turns.left() == 0.0


def test_a_resumed_loop_begins_at_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("sgd.graph.runtime.observers.progress_lines.monotonic", lambda: now)
    turns = Turns("l", 12)
    now = 5.0
    turns.finished(7)
    now = 7.0
    turns.finished(8)
    assert loop_text(turns) == "l: 9 of 12, 0:06 left"


@pytest.mark.parametrize("width", [20, 30, 60, 80, 200])
@pytest.mark.parametrize("name", ["a", "a.long.path." * 12, "雪の日" * 20])
@pytest.mark.parametrize("ascii", [True, False])
def test_lines_fit_every_width(width: int, name: str, ascii: bool) -> None:
    turns = Turns(name, 1000)
    turns.finished(0)
    lines = [
        loop_line(turns, width, ascii).plain,
        activity_line(Activity(name), width, ascii).plain,
        activity_line(Activity(name, 3 * 2**30, lambda: 2**30, is_bytes=True), width, ascii).plain,
    ]
    if width >= 60:
        assert all(wcswidth(line) < width for line in lines)
        assert "1/1000" in lines[0]
        assert "1.00 GiB of 3.00 GiB" in lines[2]
    if ascii and name.isascii():
        assert all(line.isascii() for line in lines)


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (65, "1:05"), (3723, "1:02:03")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_a_program_that_runs_a_plan_may_use_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with Progress(stream) as shown:
        shown.phase("importing everything")
    assert "\x1b[?25h" in stream.getvalue()


def test_the_helper_itself_sees_colours(tmp_path: Path) -> None:
    done = in_terminal([sys.executable, "-c", "print('\\x1b[31mred')"], tmp_path)
    assert done.lines[0] == "red"
