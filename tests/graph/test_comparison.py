"""Two runs compared: what differs in their records, their times and their outputs, and the limits of a comparison."""

from __future__ import annotations

import hashlib
import json
import math
from argparse import ArgumentTypeError
from copy import deepcopy
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sgd.graph.cli import main
from sgd.graph.cli.comparison.changed_facts import changes
from sgd.graph.cli.comparison.compared_run import compared_run as read_run
from sgd.graph.cli.comparison.comparison import compare_runs
from sgd.graph.cli.comparison.comparison_page import comparison_page
from sgd.graph.cli.comparison.comparison_text import comparison_text
from sgd.graph.cli.comparison.limits import Limits, broken, decibel, percentage
from sgd.graph.cli.comparison.node_times import change
from sgd.graph.cli.comparison.sides import kind_of_side
from sgd.graph.contract.errors import UnreadableFile
from sgd.graph.contract.likeness import Likeness
from sgd.graph.contract.node_library import NodeLibrary
from sgd.nodes import standard_library

ROOT = Path(__file__).parents[2]
NODES = {"text": 1.0, "loop": 8.0, "loop.velocity": 7.5, "loop.next": 0.5, "video": 1.0}
RECORD = {
    "sgd": "0.1.0",
    "record": 1,
    "workflow": {"name": "clip", "file": "clip.yaml", "sha256": "a" * 64},
    "inputs": {"prompt": "a boat", "steps": 20},
    "set": {},
    "environment": {"device": "cpu", "torch": "2.13.0"},
    "options": {"weights": "real"},
    "status": "done",
    "seconds": 13.0,
    "phases": {"import": 2.0, "compile": 0.1, "load": 0.9, "run": 9.0, "save": 1.0},
    "unaccounted_seconds": 0.0,
    "peak_bytes": 3 << 30,
    "nodes": [],
    "steps": [],
    "outputs": {"image": "image.png"},
    "warnings": [],
}


def write_run(folder: Path, times=None, value=100, **changed) -> Path:
    folder.mkdir()
    record = deepcopy(RECORD)
    times = NODES | (times or {})
    record["nodes"] = [
        {"name": name, "type": "t", "calls": 1, "seconds": seconds, "device_seconds": None}
        for name, seconds in times.items()
        if seconds is not None
    ]
    (folder / "run.json").write_text(json.dumps(record | changed))
    Image.new("RGB", (16, 16), (value, 100, 100)).save(folder / "image.png")
    return folder


@pytest.fixture
def runs(tmp_path):
    """Write two runs, the second with changes, and compare them."""

    def compare(libraries=(standard_library,), first=None, **second):
        before = write_run(tmp_path / "a", **(first or {}))
        after = write_run(tmp_path / "b", **second)
        found = compare_runs(read_run(str(before)), read_run(str(after / "run.json")), libraries, lambda *_: None)
        json.dumps(found.json(), allow_nan=False)
        return found

    return compare


def test_equal_runs_differ_in_nothing(runs):
    found = runs()
    assert (found.inputs, found.settings, found.environment, found.used) == ((), (), (), ())
    assert all(pair.ratio == 1 for pair in found.nodes)
    assert [(pair.name, pair.equal, pair.text()) for pair in found.outputs] == [("image", True, "equal bytes")]
    assert broken(found, Limits(0, 100)) == []


def test_facts_that_differ_are_named(runs):
    found = runs(
        inputs={"prompt": "a boat", "steps": 8, "seed": 1},
        set={"gate.threshold": 0.1},
        environment={"device": "NVIDIA H100", "torch": "2.13.0"},
        options={"weights": "dummy", "trust_remote_code": True},
    )
    text = comparison_text(found)
    for line in (
        "  steps: 20 -> 8",
        "  seed: (none) -> 1",
        "  gate.threshold: (none) -> 0.1",
        "  device: cpu -> NVIDIA H100",
        "  --weights: real -> dummy",
        "  --trust-remote-code: (none) -> true",
    ):
        assert line in text.splitlines()
    assert "torch" not in text


@pytest.mark.parametrize(
    ("one", "other", "texts"),
    [
        ("x" * 100 + "a", "x" * 100 + "b", ('"' + "x" * 100 + 'a"', '"' + "x" * 100 + 'b"')),
        (True, 1, ("true", "1")),
        ("1", 1, ('"1"', "1")),
        (0.1, 0.1 + 1e-16, ("0.10000000000000001", "0.1000000000000001")),
        (30.0, 31.599999999999998, ("30.0", "31.6")),
        ([1, "a"], None, ('[1, "a"]', "null")),
        ("(none)", None, ('"(none)"', "null")),
    ],
)
def test_values_are_shown_so_that_they_differ(one, other, texts):
    [found] = changes({"v": one}, {"v": other})
    assert (found.before, found.after) == texts
    [bare] = changes({"v": one}, {"v": other}, quoted=False)
    assert bare.before != bare.after


