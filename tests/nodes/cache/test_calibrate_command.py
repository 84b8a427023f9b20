"""`sgd calibrate` with node types of a shop in place of a model: what runs, how often, what is written."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import pytest
from sgd.graph.cli import main
from sgd.graph.contract.errors import NodeError
from sgd.graph.contract.events import Observer
from sgd.nodes.cache.calibration import calibrate

LIBRARY = '''
from dataclasses import dataclass
from pathlib import Path

from sgd.graph.contract.diagnostics import Diagnostic
from sgd.graph.contract.errors import NodeError
from sgd.graph.contract.facts import NodeFacts
from sgd.graph.contract.node import OutPath, Run, node
from sgd.nodes.cache.calibration.table import are_put_aside

log = Path("ran.txt")


def ran(name):
    with log.open("a") as stream:
        stream.write(name + "\\n")


@dataclass(frozen=True, kw_only=True)
class WeighFacts(NodeFacts):
    text: str | None = None
    before: float | None = None
    word: str | None = None


def _check(facts: WeighFacts):
    if facts.word == "unusable" and not are_put_aside():
        yield Diagnostic("bad-value", "no table yet", "word")


@node("shop.weigh", check=_check)
def weigh(text: str, run: Run, *, before: float = 0.0, word: str = "") -> float:
    """Weigh.

    Args:
        text: What.
        before: Something that is needed.
        word: A word.
    """
    ran(f"weigh {text}")
    if text == "fail":
        raise NodeError("too heavy")
    if text == "huge":
        raise MemoryError
    if run.options.get("measure"):
        run.event("weighed", grams=len(text), device=run.options["device"])
    return float(len(text))


@node("shop.prepare")
def prepare(run: Run) -> float:
    """Prepare."""
    ran("prepare")
    return 1.0


@node("shop.wrap")
def wrap(weight: float) -> float:
    """Wrap."""
    ran("wrap")
    return weight


@node("shop.ship", effect=True)
def ship(weight: float, run: Run, path: OutPath = "label.txt") -> None:
    """Ship."""
    ran("ship")
    run.output(path).write_text("x")
'''
FILE = """sgd: 1
name: shop
inputs:
  prompt: {type: str, default: a parcel}
  note: {type: str, default: dear}
  size: {type: int, default: 1}
  many: {type: "list[str]", default: [a, b]}
nodes:
  prepare: {uses: shop.prepare}
  weigh: {uses: shop.weigh, with: {text: $prompt, before: $prepare}}
  wrap: {uses: shop.wrap, with: {weight: $weigh}}
  ship: {uses: shop.ship, with: {weight: $wrap}}
  noted: {uses: shop.ship, with: {weight: $prepare, path: "${note}.txt"}}
  sizes: {uses: shop.ship, with: {weight: $prepare, path: "${size}.txt"}}
outputs: {w: $wrap}
"""
LOOPED = """sgd: 1
name: looped
inputs: {many: {type: "list[str]", default: [one, four]}}
nodes:
  all:
    for: {text: $many}
    body:
      weigh: {uses: shop.weigh, with: {text: $text}}
      wrap: {uses: shop.wrap, with: {weight: $weigh}}
      ship: {uses: shop.ship, with: {weight: $wrap, path: "${index}.txt"}}
    yield: {weights: $wrap}
