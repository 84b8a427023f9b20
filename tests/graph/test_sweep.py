"""Sweeps: the grammar of `--vary`, the combinations, their runs, what an interrupt leaves, and the Pareto front."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sgd.graph.cli import main
from sgd.graph.cli.report.run_record import read_run
from sgd.graph.cli.sweep.combinations import combinations, reference_of
from sgd.graph.cli.sweep.settings_summary import front
from sgd.graph.cli.sweep.sweep_file import is_sweep, read_sweep
from sgd.graph.cli.sweep.variations import MOST_COMBINATIONS, fixed, variations
from sgd.graph.contract.errors import NodeError
from sgd.graph.contract.file_edits import ReplaceNode
from sgd.graph.contract.interrupts import descendants
from sgd.graph.contract.source_spans import Source
from sgd.graph.contract.yaml_reader import parse
from sgd.graph.language.edit_file import edited

NODES = '''
import time

from PIL import Image
from sgd.graph.contract.node import OutPath, Run, node


@node("paint.mix")
def mix(level: int, more: int = 0) -> int:
    """Mix a grey.

    Args:
        level: Its level.
        more: Added to it.
    """
    if level == 13:
        raise RuntimeError("thirteen cannot be mixed")
    if more == 7:
        time.sleep(0.3)  # long enough to be kept
        with open("calls.txt", "a") as file:
            file.write(f"{level}\\n")
    return level + more


@node("paint.thin")
def thin(level: int = 0) -> int:
    """Thin a grey.

    Args:
        level: Its level.
    """
    return level // 2


@node("paint.fill", effect=True)
def fill(grey: int, run: Run, seconds: float = 0.0, path: OutPath = "grey.png") -> str:
    """Fill a picture.

    Args:
        grey: Its level.
        seconds: How long it takes.
        path: The picture.
    """
    time.sleep(seconds)
    target = run.output(path)
    Image.new("RGB", (16, 16), (grey, grey, grey)).save(target)
    return path
'''
WORKFLOW = """\
sgd: 1
name: paint
inputs:
  level: {type: int, default: 100, min: 0, max: 200}
  seconds: {type: float, default: 0.0, min: 0}
  label: {type: str, default: ""}
nodes:
  # the grey
  mixed:
    uses: paint.mix   # two greys
    with: {level: $level, more: 2}
  # the picture
  picture: {uses: paint.fill, with: {grey: $mixed, seconds: $seconds}}