def recipe(text="sgd: 1\nnodes:\n  a: 1\n", name="clip.yaml", weights="b" * 64):
    files = [{"name": name, "text": text}, {"name": "sgd:parts/x.yaml", "sha256": "c" * 64}]
    used = [{"source": "m", "name": "vae.safetensors", "sha256": weights}]
    return {"recipe": 1, "files": files, "device": "cpu", "versions": {"torch": "2.13.0"}, "weights": used}


def test_texts_of_workflow_files_are_compared(runs):
    found = runs(
        first={"recipe": recipe()},
        recipe=recipe("sgd: 1\nnodes:\n  a: 2\n", name="other.yaml", weights="d" * 64),
    )
    assert found.files.equal is False
    [file] = found.files.files
    assert [line for line in file.lines if line[0] in "+-"] == ["-  a: 1", "+  a: 2"]
    assert [each.name for each in found.used] == ["m/vae.safetensors"]
    assert "+  a: 2" in comparison_text(found)


def test_the_text_of_a_bundled_file_is_known_while_it_is_the_same(runs):
    text = (ROOT / "workflows" / "quickstart.yaml").read_text()
    bundled = {"name": "sgd:quickstart.yaml", "sha256": hashlib.sha256(text.encode()).hexdigest()}
    own = {"name": "mine.yaml", "text": text.replace("fps: 8", "fps: 9")}
    found = runs(first={"recipe": recipe() | {"files": [bundled]}}, recipe=recipe() | {"files": [own]})
    [file] = found.files.files
    assert [line for line in file.lines if line[0] in "+-"] == [
        "-  video: {uses: video.save, with: {frames: $frames, path: clip.mp4, fps: 8}}",
        "+  video: {uses: video.save, with: {frames: $frames, path: clip.mp4, fps: 9}}",
    ]


def test_a_bundled_file_that_has_changed_has_only_its_hash(runs):
    files = [[{"name": "sgd:quickstart.yaml", "sha256": digit * 64}] for digit in "ab"]
    found = runs(first={"recipe": recipe() | {"files": files[0]}}, recipe=recipe() | {"files": files[1]})
    assert "b" * 64 in found.files.files[0].lines[-1]


def test_equal_recipes_say_nothing(runs):
    found = runs(first={"recipe": recipe()}, recipe=recipe(name="renamed.yaml"))
    assert (found.files.equal, found.files.files) == (True, ())
    assert "file" not in comparison_text(found)


def test_without_recipes_hashes_are_compared(runs):
    found = runs(workflow={"name": "clip", "file": "clip.yaml", "sha256": "b" * 64})
    assert found.files.equal is False
    assert "not recorded" in comparison_text(found)


def test_times_stand_side_by_side(runs):
    found = runs(times={"text": None, "loop.velocity": 3.75, "new": 2.0})
    rows = {pair.name: pair for pair in found.nodes}
    assert (rows["text"].before, rows["text"].after, rows["text"].ratio) == (1.0, None, None)
    assert (rows["new"].before, rows["new"].after) == (None, 2.0)
    assert rows["loop.velocity"].ratio == 0.5
    assert (rows["loop"].leaf, rows["loop.velocity"].leaf) == (False, True)
    text = comparison_text(found)
    assert [line.split() for line in text.splitlines() if line.startswith("  velocity")] == [
        ["velocity", "7.50", "3.75", "-50", "%"]
    ]


def test_device_times_are_compared_if_both_runs_have_them(runs, tmp_path):
    rows = [
        [{"name": "n", "type": "t", "calls": 1, "seconds": 1.0, "device_seconds": device}]
        for device in (2.0, 4.0, None)
    ]
    found = runs(first={"nodes": rows[0]}, nodes=rows[1])
    assert (found.nodes[0].device, found.nodes[0].ratio) == (True, 2.0)
    assert "those of the device" in comparison_text(found)


@pytest.mark.parametrize(
    ("ratio", "text"),
    [
        (None, "-"),
        (1.0, "0 %"),
        (1.042, "+4.2 %"),
        (0.5, "-50 %"),
        (1.5, "+50 %"),
        (3.14, "3.1 x"),
        (0.9999, "0 %"),
    ],
)
def test_a_ratio_as_text(ratio, text):
    assert change(ratio) == text