outputs: {w: $all}
"""


class Weights(Observer):
    """Measures what the shop weighs; stands in for `Measurements`."""

    nodes = frozenset({"shop.weigh"})
    options: ClassVar = {"measure": True}

    def __init__(self, order):
        self.order, self.grams = order, []

    def event(self, call, kind, data):
        if kind == "weighed":
            self.grams.append(data["grams"])

    def check(self):
        if 13 in self.grams:
            raise NodeError("thirteen is no weight")

    def table(self, prompts, made):
        return {"grams": self.grams, "order": self.order, "prompts": list(prompts), **made}

    def summary(self, table):
        return f"{len(table['grams'])} weighed"


@pytest.fixture
def sgd(capsys, tmp_path, monkeypatch):
    for name, text in (("shop.py", LIBRARY), ("shop.yaml", FILE), ("looped.yaml", LOOPED), ("p.txt", "aa\n\n bbb \n")):
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(calibrate, "Measurements", Weights)
    before = signal.getsignal(signal.SIGTERM)

    def run(*words):
        capsys.readouterr()
        code: str | int | None
        try:
            code = main.main(["calibrate", *words, "--library", "shop.py", "--device", "cpu"])
        except SystemExit as exit:
            code = exit.code
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    yield run
    signal.signal(signal.SIGTERM, before)


def ran() -> list[str]:
    path = Path("ran.txt")
    return path.read_text().splitlines() if path.exists() else []


def files() -> set[str]:
    return {p.name for p in Path().iterdir()} - {
        "shop.py",
        "shop.yaml",
        "looped.yaml",
        "p.txt",
        "__pycache__",
        "ran.txt",
    }


def test_only_measured_nodes_run_and_only_the_table_is_written(sgd):
    code, out, err = sgd("shop.yaml")
    assert (code, out) == (0, "1 weighed\ntable: shop-table.json\n")
    assert "few prompts" in err
    assert sorted(ran()) == ["prepare", "weigh a parcel"]
    assert files() == {"shop-table.json"}
    table = json.loads(Path("shop-table.json").read_text())
    assert (table["grams"], table["order"], table["prompts"]) == ([8], 4, ["a parcel"])
    assert (table["workflow"], table["device"]) == ("shop", "cpu")


def test_each_prompt_is_run(sgd):
    code, out, err = sgd("shop.yaml", "--prompts", "p.txt", "--out", "t.json", "--order", "2", "--json")
    assert code == 0
    assert "prompt 1 of 2: aa\nprompt 2 of 2: bbb\n" in err
    assert json.loads(out) == json.loads(Path("t.json").read_text())
    assert [json.loads(out)[k] for k in ("grams", "order", "prompts")] == [[2, 3], 2, ["aa", "bbb"]]


def test_five_prompts_are_no_reason_for_a_warning(sgd):
    Path("five.txt").write_text("a\nb\nc\nd\ne\n")
    assert "few prompts" not in sgd("shop.yaml", "--prompts", "five.txt")[2]


def test_another_input_and_a_list(sgd):
    assert json.loads(sgd("looped.yaml", "--prompts", "p.txt", "--input", "many", "--json")[1])["grams"] == [2, 3]
    assert json.loads(sgd("looped.yaml", "--overwrite", "--json")[1])["grams"] == [3, 4]
    assert json.loads(sgd("looped.yaml", "--overwrite", "--json", "--input", "many")[1])["prompts"] == ["one", "four"]
    assert set(ran()) == {"weigh aa", "weigh bbb", "weigh one", "weigh four"}


def test_prompts_that_look_like_numbers_are_text(sgd):
    Path("odd.txt").write_text("[a, b]\n$prompt\n1\n${note}\nnull\n", encoding="utf-8")
    code, out, _ = sgd("shop.yaml", "--prompts", "odd.txt", "--json")
    assert code == 0
    assert json.loads(out)["grams"] == [6, 7, 1, 7, 4]


def test_a_byte_order_mark_is_no_part_of_a_prompt(sgd):
    Path("windows.txt").write_bytes(b"\xef\xbb\xbfab\r\ncde\r\n")
    code, out, _ = sgd("shop.yaml", "--prompts", "windows.txt", "--json")
    assert code == 0
    assert json.loads(out)["grams"] == [2, 3]


def test_values_and_settings_are_taken(sgd):
    assert json.loads(sgd("shop.yaml", "prompt=abc", "--json")[1])["grams"] == [3]
    code, _, err = sgd("shop.yaml", "--set", "weigh.before=2")
    assert (code, "wired-parameter" in err) == (2, True)


def test_gates_without_their_table_do_not_stop_its_calibration(sgd):
    Path("waiting.yaml").write_text(FILE.replace("before: $prepare}", "before: $prepare, word: unusable}"))
    assert main.main(["check", "waiting.yaml", "--library", "shop.py"]) == 2
    assert sgd("waiting.yaml")[0] == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["shop.yaml", "--prompts", "none.txt"], "none.txt: No such file"),
        (["shop.yaml", "--prompts", "."], "Is a directory"),
        (["shop.yaml", "--prompts", "empty.txt"], "the file has no prompt"),
        (["shop.yaml", "--prompts", "binary.txt"], "the file is not UTF-8 text"),
        (["shop.yaml", "--prompts", "a\0b"], "--prompts"),
        (["shop.yaml", "--prompts", "p.txt", "prompt=x"], "given twice"),
        (["shop.yaml", "--prompts", "p.txt", "--input", "promt"], "did you mean `prompt`"),
        (["shop.yaml", "--prompts", "p.txt", "--input", "size"], "is int, and prompts are text"),
        (["looped.yaml", "--prompts", "p.txt"], "no input `prompt`"),
        (["shop.yaml", "--order", "0"], "--order 0"),
        (["shop.yaml", "--prompts", "/dev/zero"], "larger than 16 MiB"),
        (["shop.yaml", "--order", "x"], "invalid int"),
        (["shop.yaml", "--out", ""], "--out is empty"),
        (["shop.yaml", "--out", "."], "is a folder"),
        (["shop.yaml", "--out", "p.txt"], "p.txt exists"),
        (["shop.yaml", "--out", "no/such/folder.json"], "cannot write to no/such/folder.json"),
        (["shop.yaml", "--out", "x" * 5000], "cannot write to"),
        (["shop.yaml", "--out", "a\0b"], "cannot write to"),
        (["shop.yaml", "size=x"], "bad-value"),
        (["shop.yaml", "nonsense=1"], "unknown-input"),
        (["missing.yaml"], "does not exist"),
        (["broken.yaml"], "unknown-node-type"),
        (["broken.yaml", "--prompts", "p.txt"], "unknown-node-type"),
        (["idle.yaml"], "that would run"),
        (["unread.yaml"], "that would run"),
        (["shop.yaml", "prompt=thirteen long"], "thirteen is no weight"),
        ([], "required: FILE"),
        (["shop.yaml", "--weights", "dummy"], "unrecognized"),
    ],
    ids=lambda value: " ".join(value)[:50] if isinstance(value, list) else "",
)
def test_a_wrong_command_line_exits_with_2_and_a_message(sgd, words, says):
    Path("empty.txt").write_text(" \n\n")
    Path("binary.txt").write_bytes(b"\xff\xfe\n")
    Path("broken.yaml").write_text(FILE.replace("shop.weigh", "shop.wiegh"))
    Path("idle.yaml").write_text("sgd: 1\nnodes:\n  p: {uses: shop.prepare}\noutputs: {o: $p}\n")
    Path("unread.yaml").write_text("sgd: 1\nnodes:\n  w: {uses: shop.weigh, with: {text: x}}\n")
    before = files()
    code, out, err = sgd(*words)
    assert (code, out) == (2, "")
    assert says in err
    assert files() == before


@pytest.mark.parametrize(("prompt", "code", "says"), [("fail", 1, "too heavy"), ("huge", 4, "MemoryError")])
def test_a_run_that_fails(sgd, prompt, code, says):
    found = sgd("shop.yaml", f"prompt={prompt}")
    assert (found[0], found[1]) == (code, "")
    assert says in found[2]
    assert files() == set()


def test_an_incomplete_measurement_makes_no_table(sgd, monkeypatch):
    def event(self, call, kind, data):
        raise KeyError("grams")

    monkeypatch.setattr(Weights, "event", event)
    code, out, err = sgd("shop.yaml")
    assert (code, out) == (1, "")
    assert "Weights failed and receives no more events" in err
    assert files() == set()


def test_nothing_but_the_table_in_the_way_is_replaced(sgd):
    Path("shop-table.json").write_text("mine")
    assert sgd("shop.yaml")[0] == 2
    assert Path("shop-table.json").read_text() == "mine"
    assert ran() == []  # said before anything ran
    assert sgd("shop.yaml", "--overwrite")[0] == 0


def test_an_interrupt_writes_nothing(sgd, tmp_path):
    slow = LIBRARY.replace('    ran(f"weigh {text}")\n', '    ran("weigh")\n    import time\n    time.sleep(30)\n')
    Path("slow.py").write_text(slow)
    # In a process of its own nothing is patched: the measured node type is named to the class itself.
    code = (
        "from sgd import entry; from sgd.nodes.cache.calibration import measurements as m;"
        "m.Measurements.nodes = frozenset({'shop.weigh'}); entry.main()"
    )
    command = [sys.executable, "-c", code, "calibrate", "shop.yaml", "--library", "slow.py", "--device", "cpu"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        until = time.time() + 30
        while "weigh" not in ran() and time.time() < until:
            time.sleep(0.1)
        running.terminate()
        out, err = running.communicate(timeout=20)
    assert (running.returncode, out) == (3, "")
    assert "no table was written" in err
    assert files() - {"slow.py"} == set()
