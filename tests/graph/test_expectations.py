"""`expect` in a workflow file, and `sgd exec --strict`."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from helpers import toys
from helpers.machines import call, graph, plan_of
from jsonschema import Draft202012Validator
from PIL import Image
from sgd.graph.cli import main
from sgd.graph.compiler.compile import check
from sgd.graph.compiler.plan import Expected, ExpectedPsnr
from sgd.graph.contract import interrupts
from sgd.graph.contract.errors import NodeError
from sgd.graph.contract.likeness import Likeness
from sgd.graph.contract.node_library import NodeLibrary
from sgd.graph.runtime.expectations import judged, line

ROOT = Path(__file__).parents[2]
SCHEMA = Draft202012Validator(json.loads((ROOT / "docs" / "run.schema.json").read_text()))
TOYS = Path(toys.__file__)
PICTURE = """sgd: 1
nodes:
  picture: {uses: image.load, with: {path: before.png}}
  saved: {uses: image.save, with: {frames: $picture, path: after.png}}
outputs: {picture: $saved}
expect: {seconds: 600, peak_gib: 500, psnr: {min: 40, output: picture, reference: ./reference.png}}
"""


class Measure(NodeLibrary):
    """Gives one answer for all files, or raises it."""

    def __init__(self, answer):
        self.answer = answer

    def likeness(self, before, after, progress, network=None):
        progress(1)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def alike(psnr, frames=(1, 1)):
    return Likeness(frames, ((16, 16), (16, 16)), psnr)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").write_bytes(b"a")
    (tmp_path / "out" / "b.png").write_bytes(b"b")
    (tmp_path / "elsewhere.png").write_bytes(b"c")
    return tmp_path


def psnr_row(folder, answer, output="a.png"):
    limit = ExpectedPsnr(40, "picture", folder / "before.png", "./before.png")
    record = {"seconds": 1.0, "peak_bytes": 1, "outputs": {"picture": output}}
    told = []
    libraries = [NodeLibrary(), Measure(answer)]
    [row] = judged(Expected(psnr=limit), record, folder / "out", libraries, lambda *frames: told.append(frames))
    assert told in ([], [("picture", 0)], [("picture", 0), ("picture", 1)])
    assert row["value"] is None or len(told) == 2
    return row


def test_seconds_and_memory_are_limits_from_above():
    record = {"seconds": 60.0, "peak_bytes": 3 << 30, "outputs": {}}
    rows = judged(Expected(seconds=60, peak_gib=2.5), record, Path(), [], print)
    assert rows == [
        {"name": "seconds", "limit": 60, "value": 60.0, "met": True},
        {"name": "peak_gib", "limit": 2.5, "value": 3.0, "met": False},
    ]
    assert [line(row) for row in rows] == [
        "seconds: 60.00 s (at most 60 s)",
        "peak_gib: 3.00 GiB (at most 2.5 GiB)",
    ]


def test_memory_that_was_not_measured_is_not_kept():
    [row] = judged(Expected(peak_gib=9), {"seconds": 1.0, "peak_bytes": None, "outputs": {}}, Path(), [], print)
    assert (row["value"], row["met"]) == (None, False)
    assert "not measured" in line(row)


@pytest.mark.parametrize(("psnr", "value", "met"), [(41, 41, True), (40, 40, True), (39.99, 39.99, False)])
def test_psnr_is_a_limit_from_below(folder, psnr, value, met):
    row = psnr_row(folder, alike(psnr))
    assert (row["value"], row["met"], row["output"], row["reference"]) == (value, met, "picture", "./before.png")


def test_equal_pixels_keep_every_limit(folder):
    row = psnr_row(folder, alike(math.inf))
    assert (row["value"], row["met"]) == ("inf", True)
    assert "equal to the reference" in line(row)


@pytest.mark.parametrize(
    ("answer", "output", "problem"),
    [
        (None, "a.png", "not two pictures or clips"),
        (alike(60, (4, 6)), "a.png", "4 frames against 6"),
        (NodeError("a.png is damaged"), "a.png", "a.png is damaged"),
        (RuntimeError("a bug"), "a.png", "RuntimeError: a bug"),
        (alike(60), ["a.png", "b.png"], "has 2 files"),
        (alike(60), [], "has 0 files"),
        (alike(60), 3, "is no file"),
        (alike(60), "missing.png", "is missing"),
        (alike(60), "../elsewhere.png", "outside of the run's folder"),
        (alike(60), "/etc/passwd", "outside of the run's folder"),
    ],
)
def test_files_that_cannot_be_compared_are_not_as_expected(folder, answer, output, problem):
    row = psnr_row(folder, answer, output)
    assert not row["met"]
    assert problem in row["problem"]
    assert problem in line(row)


def test_one_file_in_a_list_is_compared(folder):
    assert psnr_row(folder, alike(60), ["a.png"])["met"]


def test_an_interrupt_ends_the_comparison(folder, monkeypatch):
    monkeypatch.setattr(interrupts, "pending", lambda: True)
    assert "interrupted" in psnr_row(folder, alike(60))["problem"]


def test_only_a_run_that_is_done_is_judged(tmp_path):
    from dataclasses import replace

    from sgd.graph.runtime.run import run

    for name, nodes in (("done", []), ("failed", [call("f", "m.fail", a="$a", at=3)])):
        plan = plan_of(graph(call("a", "m.const", value=3), *nodes, out="$f" if nodes else "$a"))
        result = run(replace(plan, expected=Expected(seconds=600)), out=tmp_path / name)
        assert result.status == name
        written = json.loads((tmp_path / name / "run.json").read_text())
        SCHEMA.validate(written)
        assert result.record == written
        assert [row["met"] for row in written.get("expectations", [])] == [True] * (name == "done")


def test_a_reference_stands_beside_the_file(tmp_path):
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "before.png").write_bytes(b"x")
    text = "sgd: 1\nnodes: {n: {uses: toy.number}, s: {uses: toy.save, with: {thing: $n}}}\noutputs: {o: $s}\n"
    file = tmp_path / "files" / "w.yaml"
    file.write_text(f"{text}expect: {{psnr: {{min: 40, output: o, reference: before.png}}}}\n")
    found = check(file, library=toys.library())
    assert found.diagnostics == []
    assert found.expected == Expected(psnr=ExpectedPsnr(40, "o", tmp_path / "files" / "before.png", "before.png"))
    file.write_text(f"{text}expect: {{psnr: {{min: 40, output: o, reference: 'sgd:images/boat.png'}}}}\n")
    bundled = check(file, library=toys.library()).expected.psnr.reference
    assert bundled.resolve() == (ROOT / "workflows" / "images" / "boat.png").resolve()


def noisy(path, amount):
    image = Image.new("RGB", (32, 32), (100, 120, 140))
    image.putpixel((3, 3), (100 + amount, 120, 140))
    image.save(path)


@pytest.mark.parametrize(("strict", "amount", "code"), [(False, 9, 0), (True, 9, 0), (False, 150, 0), (True, 150, 1)])
def test_exec_tells_and_fails_if_strict(tmp_path, monkeypatch, capsys, strict, amount, code):
    monkeypatch.chdir(tmp_path)
    Path("w.yaml").write_text(PICTURE)
    noisy("before.png", amount)
    noisy("reference.png", 0)
    assert main.main(["exec", "w.yaml", "--out", "out", "--device", "cpu", *["--strict"] * strict]) == code
    out, err = capsys.readouterr()
    record = json.loads(Path("out/run.json").read_text())
    SCHEMA.validate(record)
    error = amount**2 / (32 * 32 * 3 * 255**2)
    assert record["expectations"][2]["value"] == pytest.approx(-10 * math.log10(error), abs=1e-4)
    assert (record["status"], Path("out/after.png").exists()) == ("done", True)
    assert out.count("expected: ") == (3 if amount == 9 else 2)
    broken = [text for text in err.splitlines() if "not as expected" in text]
    assert [text.partition(":")[0] for text in broken] == ["error" if strict else "warning"] * (amount == 150)


def test_strict_needs_something_to_check(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("w.yaml").write_text(PICTURE[: PICTURE.index("expect")])
    noisy("before.png", 0)
    assert main.main(["exec", "w.yaml", "--out", "out", "--strict"]) == 2
    assert "has no `expect`" in capsys.readouterr().err
    assert not Path("out").exists()


def test_quiet_and_json_say_what_is_broken_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("w.yaml").write_text(PICTURE)
    noisy("before.png", 150)
    noisy("reference.png", 0)
    assert main.main(["exec", "w.yaml", "--out", "a", "--strict", "--quiet"]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("not as expected")) == ("", 1)
    assert main.main(["exec", "w.yaml", "--out", "b", "--strict", "--json"]) == 1
    assert [row["met"] for row in json.loads(capsys.readouterr().out)["expectations"]] == [True, True, False]