def slower(factor):
    return {"phases": RECORD["phases"] | {"run": 9.0 * factor, "save": 1.0 * factor}}


def test_fail_over_counts_running_and_saving(runs):
    found = runs(**slower(1.06), seconds=100.0)
    assert broken(found, Limits(slower=0.07)) == []
    [line] = broken(found, Limits(slower=0.05))
    assert line == "running nodes and saving files took 10.60 s instead of 10.00 s, +6.0 %; the limit is +5 %"


def test_fail_over_names_large_nodes(runs):
    # `loop.next` is small, and `loop` is a sum.
    found = runs(times={"text": 1.2, "loop": 12.0, "loop.velocity": 11.0, "loop.next": 5.0})
    lines = broken(found, Limits(slower=0.1))
    assert [line.partition(" took")[0] for line in lines] == ["text", "loop.velocity"]


@pytest.mark.parametrize("fact", [{"reused": True}, {"resumed_calls": 3}])
def test_a_run_that_did_not_do_all_itself_has_no_times_to_compare(runs, fact):
    whole = [{"name": name, "type": "t", "calls": 1, "seconds": 1.0, "device_seconds": None} for name in NODES]
    nodes = [row | fact if row["name"] in ("loop", "loop.velocity") else row for row in whole]
    found = runs(nodes=nodes)
    [line] = broken(found, Limits(slower=0.5))
    assert "the second run" in line
    assert line.partition(" loop")[2].startswith(".velocity;")
    said = line.removeprefix("times cannot be compared: ")
    assert found.json()["time_notes"] == [said]
    assert f"Times cannot be compared: {said}." in comparison_text(found, None)
    assert said in comparison_page(found, Limits(), [], Path())[0]


def test_faster_is_no_failure(runs):
    assert broken(runs(**slower(0.5), times={"text": 0.1}), Limits(slower=0)) == []


def test_a_run_that_is_not_done_has_no_times_to_compare(runs):
    [line] = broken(runs(status="failed", error="x", outputs={}), Limits(slower=9))
    assert line == "times cannot be compared: the second run is failed"


def test_min_psnr_is_for_each_output(runs):
    found = runs(value=110)
    expected = -10 * math.log10(100 / 3 / 255**2)
    assert found.outputs[0].likeness.psnr == pytest.approx(expected)
    assert broken(found, Limits(psnr=expected - 0.01)) == []
    [line] = broken(found, Limits(psnr=expected + 0.01))
    assert line.startswith(f"output image has PSNR {expected:.2f} dB")


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        ({}, "the second run has no such output"),
        ({"image": "missing.png"}, "is missing"),
        ({"image": "../a/image.png"}, "lies outside of the run's folder"),
        ({"image": ["image.png", "image.png"]}, "1 files against 2"),
        ({"image": "run.json"}, "its bytes differ"),
    ],
)
def test_outputs_that_cannot_be_compared_break_min_psnr(runs, outputs, said):
    [line] = broken(runs(outputs=outputs), Limits(psnr=1))
    assert line.startswith("output image cannot be compared: ")
    assert said in line


def test_min_psnr_needs_an_output(runs):
    found = runs(first={"outputs": {"psnr": 40.0, "word": "boat"}}, outputs={"psnr": 41.0, "word": "boat"})
    assert [pair.text() for pair in found.outputs] == ["40.0 -> 41.0", 'equal: "boat"']
    assert broken(found, Limits(psnr=40)) == ["no output can be compared: neither run has a picture or a clip"]


def test_another_number_of_frames_breaks_min_psnr(runs):
    class Measure(NodeLibrary):
        def likeness(self, before, after, progress, network=None):
            progress(17)
            return Likeness((17, 9), ((16, 16), (16, 16)), 60.0, 1.0, 55.0, 3, 0.99, ("a note",))

    found = runs(libraries=(NodeLibrary(), Measure()), value=101)
    assert broken(found, Limits(psnr=40)) == ["output image has another size: 17 frames against 9"]
    assert "  note: a note" in comparison_text(found)


@pytest.mark.parametrize(
    ("text", "value"), [("5%", 0.05), ("5 %", 0.05), ("0.5%", 0.005), (".5%", 0.005), ("150%", 1.5)]
)
def test_percentages(text, value):
    assert percentage(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["5", "0.05", "-5%", "nan%", "%", "", "5%%", "five%"])
def test_what_is_no_percentage(text):
    with pytest.raises(ArgumentTypeError, match="5%"):
        percentage(text)


