"""Preview files: when they are due, their names, threads, interrupts; the sequences of terminals."""

from __future__ import annotations

import json
import re
import threading
import time
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import machines
from helpers.machines import Cell, call, graph, loop, plan_of
from helpers.terminals import sgd
from sgd.graph.cli.main import main
from sgd.graph.cli.sixel import sixel
from sgd.graph.cli.terminal_pictures import iterm, kitty, protocol
from sgd.graph.compiler.ir import Graph, Var
from sgd.graph.contract.events import CallInfo
from sgd.graph.contract.previews import Picture, Previews
from sgd.graph.runtime.observers import preview_files
from sgd.graph.runtime.observers.preview_files import PreviewFiles
from sgd.graph.runtime.run import run
from sgd.graph.runtime.run_result import Result


class Toys(Previews):
    """Shows the argument of `m.scale` as text."""

    hears = frozenset({"m.scale", "m.add"})
    makes = frozenset({"m.scale"})

    def __init__(self, make: Callable[[int], bytes] = lambda value: str(value).encode()) -> None:
        self.make, self.value = make, 0
        self.heard: list[str] = []

    def started(self, call: CallInfo, arguments: Mapping[str, Any]) -> None:
        self.heard.append(call.id)
        self.value = arguments["a"].value

    def picture(self, call: CallInfo) -> Picture | None:
        value = self.value
        return lambda: self.make(value)


def looped(turns: int = 6) -> Graph:
    body = graph(call("l.k", "m.add", a=Var("l", "c"), b=Var("l", "c")), call("l.x", "m.scale", a="$l.k"), o="$l.x")
    return graph(call("cs", "m.cells", count=turns), loop("l", {"c": "$cs"}, body), out="$l:o")


def done(given: Graph, folder: Path, every: int, toys: Toys, **options: Any) -> tuple[Result, PreviewFiles]:
    observer = PreviewFiles(every, [toys], options.pop("shown", None))
    return run(plan_of(given), out=folder, observers=[observer], **options), observer


def test_a_preview_of_every_second_turn(tmp_path: Path) -> None:
    toys, shown = Toys(), []
    result, observer = done(looped(), tmp_path, 2, toys, shown=lambda file, content: shown.append((file, content)))
    files = sorted((tmp_path / "previews").iterdir())
    assert [file.name for file in files] == ["l-0002.png", "l-0004.png", "l-0006.png"]
    assert sorted(observer.written) == files
    assert sorted(result.written) == files
    assert shown == [(file, file.read_bytes()) for file in files]
    # Other node types are heard in every turn, those that make previews only when one is due.
    assert toys.heard.count("l.k") == 6
    assert toys.heard.count("l.x") == 3
    assert result.record["previews"] == [
        {"file": f"previews/l-000{n}.png", "loop": "l", "step": n - 1, "node": "l.x"} for n in (2, 4, 6)
    ]
    assert result.record["warnings"] == []
    assert sorted(file.name for file in tmp_path.iterdir()) == ["previews", "run.json"]


def test_loops_in_loops_and_two_nodes_have_names_of_their_own(tmp_path: Path) -> None:
    inner = graph(call("a.b.x", "m.scale", a=Var("a.b", "d")), call("a.b.y", "m.scale", a="$a.b.x"), o="$a.b.y")
    outer = graph(
        call("a.x", "m.scale", a=Var("a", "c")), call("a.ds", "m.cells", count=2), loop("a.b", {"d": "$a.ds"}, inner),
        r="$a.x",
    )  # fmt: skip
    given = graph(call("cs", "m.cells", count=2), loop("a", {"c": "$cs"}, outer), out="$a:r")
    names = names_of(given, tmp_path)
    assert {"a-0001.png", "a-0002.png"} <= names
    assert all(re.fullmatch(r"a(\.b(\.y)?-\d)?-000\d\.png", name) for name in names), names


def names_of(given: Graph, folder: Path) -> set[str]:
    done(given, folder, 1, Toys())
    return {file.name for file in (folder / "previews").iterdir()}


def test_the_time_of_a_preview_is_not_that_of_its_node(tmp_path: Path) -> None:
    class Slow(Toys):
        def picture(self, call: CallInfo) -> Picture | None:
            time.sleep(0.05)
            return super().picture(call)

    result, _ = done(looped(), tmp_path, 1, Slow())
    row = next(row for row in result.record["nodes"] if row["name"] == "l.x")
    assert row["seconds"] < 0.05
    assert result.record["seconds"] >= 0.3


def test_encoding_does_not_keep_the_run_waiting(tmp_path: Path) -> None:
    ran = threading.Event()

    def make(value: int) -> bytes:
        assert ran.wait(5), "the loop ended only after the picture"
        return b"x"

    class Watch(Toys):
        def started(self, call: CallInfo, arguments: Mapping[str, Any]) -> None:
            super().started(call, arguments)
            if self.heard.count("l.k") == 4:
                ran.set()

    result, _ = done(looped(4), tmp_path, 2, Watch(make))
    assert len(result.record["previews"]) == 2