outputs: {picture: $picture}
"""


@pytest.fixture
def paint(tmp_path, monkeypatch):
    """A folder with a workflow and its node types, as the current one."""
    (tmp_path / "paint.yaml").write_text(WORKFLOW)
    (tmp_path / "paint.py").write_text(NODES)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def sweep(paint, capsys):
    """Call `sgd sweep paint.yaml`; gives the exit code, stdout and stderr."""

    def call(*words, file="paint.yaml"):
        code = main.main(["sweep", file, "--library", "paint.py", *words])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def values(*words):
    return {each.name: each.values for each in variations(words)}


@pytest.mark.parametrize(
    ("word", "name", "expected"),
    [
        ("cache=0,0.05, 0.1", "cache", ("0", "0.05", "0.1")),
        ("seed=0:3", "seed", ("0", "1", "2")),
        ("seed=-2:1", "seed", ("-2", "-1", "0")),
        ("prompt=a cat", "prompt", ("a cat",)),
        ('prompt=[a cat, "a dog, running", "0:3"]', "prompt", ("a cat", "a dog, running", "0:3")),
        ("size=[[1, 2], [3, 4]]", "size", ("[1, 2]", "[3, 4]")),
        ("gate.threshold=1e-3", "gate.threshold", ("1e-3",)),
        ("size=[1.50, 2]", "size", ("1.50", "2")),
        ("gate={uses: a.b, x: 1}", "gate", ("{uses: a.b, x: 1}",)),
        ("gate=[{uses: a.b}, {uses: c.d}]", "gate", ("{uses: a.b}", "{uses: c.d}")),
    ],
)
def test_grammar(word, name, expected):
    assert values(word) == {name: expected}


def test_a_file_gives_a_value_for_each_line(tmp_path):
    (tmp_path / "prompts.txt").write_bytes("\ufeffa cat, asleep\r\n\r\n  ein Bär  \n".encode())
    assert values(f"prompt=@{tmp_path / 'prompts.txt'}") == {"prompt": ("a cat, asleep", "ein Bär")}


def test_whole_nodes_may_be_repeated():
    (found,) = variations(["gate={uses: a.b}", "gate={uses: c.d, x: 2}"])
    assert found.values == ("{uses: a.b}", "{uses: c.d, x: 2}")
    assert found.whole_nodes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cache"], "has no value"),
        (["=1"], "has no value"),
        (["cache="], "empty value"),
        (["cache=1,,2"], "empty value"),
        (["seed=3:3"], "has no values"),
        (["seed=5:2"], "has no values"),
        (["seed=0:99999999999999"], "values"),
        (["seed=1,1.0"], "a value twice"),
        (["gate={uses: a.b, x: 1}", "gate={x: 1.0, uses: a.b}"], "a value twice"),
        (["seed=1", "seed=2"], "given twice"),
        (["gate={uses: a.b}", "gate=1"], "given twice"),
        (["gate={threshold: 1}"], "has no `uses`"),
        (["gate=[{uses: a.b}, 3]"], "some values are nodes"),
        (["x=[]"], "has no values"),
        (["x=[1, 2"], "no YAML"),
        (["x={a: 1, a: 2}"], "no YAML"),
        (["x=@"], "names no file"),
        (["x=@missing.txt"], "cannot read missing.txt"),
        (["a=0:100", "b=0:100"], "10000 combinations are too many: 100 of a x 100 of b"),
    ],
)
def test_wrong_words_are_told_with_what_to_do(words, message):
    with pytest.raises(NodeError, match=message) as caught:
        variations(words)
    assert caught.value.help


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cache"], "is not NAME=V"),
        (["other=1"], "does not vary"),
        (["cache=7"], "does not take this value"),
        (["cache=0", "cache=0"], "given twice"),
    ],
)
def test_a_wrong_reference_is_told_with_what_to_do(words, message):
    with pytest.raises(NodeError, match=message) as caught:
        fixed(words, variations(["cache=0,0.5"]))
    assert caught.value.help


def test_a_reference_may_be_written_otherwise_than_its_value():
    (found,) = fixed(["cache=0.0"], variations(["cache=0.5,0"]))
    assert found.value == "0"
    nodes = variations(["gate={uses: a.b, x: 1, y: [2]}", "gate={uses: a.b}"])
    assert fixed(["gate={y: [2.0], x: 1, uses: a.b}"], nodes)[0].value == nodes[0].values[0]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_combinations_are_the_product(sizes):
    varied = variations([f"n{number}=0:{size}" for number, size in enumerate(sizes)])
    found = combinations(varied)
    expected = list(itertools.product(*(map(str, range(size)) for size in sizes)))
    assert [tuple(each.values.values()) for each in found] == expected
    assert [each.number for each in found] == list(range(1, math.prod(sizes) + 1))
    assert len({each.folder for each in found}) == len(found) <= MOST_COMBINATIONS
    reference = fixed(["n0=0"], varied)
    for each in found:
        other = reference_of(each, found, reference)
        assert other is not None
        assert other.values == {**each.values, "n0": "0"}


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5) | st.just(math.inf)), max_size=12))
def test_the_front_is_what_nothing_beats(points):
    """Against the definition: a point is beaten by one that is no worse in both and better in one."""
    expected = set()
    for number, (s, p) in enumerate(points):
        if all(other == (s, p) or other[0] > s or other[1] < p for other in points):
            expected.add(number)
    assert front(points) == expected
    assert front([*points, (None, 1.0), (1.0, None)]) == expected


def test_a_node_is_replaced_and_nothing_else_changes():
    parameters = {"text": "a $$5\n'note\"", "more": [1, "x"]}
    new = edited(WORKFLOW, [ReplaceNode("mixed", "paint.thin", parameters, frozenset({"level"}))])
    before, after = WORKFLOW.splitlines(), new.splitlines()
    assert after[:7] == before[:7]
    assert after[-3:] == before[-3:]
    assert "paint.thin   # two greys" in new
    root, problems = parse(Source("x", None, new))
    assert not problems
    node = root.data["nodes"].data["mixed"].plain()
    assert node == {"uses": "paint.thin", "with": {"level": "$level", **parameters}}


def test_every_combination_runs_and_is_compared(sweep, paint):
    code, out, err = sweep("--vary", "level=100,110,120", "--vary", "label=[a, 'b, c']", "--reference", "level=100",
                           "--out", "out", "--json")  # fmt: skip
    assert code == 0, err
    found = json.loads(out)
    assert [(run["values"]["level"], run["values"]["label"]) for run in found["runs"]] == [
        *itertools.product(("100", "110", "120"), ("a", "b, c"))
    ]
    for run in found["runs"]:
        record = read_run(f"out/{run['folder']}").record
        assert record.inputs["level"] == int(run["values"]["level"])
        assert record.inputs["label"] == run["values"]["label"]
        level = int(run["values"]["level"])
        assert Image.open(f"out/{run['folder']}/grey.png").getpixel((0, 0)) == (level + 2,) * 3
        if level == 100:
            assert run["likeness"]["equal"]
        else:  # PSNR by its formula: 20 log10(255 / difference)
            assert run["likeness"]["psnr"] == pytest.approx(20 * math.log10(255 / (level - 100)), abs=1e-6)
    settings = found["settings"]
    assert [each["values"] for each in settings] == [{"level": "100"}, {"level": "110"}, {"level": "120"}]
    assert [each["runs"] for each in settings] == [2, 2, 2]
    assert settings[0]["reference"]
    assert settings[0]["front"]
    page = Path(found["page"]).read_text()
    assert page.count("data:image/png;base64,") == 6
    assert is_sweep(Path("out"))


def test_a_whole_node_varies(sweep):
    nodes = ("mixed={uses: paint.mix, level: 50}", "mixed={uses: paint.thin, level: 80}")
    code, out, err = sweep("--vary", nodes[0], "--vary", nodes[1], "--out", "out", "--json")
    assert code == 0, err
    assert err.count("input `level` is not used") == 1
    runs = json.loads(out)["runs"]
    assert [Image.open(f"out/{run['folder']}/grey.png").getpixel((0, 0))[0] for run in runs] == [50, 40]
    again = main.main(["exec", f"out/{runs[1]['folder']}", "--library", "paint.py", "--out", "again", "--quiet"])
    assert again == 0
    assert Image.open("again/grey.png").getpixel((0, 0))[0] == 40


def test_a_path_varies(sweep):
    code, out, err = sweep("--vary", "mixed.more=1,5", "--out", "out", "--json")
    assert code == 0, err
    runs = json.loads(out)["runs"]
    assert [Image.open(f"out/{run['folder']}/grey.png").getpixel((0, 0))[0] for run in runs] == [101, 105]
    assert read_run(f"out/{runs[0]['folder']}").record.set == {"mixed.more": 1}


def test_work_that_runs_share_is_done_once(sweep, paint, monkeypatch):
    monkeypatch.delenv("SGD_STORE", raising=False)
    code, out, err = sweep("--set", "mixed.more=7", "--vary", "level=10,20", "--vary", "seconds=0,0.01", "--vary",
                           "label=[a, b]", "--reference", "level=10", "--out", "out", "--json")  # fmt: skip
    assert code == 0, err
    assert len(json.loads(out)["runs"]) == 8
    mixed = (paint / "calls.txt").read_text().split()
    assert mixed == ["10", "10", "20"]  # the first is the warm-up, which keeps nothing
    assert not (paint / "out/.store").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "nothing varies"),
        (("--vary", "levle=1,2"), "no input `levle`"),
        (("--vary", "level=100,300"), "300"),
        (("--vary", "level=many,1"), "level"),
        (("--vary", "mixed.mroe=1"), "mroe"),
        (("--vary", "mixed.level=1"), "wired"),
        (("--vary", "mixed={uses: paint.mixx}"), "no node type `paint.mixx`"),
        (("--vary", "mixed={uses: paint.thin, more: 1}"), "no parameter `more`"),
        (("--vary", "mixde={uses: paint.thin}"), "did you mean `mixed`"),
        (("--vary", "level=1,2", "level=5"), "`level` varies"),
        (("--vary", "mixed.more=1,2", "--set", "mixed.more=5"), "`mixed.more` varies"),
        (("--vary", "level=1,2", "--reference", "level=3"), "does not take this value"),
        (("--vary", "level=1,2", "--reference", "level=1", "--output", "pitcure"), "did you mean `picture`"),
        (("--vary", "level=1,2", "--output", "picture"), "nothing to compare"),
        (("--vary", "level=1,2", "--out", ""), "--out is empty"),
    ],
)
def test_problems_are_told_before_anything_runs(sweep, paint, words, message):
    code, out, err = sweep(*words)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert not out
    assert not (paint / "outputs").exists()


def test_a_failed_combination_does_not_stop_the_rest(sweep, paint):
    code, out, err = sweep("--vary", "level=10,13,20", "--reference", "level=10", "--out", "out", "--json")
    assert code == 1
    assert "thirteen cannot be mixed" in err
    found = json.loads(out)
    assert [run["status"] for run in found["runs"]] == ["done", "failed", "done"]
    assert "thirteen" in Path(found["page"]).read_text()
    assert found["settings"][1]["runs"] == 0
    code, _, err = sweep("--vary", "level=10,13,20", "--reference", "level=10", "--out", "out", "--traceback")
    assert code == 1
    assert 'raise RuntimeError("thirteen' in err
    assert "2 of 3 runs are done already" in err


def test_a_failed_reference_leaves_the_others_uncompared(sweep):
    code, out, _ = sweep("--vary", "level=13,20", "--reference", "level=13", "--out", "out", "--json")
    assert code == 1
    assert json.loads(out)["runs"][1]["likeness"] is None


def test_another_sweep_in_the_folder_is_refused(sweep, paint):
    assert sweep("--vary", "level=1,2", "--out", "out")[0] == 0
    for words in (("--vary", "level=1,3"), ("--vary", "level=1,2", "--reference", "level=1"),
                  ("--vary", "level=1,2", "label=x")):  # fmt: skip
        code, _, err = sweep(*words, "--out", "out")
        assert code == 2
        assert "holds another sweep" in err
    (paint / "full").mkdir()
    (paint / "full/notes.txt").write_text("mine")
    code, _, err = sweep("--vary", "level=1,2", "--out", "full")
    assert code == 2
    assert "is not empty" in err
    (paint / "paint.yaml").write_text(WORKFLOW.replace("more: 2", "more: 3"))
    code, _, err = sweep("--vary", "level=1,2", "--out", "out")
    assert code == 2
    assert "had other bytes" in err


def test_a_damaged_sweep_file_is_told(sweep, paint):
    assert sweep("--vary", "level=1,2", "--out", "out")[0] == 0
    for text in ("{", '{"sweep": 2}', '{"sweep": 1, "file": 3}', "[]"):
        (paint / "out/sweep.json").write_text(text)
        code, _, err = sweep("--vary", "level=1,2", "--out", "out")
        assert code == 2
        assert "sweep.json" in err
        assert "Traceback" not in err


def test_processes_give_the_same_pixels(sweep):
    for jobs in ("1", "2"):
        code, _, err = sweep("--vary", "level=10,20,30", "--out", f"jobs{jobs}", "--jobs", jobs, "--device", "cpu")
        assert code == 0, err
    for one in sorted(Path("jobs1").glob("0*")):
        assert (one / "grey.png").read_bytes()[:200] == (Path("jobs2") / one.name / "grey.png").read_bytes()[:200]


def test_a_hostile_value_is_text_in_the_page(sweep):
    evil = '</script><img src=x onerror="alert(1)">\u202e'
    code, _, err = sweep("--vary", f'label=["{evil.replace(chr(34), chr(92) + chr(34))}", b]', "--out", "out")
    assert code == 0, err
    page = Path("out/sweep.html").read_text()
    assert "<img src=x" not in page
    assert "&lt;img src=x" in page
    assert "\u202e" not in page
    assert "&#8238;" not in page


def command(paint, *words, name="sweep"):
    file = ["paint.yaml"] if name == "sweep" else []
    return subprocess.Popen(
        [sys.executable, "-m", "sgd", name, *file, "--library", "paint.py", *words],
        cwd=paint,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_an_interrupt_keeps_what_is_done_and_a_second_command_goes_on(paint, jobs):
    words = ("--vary", "level=10,20,30,40", "--vary", "seconds=0.3", "--out", "out", "--jobs", jobs, "--device", "cpu")
    process = command(paint, *words)
    deadline = time.monotonic() + 240
    while not (paint / "out/001-level-10-seconds-0.3/run.json").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 3, err
    assert "runs are done" in err
    assert "Traceback" not in err
    done = {path: path.stat().st_mtime_ns for path in paint.glob("out/*/run.json")
            if json.loads(path.read_text())["status"] == "done"}  # fmt: skip
    assert 0 < len(done) < 4
    again = words if jobs == "1" else None  # the same command, or `sgd resume`
    process = command(paint, *again) if again else command(paint, "out", name="resume")
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert read_sweep(paint / "out").jobs == int(jobs)
    assert f"{len(done)} of 4 runs are done already" in err
    assert len(list(paint.glob("out/*/grey.png"))) == 4
    assert all(path.stat().st_mtime_ns == before for path, before in done.items())
    assert not list(paint.glob("out/.sgd*"))


def test_the_processes_of_a_sweep_end_with_the_command(paint):
    process = command(paint, "--vary", "level=10,20", "--vary", "seconds=600", "--jobs", "2", "--device", "cpu")
    workers: list[int] = []
    deadline = time.monotonic() + 120
    while len(workers) < 2 and time.monotonic() < deadline:
        workers = [
            each for each in descendants(process.pid) if b"spawn_main" in Path(f"/proc/{each}/cmdline").read_bytes()
        ]
        time.sleep(0.05)
    process.kill()
    process.communicate(timeout=60)
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{each}").exists() for each in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(workers) == 2
    assert [each for each in workers if Path(f"/proc/{each}").exists()] == []


def test_resume_goes_on_from_another_folder(sweep, paint, monkeypatch, capsys):
    assert sweep("--vary", "level=10,13", "--out", "out")[0] == 1
    (paint / "elsewhere").mkdir()
    monkeypatch.chdir(paint / "elsewhere")
    (paint / "out/001-level-10/run.json").unlink()
    assert main.main(["resume", "../out"]) == 2
    assert "pass it again: --library" in capsys.readouterr().err
    assert main.main(["resume", "../out", "--library", "../paint.py", "--quiet"]) == 1
    assert read_run(str(paint / "out/001-level-10")).record.status == "done"
    assert read_sweep(paint / "out").base == str(paint)
    (paint / "paint.yaml").write_text(WORKFLOW + "# more\n")
    assert main.main(["resume", "../out", "--library", "../paint.py"]) == 2
    assert "has changed since" in capsys.readouterr().err


CHANGES = {
    "a used file": (lambda: Path("part.yaml").write_text(PART + "# more\n"), "part.yaml has changed"),
    "a read file": (lambda: Path("two.txt").write_text("3"), "two.txt has changed"),
    "a library": (lambda: Path("paint.py").write_text(NODES + "\n"), "paint.py has changed"),
    "a version": (lambda: version_in("out/sweep.json", "0.0.9"), "sgd was 0.0.9, and is "),
    "code": (lambda: code_in("out/sweep.json", "sgd.nodes"), "the Python code of sgd.nodes has changed"),
}
PART = """\
sgd: 1
inputs: {level: {type: int}}
nodes: {one: {uses: paint.read, with: {level: $level, file: two.txt}}}
outputs: {grey: $one}
"""
READS = WORKFLOW.replace("uses: paint.mix   # two greys", "uses: ./part.yaml").replace(", more: 2}", "}")
READ = '''

@node("paint.read")
def read(level: int, file: Path) -> int:
    """Add a number of a file.

    Args:
        level: The level.
        file: The file.
    """
    return level + int(file.read_text())
'''


def version_in(file, version):
    plain = json.loads(Path(file).read_text())
    plain["versions"]["sgd"] = version
    Path(file).write_text(json.dumps(plain))


def code_in(file, package):
    plain = json.loads(Path(file).read_text())
    plain["code"][package] += "0"
    Path(file).write_text(json.dumps(plain))


@pytest.mark.parametrize("change", CHANGES)
def test_going_on_with_other_files_or_packages_is_refused(sweep, paint, capsys, change):
    library = NODES.replace("import time", "import time\nfrom pathlib import Path", 1) + READ
    for name, text in {"paint.py": library, "paint.yaml": READS, "part.yaml": PART, "two.txt": "2"}.items():
        (paint / name).write_text(text)
    code, _, err = sweep("--vary", "level=1,2", "--out", "out")
    assert code == 0, err
    edit, reason = CHANGES[change]
    edit()
    assert main.main(["resume", "out", "--library", "paint.py", "--quiet"]) == 0  # all runs are done
    (paint / "out/002-level-2/run.json").unlink()
    assert main.main(["resume", "out", "--library", "paint.py", "--quiet"]) == 2
    err = capsys.readouterr().err
    assert reason in err
    assert "would differ" in err
    assert sweep("--vary", "level=1,2", "--out", "out")[0] == 2


def test_options_of_a_single_run_are_refused(sweep, paint, capsys):
    assert sweep("--vary", "level=1,2", "--out", "out")[0] == 0
    for option in (["--snapshot-every", "5"], ["--profile", "off"]):
        assert main.main(["resume", "out", "--library", "paint.py", *option]) == 2
        assert f"{option[0]} is for a single run" in capsys.readouterr().err


def test_a_folder_gives_no_permission(sweep, paint, capsys):
    assert sweep("--vary", "level=10", "--out", "out")[0] == 0
    plain = json.loads((paint / "out/sweep.json").read_text())
    assert "trust_remote_code" in plain["options"]
    plain["options"]["trust_remote_code"] = True
    (paint / "out/sweep.json").write_text(json.dumps(plain))
    assert main.main(["resume", "out", "--library", "paint.py"]) == 2
    assert "no file can give that permission" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("loop", "inner", "seconds"),
    [
        ((3, True), ((0, True), (3, False)), 5.0),  # a call that no turn changes came from the store
        ((0, True), ((0, True), (0, True)), None),  # the whole loop did
        ((2, True), ((1, True), (2, False)), None),  # a turn of a call did
    ],
)
def test_loop_seconds_are_those_of_loops_that_ran(loop, inner, seconds):
    from types import SimpleNamespace

    from sgd.graph.cli.sweep.measured_runs import _measured

    def row(name, type, calls, reused):
        return SimpleNamespace(name=name, type=type, calls=calls, reused=reused, seconds=5.0)

    nodes = [row("loop", "loop", *loop), *(row(f"loop.{n}", "toy", *each) for n, each in enumerate(inner))]
    record = SimpleNamespace(status="done", nodes=nodes, steps=[], seconds=9.0, outputs={})
    found = _measured(SimpleNamespace(), SimpleNamespace(record=record, plain={}), [], "")  # type: ignore[arg-type]
    assert (found.loop_seconds, found.reused) == (seconds, seconds is None)