def test_decibels():
    assert (decibel("40"), decibel("38.5 dB"), decibel("40dB")) == (40, 38.5, 40)
    for text in ("", "nan", "inf", "-3", "0", "forty"):
        with pytest.raises(ArgumentTypeError, match="no PSNR"):
            decibel(text)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "empty"),
        ("[]", "not the record of a run"),
        ('{"sgd": 1}', "not the record of a run"),
        (json.dumps(RECORD | {"record": 2}), "version 2"),
        ('{"record": 1}', "run.json is not the record of a run"),
        (json.dumps(RECORD | {"nodes": [{"name": 1}]}), r"nodes\[0\]\.name"),
        (json.dumps(RECORD | {"phases": {"run": "x"}}), "phases.run"),
        (json.dumps(RECORD | {"recipe": {"recipe": 1, "files": [{"text": "x"}]}}), "recipe is damaged"),
    ],
)
def test_what_is_no_record(tmp_path, content, said):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(UnreadableFile, match=said):
        read_run(str(tmp_path))


def test_what_is_no_run(tmp_path):
    with pytest.raises(UnreadableFile, match=r"no run\.json"):
        read_run(str(tmp_path))
    with pytest.raises(UnreadableFile, match="does not exist"):
        read_run(str(tmp_path / "missing.json"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(sorted({*RECORD, "recipe"} - {"record"})), JSON)
def test_a_record_with_any_value_is_compared_or_refused(tmp_path_factory, key, value):
    folder = tmp_path_factory.mktemp("run")
    (folder / "run.json").write_text(json.dumps(RECORD | {key: value}))
    try:
        run = read_run(str(folder))
    except UnreadableFile:
        return
    found = compare_runs(run, run, (), lambda *_: None)
    comparison_text(found)
    broken(found, Limits(0.05, 40))
    json.dumps(found.json(), allow_nan=False)


def test_kinds_of_sides(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "run")
    Path("api.json").write_text('{"3": {"class_type": "KSampler"}}')
    Path("w.txt").write_text("sgd: 1\n# " + "é" * 5000)
    kinds = {
        name: kind_of_side(name) for name in ("run", "run/run.json", "run/image.png", "api.json", "w.txt", "quick")
    }
    assert list(kinds.values()) == ["run", "run", "media", "workflow", "workflow", "workflow"]


def diff(capsys, *words):
    code = main.main(["diff", *map(str, words)])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


def test_diff_of_runs(tmp_path, capsys):
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b", inputs={"prompt": "a car", "steps": 20}, value=110)
    code, out, err = diff(capsys, a, b / "run.json")
    assert (code, err) == (0, "")
    assert '  prompt: "a boat" -> "a car"' in out
    assert "  image: PSNR " in out
    code, out, _ = diff(capsys, a, b, "--json")
    data = json.loads(out)
    assert data["inputs"] == [{"name": "prompt", "before": '"a boat"', "after": '"a car"'}]
    assert data["outputs"][0]["likeness"]["frames"] == [1, 1]
    assert data["totals"][0] == {"name": "run", "before": 10.0, "after": 10.0, "ratio": 1.0}


def test_diff_of_pictures(tmp_path, capsys):
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b", value=110)
    assert "pixels" not in diff(capsys, a / "image.png", a / "image.png")[1]
    code, out, _ = diff(capsys, a / "image.png", b / "image.png")
    assert code == 0
    assert out.startswith("pixels: PSNR ")
    data = json.loads(diff(capsys, a / "image.png", b / "image.png", "--json")[1])
    assert data["pixels"]["likeness"]["sizes"] == [[16, 16], [16, 16]]
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    code, out, err = diff(capsys, a / "image.png", tmp_path / "broken.png")
    assert (code, out) == (2, "")
    assert "broken.png" in err


WORKFLOW = """sgd: 1
inputs: {word: {type: str, default: boat}, path: {type: path, default: sgd:images/boat.png}}
nodes:
  picture: {uses: image.load, with: {path: $path}}
  saved: {uses: image.save, with: {frames: $picture, path: "${word}.png"}}
outputs: {picture: $saved}
"""


def test_diff_of_what_carries_a_recipe(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("one.yaml").write_text(WORKFLOW)
    Path("two.yaml").write_text(WORKFLOW.replace("image.load, with: {", "image.load, with: {background: white, "))
    assert main.main(["exec", "one.yaml", "--out", "a", "--quiet"]) == 0
    assert main.main(["exec", "two.yaml", "word=ship", "--set", "saved.frame=0", "--out", "b", "--quiet"]) == 0
    code, out, err = diff(capsys, "a/boat.png", "b/ship.png")
    assert (code, err) == (0, "")
    for line in (
        "  -  picture: {uses: image.load, with: {path: $path}}",
        '  word: "boat" -> "ship"',
        "  saved.frame: (none) -> 0",
        "pixels: equal pixels",
    ):
        assert line in out.splitlines(), out
    assert '  word: "ship" -> "boat"' in diff(capsys, "b", "a/boat.png")[1]
    _, out, _ = diff(capsys, "one.yaml", "b")
    assert "    background: (default) -> " in out
    assert '  word: "boat" -> "ship"' in out
    data = json.loads(diff(capsys, "one.yaml", "b/ship.png", "--json")[1])
    assert data["values"] == [{"name": "word", "before": '"boat"', "after": '"ship"'}]
    assert data["rerun"] == ["picture", "saved"]
    assert diff(capsys, "one.yaml", "a") == (0, "", "")


def test_diff_of_pictures_without_recipes_says_so(tmp_path, capsys):
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b", value=110)
    code, out, _ = diff(capsys, a / "image.png", b)
    assert code == 0
    assert "pixels: PSNR" in out
    assert "note: " in out
    (tmp_path / "other.jpg").write_bytes((a / "image.png").read_bytes())
    assert "no output that belongs" in diff(capsys, tmp_path / "other.jpg", b)[1]


def test_diff_of_what_is_no_run(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    code, out, err = diff(capsys, write_run(tmp_path / "a"), tmp_path / "empty")
    assert (code, out) == (2, "")
    assert "no run.json" in err


def report(capsys, *words):
    code = main.main(["report", *map(str, words)])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


def test_report_compares_and_keeps_limits(tmp_path, capsys, monkeypatch):
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b", value=110, **slower(1.2))
    monkeypatch.chdir(tmp_path)
    code, out, err = report(capsys, "--compare", a, b)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "comparison: comparison.html"
    assert "image: PSNR" in out
    code, out, err = report(capsys, "--compare", a, b, "--fail-over", "5%", "--min-psnr", "60", "--out", "page.html")
    assert code == 1
    assert [line.partition(" took")[0].partition(" has")[0] for line in err.splitlines()] == [
        "error: running nodes and saving files",
        "error: output image",
    ]
    page = Path("page.html").read_text()
    assert "Not within the limits." in page
    assert report(capsys, "--compare", a, b, "--fail-over", "25%", "--min-psnr", "20")[0] == 0
    assert "Within the limits: at most 25 % slower, at least 20 dB PSNR." in Path("comparison.html").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no run is named"),
        (["a", "--fail-over", "5%"], "belong to --compare"),
        (["c", "--compare", "a", "b"], "is a third"),
        (["--compare", "a"], "expected 2 arguments"),
        (["--compare", "a", "missing"], "missing"),
        (["--compare", "a/image.png", "b"], "a/image.png is no run"),
        (["--compare", "a", "b", "--fail-over", "five"], "write it like 5%"),
        (["--compare", "a", "b", "--min-psnr", "-1"], "no PSNR"),
        (["--compare", "a", "b", "--out", ""], "--out is empty"),
        (["--compare", "a", "b", "--out", "a"], "is a folder"),
        (["--compare", "a", "b", "--out", "a/image.png"], "exists"),
    ],
)
def test_wrong_command_lines(tmp_path, capsys, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        write_run(tmp_path / name)
    code: str | int | None
    try:
        code = main.main(["report", *words])
    except SystemExit as exit:
        code = exit.code
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert said in err


def test_a_page_of_hostile_text_is_text(tmp_path, capsys):
    bad = "</script><img src=x onerror=alert(1)>\x1b[2J\u202e"
    a = write_run(tmp_path / "a", recipe=recipe())
    changed = {"inputs": {bad: bad}, "set": {"n.p": bad}, "warnings": [bad], "outputs": {bad: "image.png", "t": bad}}
    b = write_run(
        tmp_path / "b",
        times={bad: 3.0},
        recipe=recipe(text=bad),
        workflow={"name": bad, "file": bad, "sha256": ""},
        environment={"device": bad},
        **changed,
    )
    code, out, _ = report(capsys, "--compare", a, b, "--out", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert code == 0
    assert "<img src=x" not in page
    assert page.count("</script>") == 1
    assert "\x1b" not in page + out
    assert "\u202e" not in page + out
    assert len(page) < 1_500_000