def test_a_picture_that_fails_is_a_warning_and_the_run_goes_on(tmp_path: Path) -> None:
    def make(value: int) -> bytes:
        raise OSError("no room")

    result, _ = done(looped(), tmp_path, 2, Toys(make))
    assert result.status == "done"
    assert result.record["warnings"] == ["a preview was not written: OSError: no room"]
    assert "previews" not in result.record


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "previews").write_text("a file")
    result, _ = done(looped(), tmp_path, 2, Toys())
    assert result.status == "done"
    [warning] = result.record["warnings"]
    assert warning.startswith("a preview was not written: ")


def test_a_link_does_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "o").mkdir()
    (tmp_path / "o/previews").symlink_to(tmp_path / "elsewhere")
    result, _ = done(looped(), tmp_path / "o", 2, Toys())
    assert "lies outside the output folder" in result.record["warnings"][0]
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_no_preview_at_all_is_a_warning(tmp_path: Path) -> None:
    result, _ = done(looped(), tmp_path, 7, Toys())
    assert result.record["warnings"] == ["there was no preview: no loop had 7 turns"]


def test_previews_that_come_too_fast_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preview_files, "MOST_WAITING", 1)
    go = threading.Event()

    class Late(Toys):
        def picture(self, call: CallInfo) -> Picture | None:
            if self.heard.count("l.x") == 6:
                threading.Timer(0.1, go.set).start()
            return super().picture(call)

    result, observer = done(looped(), tmp_path, 1, Late(lambda value: (go.wait(5), b"x")[1]))
    [warning] = result.record["warnings"]
    left_out = int(warning.split()[0])
    assert warning == f"{left_out} previews were left out: they came faster than they were written"
    assert len(observer.written) + left_out == 6


def test_a_node_that_fails_later_keeps_the_previews(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = threading.Event()

    def fail(a: Cell, by: int = 2) -> Cell:
        if a.value == last:
            written.wait(5)
            raise ValueError("no")
        return Cell(a.value)

    last = -1
    values: list[int] = []
    monkeypatch.setitem(
        machines.TYPES,
        "m.scale",
        replace(machines.TYPES["m.scale"], function=lambda a, by=2: (values.append(a.value), Cell(a.value))[1]),
    )
    done(looped(3), tmp_path / "first", 1, Toys())
    last = values[-1]
    monkeypatch.setitem(machines.TYPES, "m.scale", replace(machines.TYPES["m.scale"], function=fail))
    result, _ = done(looped(3), tmp_path / "o", 1, Toys(), shown=lambda *_: written.set())
    assert result.status == "failed"
    assert (tmp_path / "o/previews/l-0001.png").exists()
    assert result.record["previews"][0]["file"] == "previews/l-0001.png"


def test_files_that_exist_are_not_replaced_without_overwrite(tmp_path: Path) -> None:
    (tmp_path / "previews").mkdir()
    (tmp_path / "previews/l-0002.png").write_text("mine")
    result, _ = done(looped(), tmp_path, 2, Toys())
    assert (tmp_path / "previews/l-0002.png").read_text() == "mine"
    assert "l-0002.png exists" in result.record["warnings"][0]
    result, _ = done(looped(), tmp_path, 2, Toys(), overwrite=True)
    assert result.record["warnings"] == []


def test_an_unfinished_file_is_in_the_journal(tmp_path: Path) -> None:
    from sgd.graph.contract.events import Observer
    from sgd.graph.runtime.context import Context
    from sgd.graph.runtime.failure import Interrupted
    from sgd.graph.runtime.output_folder import JOURNAL, OutputFolder

    folder = OutputFolder(tmp_path / "o")
    context = Context(folder.path, Observer(), folder=folder)
    context.write_beside("previews/a.png", b"x")
    entries = [json.loads(line) for line in (tmp_path / "o" / JOURNAL).read_text().splitlines()]
    assert [next(iter(entry)) for entry in entries[1:]] == ["temporary", "begun", "finished"]
    assert entries[-1] == {"finished": "previews/a.png"}
    context.discard()
    with pytest.raises(Interrupted):
        context.write_beside("previews/b.png", b"x")
    assert [file.name for file in (tmp_path / "o/previews").iterdir()] == ["a.png"]
    folder.release()


@pytest.mark.parametrize("text", ["0", "-1", "x", "1.5", "", "²"])
def test_a_wrong_number_is_an_error(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["exec", "quickstart", "--preview", text])
    assert ended.value.code == 2
    assert "no number of steps" in capsys.readouterr().err


PNG = bytes(range(256)) * 40


def test_kittys_sequences_hold_the_file_in_chunks() -> None:
    parts = re.findall("\x1b_G([^;]*);([^\x1b]*)\x1b\\\\", kitty(PNG))
    assert "".join(f"\x1b_G{keys};{data}\x1b\\" for keys, data in parts) == kitty(PNG)
    assert b64decode("".join(data for _, data in parts)) == PNG
    assert parts[0][0] == "a=T,f=100,q=2,m=1"
    assert [keys for keys, _ in parts[1:]] == ["m=1"] * (len(parts) - 2) + ["m=0"]
    assert all(len(data) <= 4096 and len(data) % 4 == 0 for _, data in parts)
    assert kitty(b"x").startswith("\x1b_Ga=T,f=100,q=2,m=0;")


def test_iterms_sequence_holds_the_file() -> None:
    match = re.fullmatch("\x1b\\]1337;File=inline=1;size=(\\d+);preserveAspectRatio=1:(.*)\x07", iterm(PNG))
    assert match is not None
    assert int(match[1]) == len(PNG)
    assert b64decode(match[2]) == PNG


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({"TERM": "xterm-kitty"}, kitty),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, kitty),
        ({"TERM": "xterm-ghostty", "TERM_PROGRAM": "ghostty"}, kitty),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, iterm),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"}, iterm),
        ({"TERM": "xterm-256color"}, sixel),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "Apple_Terminal"}, sixel),
        ({"TERM": "xterm-kitty", "TMUX": "/tmp/tmux"}, sixel),
        ({"TERM": "screen", "KITTY_WINDOW_ID": "1"}, sixel),
        ({"TERM": "dumb", "TERM_PROGRAM": "iTerm.app"}, None),
        ({}, None),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_terminals_are_known_by_their_variables_and_others_are_asked(
    environment: dict[str, str], found: object
) -> None:
    assert protocol(environment, lambda: True) is found
    assert protocol(environment, lambda: False) is (None if found is sixel else found)


LIBRARY = """
import time
from sgd.graph.contract.node import node
from sgd.graph.contract.node_library import NodeLibrary
from sgd.graph.contract.previews import Previews
from sgd.graph.contract.ports import Port

class Cell(Port):
    def facts(self): return {}

@node("t.begin")
def begin() -> Cell:
    "Begins."
    return Cell()

@node("t.turn")
def turn(cell: Cell) -> Cell:
    "Takes time."
    time.sleep(0.1)
    return Cell()

class Mine(Previews):
    hears = makes = frozenset({"t.turn"})
    def picture(self, call):
        return lambda: b"PNG of " + call.id.encode()

class Library(NodeLibrary):
    def previews(self): return Mine()

library = Library()
"""
FLOW = """
sgd: 1
name: t
nodes:
  begin: {uses: t.begin}
  turns:
    for: {n: [1, 2, 3, 4]}
    carry: {cell: $begin}
    body: {t: {uses: t.turn, with: {cell: $cell}}}
    yield: {cell: $t}
outputs: {cell: $turns}
"""


def test_a_terminal_that_shows_pictures_shows_them_above_the_display(tmp_path: Path) -> None:
    (tmp_path / "n.py").write_text(LIBRARY)
    (tmp_path / "w.yaml").write_text(FLOW)
    words = ["exec", "w.yaml", "--library", "n.py", "--preview", "2", "--out", "o"]
    shown = sgd(*words, folder=tmp_path, environment={"TERM_PROGRAM": "iTerm.app"})
    assert shown.code == 0, shown.text
    assert shown.text.count(iterm(b"PNG of turns.t")) == 2
    assert "previews: o/previews (2 files)" in shown.lines
    assert not shown.screen.cursor.hidden
    plain = sgd(*words, "--overwrite", folder=tmp_path)
    assert "\x1b]" not in plain.text
    assert sorted(file.name for file in (tmp_path / "o/previews").iterdir()) == ["turns-0002.png", "turns-0004.png"]


def test_an_interrupt_keeps_the_previews_that_are_finished(tmp_path: Path) -> None:
    (tmp_path / "n.py").write_text(LIBRARY.replace("sleep(0.1)", "sleep(0.5)"))
    (tmp_path / "w.yaml").write_text(FLOW)
    words = ["exec", "w.yaml", "--library", "n.py", "--preview", "1", "--out", "o"]
    shown = sgd(*words, folder=tmp_path, interrupt=lambda lines: any("2/4" in line for line in lines))
    assert shown.code == 3
    kept = sorted(file.name for file in (tmp_path / "o/previews").iterdir())
    assert kept[0] == "turns-0001.png"
    record = json.loads((tmp_path / "o/run.json").read_text())
    assert record["status"] == "interrupted"
    assert [entry["file"] for entry in record["previews"]] == [f"previews/{name}" for name in kept]


def test_many_files_of_one_folder_are_counted(tmp_path: Path) -> None:
    from sgd.graph.cli.told_ends import listed

    many = [tmp_path / f"previews/{n}.png" for n in range(7)]
    assert listed([tmp_path / "a.mp4", *many]) == [str(tmp_path / "a.mp4"), f"{tmp_path / 'previews'} (7 files)"]
    assert listed(many[:6]) == [str(path) for path in many[:6]]
    assert listed([]) == []


def test_a_workflow_without_previews_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "n.py").write_text(LIBRARY.replace("library = Library()", ""))
    (tmp_path / "w.yaml").write_text(FLOW)
    words = ["exec", str(tmp_path / "w.yaml"), "--library", str(tmp_path / "n.py"), "--out", str(tmp_path / "o")]
    assert main([*words, "--preview", "1"]) == 2
    assert "--preview: nothing in this workflow makes previews" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
