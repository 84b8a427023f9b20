"""The report of runs, without a browser: which records it reads, and what stands in the page."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from helpers.report_records import NODES, STEPS, record, write_run
from sgd.graph.cli import main
from sgd.graph.cli.report import media_files
from sgd.graph.cli.report.charts import MOST_POINTS, Chart, Series, chart
from sgd.graph.cli.report.repeat_command import recipe_command, repeat_command
from sgd.graph.cli.report.run_record import RecordedRun, RunRecord
from sgd.graph.cli.report.run_report import exec_parser
from sgd.graph.cli.run_table import run_table

VOID = {"meta", "link", "img", "br", "input"}


class Outline(HTMLParser):
    """The elements of a page: whether they are closed in order, their ids, links and texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.given: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.given += [(tag, name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text += data


@pytest.fixture
def sgd(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run `sgd report` in an empty folder: exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main.main(["report", *words])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out, said.err

    return run


def outline(file: Path) -> Outline:
    return Outline(file.read_text(encoding="utf-8"))


def test_the_page_stands_in_the_folder_of_the_run_and_is_replaced(sgd) -> None:
    write_run(Path("run"))
    assert sgd("run") == (0, "report: run/report.html\n", "")
    first = Path("run/report.html").read_bytes()
    assert sgd("run/run.json")[0] == 0
    assert Path("run/report.html").read_bytes() == first, "a page holds no time of its own"
    Path("run/report.html").write_text("<p>mine</p>")
    code, _, said = sgd("run")
    assert code == 2
    assert "run/report.html exists" in said


def test_out_names_a_file_that_is_not_replaced_without_overwrite(sgd) -> None:
    write_run(Path("a"))
    write_run(Path("b"))
    assert sgd("a", "b")[1] == "report: report.html\n"
    assert sgd("a", "--out", "x.html")[0] == 0
    assert "--overwrite" in sgd("a", "--out", "x.html")[2]
    assert sgd("a", "--out", "x.html", "--overwrite")[0] == 0
    assert "folder" in sgd("a", "--out", "b")[2]
    assert sgd("a", "--out", "missing/x.html")[0] == 2
    assert sgd("a", "--out", "")[0] == 2


def test_the_page_is_whole_and_asks_for_nothing(sgd) -> None:
    write_run(Path("a"))
    write_run(Path("b"), status="interrupted", outputs={})
    sgd("a", "b")
    page = outline(Path("report.html"))
    assert len(page.ids) == len(set(page.ids))
    links = {value for tag, name, value in page.given if name in ("href", "src") and tag != "a"}
    assert links
    assert all(link.startswith("data:") for link in links)
    addresses = {value for tag, name, value in page.given if name == "href" and tag == "a"}
    assert addresses - {"./a/sheet.png", "./b/sheet.png"} <= {f"#{id}" for id in page.ids}
    policy = next(value for _, name, value in page.given if name == "content" and "default-src" in value)
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert Path("report.html").read_bytes().isascii()


def test_every_section_has_what_the_record_holds(sgd) -> None:
    write_run(Path("run"))
    sgd("run")
    page = outline(Path("run/report.html"))
    names = ["graph", "time", "nodes", "steps", "gates", "memory", "kernels", "warnings", "environment"]
    assert [id for id in page.ids if id.startswith("s1-")] == [f"s1-{name}" for name in names]
    for text in ("a red circle", "900 MiB", "61% of bfloat16 rate", "gemm_5<float, 128>", "decoded in tiles"):
        assert text in page.text
    assert "25.5" in page.text
    assert "not installed" in page.text
    charts = [json.loads(value) for _, name, value in page.given if name == "data-chart"]
    steps, distances, memory = charts
    assert steps["series"][0]["values"] == [0.64] * STEPS
    assert {s["label"] for s in distances["series"]} == {"gate · positive", "gate · negative", "limit"}
    assert distances["series"][0]["values"][:3] == [None, 0.05, 0.1]
    assert memory["series"][0]["values"][0] == pytest.approx(400 << 20, rel=1e-5)
    lanes = json.loads(next(value for _, name, value in page.given if name == "data-timeline"))
    assert [lane["name"] for lane in lanes["lanes"]] == ["phases", "loading", "text", "work.loop", "work.loop.predict"]
    assert len(lanes["items"]) == len(record()["timeline"])


def test_a_record_of_today_and_an_older_one_are_enough(sgd) -> None:
    new = ("edges", "timeline", "memory", "kernels", "gates", "steps")
    given = {key: value for key, value in record().items() if key not in new}
    for row in given["nodes"]:
        for key in ("flops", "bytes", "ceiling"):
            del row[key]
    folder = write_run(Path("run"))
    (folder / "run.json").write_text(json.dumps(given))
    assert sgd("run")[0] == 0
    page = outline(Path("run/report.html"))
    assert {"s1-nodes", "s1-time", "s1-environment"} <= set(page.ids)
    assert not {"s1-graph", "s1-memory", "s1-kernels", "s1-gates", "s1-steps"} & set(page.ids)
    assert "ceiling" not in page.text


def test_a_record_without_times_says_so(sgd) -> None:
    """`--profile off` writes null for the times of nodes."""
    given = record(options={"profile": "off"}, unaccounted_seconds=None)
    given["phases"]["save"] = None
    for row in given["nodes"]:
        row["seconds"] = row["share"] = None
    (write_run(Path("run")) / "run.json").write_text(json.dumps(given))
    assert sgd("run")[0] == 0
    assert "the run measured no times of nodes (--profile off)" in outline(Path("run/report.html")).text


@pytest.mark.parametrize(("reused", "said"), [(0, None), (4, "of 4 turns "), (STEPS, "")])
def test_times_of_stored_turns_are_said_to_be_of_another_run(sgd, reused: int, said: str | None) -> None:
    steps = [step | ({"reused": True} if step["turn"] < reused else {}) for step in record()["steps"]]
    write_run(Path("run"), steps=steps)
    sgd("run")
    text = outline(Path("run/report.html")).text
    assert ("the run that made the stored result" in text) is (said is not None)
    if said is not None:
        assert f"; times {said}are those of the run that made the stored result" in text


def test_ceilings_have_the_words_of_the_terminal(sgd) -> None:
    given = record()
    kinds = [("matrix", "float32", 0.04), ("copy", None, 0.5), ("disk", None, 0.004)]
    for row, (kind, dtype, fraction) in zip(given["nodes"], kinds, strict=False):
        row["ceiling"] = {"kind": kind, "dtype": dtype, "fraction": fraction}
    (write_run(Path("run")) / "run.json").write_text(json.dumps(given))
    sgd("run")
    text = outline(Path("run/report.html")).text
    assert all(words in text for words in ("4% of float32 rate", "50% of memory rate", "<1% of disk rate"))


def test_a_node_that_an_interrupt_ended_is_said_to_have_run(sgd) -> None:
    given = record(status="interrupted", outputs={})
    row = next(row for row in given["nodes"] if row["name"] == "text")
    row |= {"calls": 0, "interrupted": True, "seconds": 2.5}
    (write_run(Path("run")) / "run.json").write_text(json.dumps(given))
    assert sgd("run")[0] == 0
    page = outline(Path("run/report.html")).text
    assert "did not run" not in page
    assert page.count("interrupted") - page.count("was interrupted") >= 2, "in the table, and beside the graph"
    assert re.search(r"^text +\S+ +interrupted +2.50", run_table(given), re.M)


@pytest.mark.parametrize("status", ["failed", "interrupted"])
def test_a_run_that_did_not_end_shows_what_it_has(sgd, status: str) -> None:
    more: dict[str, Any] = {"error": "predict (toy.predict) failed: no <memory>"} if status == "failed" else {}
    folder = write_run(Path("run"), status=status, outputs={}, **more)
    given = record(status=status, outputs={}, **more)
    given["nodes"][-2]["outputs"] = [{"port": "file", "type": "File", "path": str((folder / "sheet.png").resolve())}]
    (folder / "run.json").write_text(json.dumps(given))
    assert sgd("run")[0] == 0
    page = outline(Path("run/report.html"))
    assert f"The run {'failed' if status == 'failed' else 'was interrupted'}." in page.text
    assert more.get("error", "") in page.text
    assert page.tags.count("img") == 1, "a file that was written before the end"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "run/run.json:1:1: the file is empty"),
        ("[]", "is not the record of a run"),
        ("{}", "is not the record of a run"),
        ('{"sgd": "1", "record": 1', "not closed"),
        ('{"sgd": "0.9", "record": 2, "status": "done", "nodes": []}', "is a record of version 2"),
        ('{"sgd": "0.9", "record": true, "status": "done", "nodes": []}', "is a record of version True"),
        ('{"sgd": "0.9", "record": 1, "status": "done", "nodes": 3}', "`"),
        (json.dumps(record(nodes=[{"name": "a", "seconds": "long"}])), "`nodes[0].seconds`"),
        (json.dumps(record(timeline=[{"name": "a"}])), "`timeline[0].start`"),
    ],
)
def test_a_file_that_is_no_record(sgd, text: str, said: str) -> None:
    Path("run").mkdir()
    Path("run/run.json").write_text(text)
    code, out, err = sgd("run")
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("error:") == 1
    assert not Path("run/report.html").exists()


def test_a_run_that_is_not_there(sgd) -> None:
    Path("empty").mkdir()
    assert "empty has no run.json" in sgd("empty")[2]
    assert "missing does not exist" in sgd("missing")[2]
    folder = write_run(Path("run"))
    code, _, err = sgd(str(folder / "sheet.png"))
    assert (code, "UTF-8" in err) == (2, False)
    assert "run/sheet.png is not the record of a run" in err
    assert "name the folder of its run: run" in err
    assert sgd("x" * 5000)[0] == 2


def test_files_outside_the_folder_are_not_read(sgd) -> None:
    Path("secret.png").write_bytes(b"secret")
    write_run(Path("run"), outputs={"a": "../secret.png", "b": str(Path("secret.png").resolve()), "c": "gone.mp4"})
    (Path("run") / "link.png").symlink_to(Path("secret.png").resolve())
    err = sgd("run")[2]
    page = outline(Path("run/report.html"))
    assert page.tags.count("img") == 0
    assert page.text.count("not in the folder of the run") == 1, "one file, named twice"
    assert "no longer there" in page.text
    assert f"warning: {Path('run/gone.mp4').resolve()} is no longer there" in err
    assert "c2VjcmV0" not in Path("run/report.html").read_text()
    write_run(Path("run"), outputs={"a": "link.png"})
    sgd("run")
    assert outline(Path("run/report.html")).tags.count("img") == 0


def test_a_large_file_is_a_link_with_a_warning(sgd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media_files, "EMBED_ONE", 20)
    write_run(Path("a run"), outputs={"picture": "sheet.png"})
    Path("pages").mkdir()
    code, _, err = sgd("a run", "--out", "pages/x.html")
    assert code == 0
    assert "sheet.png is a link" in err
    page = outline(Path("pages/x.html"))
    assert page.tags.count("img") == 0
    assert ("a", "href", "../a%20run/sheet.png") in page.given


def test_a_page_of_a_long_run_stays_small(sgd) -> None:
    """100 nodes in a loop, 4,000 steps, 5,000 stretches of time: at most 1.5 MB."""
    names = [f"loop.node{n}" for n in range(100)]
    row = record()["nodes"][0]
    given = record(
        nodes=[{**row, "name": "loop", "type": "loop"}, *({**row, "name": name} for name in names)],
        edges=[{"from": f"{a}.out", "to": f"{b}.in"} for a, b in pairwise(names)],
        steps=[{"loop": "loop", "turn": n, "step": n, "seconds": 0.123456 + n % 7} for n in range(4_000)],
        gates=[{**record()["gates"][0], "step": n, "distance": 1 / (n + 3)} for n in range(4_000)],
        timeline=[
            {"name": names[n % 100], "kind": "node", "start": n * 0.123456, "seconds": 0.1, "step": n}
            for n in range(5_000)
        ],
        memory=[{"seconds": n * 1.1, "bytes": n << 20} for n in range(500)],
        kernels=[{"node": "loop.node1", "name": "k" * 150, "calls": 1, "device_seconds": 0.1}] * 3000,
    )
    write_run(Path("run"), **given)
    assert sgd("run")[0] == 0
    page = Path("run/report.html")
    assert page.stat().st_size < 1_500_000
    charts = [json.loads(value) for _, name, value in outline(page).given if name == "data-chart"]
    assert all(len(each["x"]) <= MOST_POINTS for each in charts)


def test_a_thinned_chart_keeps_the_largest_values() -> None:
    values = [float(n % 100) for n in range(10 * MOST_POINTS)]
    values[7777] = 1e6
    html = chart(Chart("", "n", range(len(values)), [Series("v", values)]))
    data = json.loads({n: v for _, n, v in Outline(html).given}["data-chart"])
    assert len(data["x"]) == MOST_POINTS
    assert max(data["series"][0]["values"]) == 1e6
    assert "largest of 10 neighbours" in html


def test_numbers_that_are_not_finite_are_no_error(sgd) -> None:
    gates = [{**gate, "distance": "nan"} for gate in record()["gates"]]
    memory = [{"seconds": "inf", "bytes": 3}, {"seconds": 1, "bytes": "nan"}, {"seconds": 2, "bytes": 5}]
    write_run(Path("run"), gates=gates, memory=memory, seconds="inf", peak_bytes="nan")
    code, _, err = sgd("run")
    assert (code, err) == (0, "")


def test_a_library_whose_section_fails_is_a_warning(sgd) -> None:
    write_run(Path("run"), gates=[{"step": "first"}])
    assert sgd("run")[0] == 0
    assert "the section of StandardLibrary cannot be made" in outline(Path("run/report.html")).text


def command_of(**changed: Any) -> list[str]:
    return shlex.split(repeat_command(RunRecord.model_validate(record(**changed)), exec_parser(), record(**changed)))


def test_the_command_that_repeats_a_run() -> None:
    words = command_of(inputs={"prompt": "it's $HOME\n`x`", "seeds": [0, 1], "none": None, "fast": True})
    assert words[:3] == ["sgd", "exec", "toy.yaml"]
    assert words[3:7] == ["prompt=it's $HOME\n`x`", "seeds=[0, 1]", "none=null", "fast=true"]
    assert words[7:] == ["--set", "gate.threshold=0.2", "--device", "cpu", "--weights", "dummy"]
    arguments = main.parse(words[1:])
    assert arguments.set == ["gate.threshold=0.2"]
    assert arguments.option_weights == "dummy"


def test_the_record_repeats_a_run_with_whole_paths_and_options() -> None:
    plain = record(inputs={"image": "/data/a.png", "seed": 3})
    run = RecordedRun(RunRecord.model_validate(plain), plain, Path("my runs"), "run")
    assert recipe_command(run, exec_parser()) is None
    run = replace(run, plain={**plain, "recipe": {"inputs": {"image": "a.png", "seed": 3}}})
    words = shlex.split(recipe_command(run, exec_parser()) or "")
    assert words[:4] == ["sgd", "exec", "my runs/run.json", "image=/data/a.png"]
    assert words[4:] == ["--device", "cpu", "--weights", "dummy"]
    main.parse(words[1:])


def test_the_commands_name_the_libraries_of_the_run() -> None:
    libraries = [{"name": "my_nodes.py", "sha256": "0" * 64}, {"name": "installed"}]
    plain = record(recipe={"inputs": {}, "libraries": libraries})
    run = RecordedRun(RunRecord.model_validate(plain), plain, Path("my runs"), "run")
    for words in (shlex.split(recipe_command(run, exec_parser()) or ""), command_of(recipe=plain["recipe"])):
        assert main.parse(words[1:]).library == ["my_nodes.py"]


def test_turns_stand_in_a_table_with_their_noise_level(sgd) -> None:
    steps = [{"loop": "denoise", "turn": n, "step": n, "sigma": 1 - n / 8, "seconds": 0.5} for n in range(3)]
    write_run(Path("run"), steps=steps)
    assert sgd("run")[0] == 0
    text = outline(Path("run/report.html")).text
    assert "All turns" in text
    assert all(each in text for each in ("sigma", "0.875", "0.75"))


def test_a_bundled_workflow_is_named_only_if_it_is_the_one_that_ran() -> None:
    from hashlib import sha256

    from sgd.graph.contract.workflow_folders import bundled_workflows

    right = sha256((bundled_workflows() / "quickstart.yaml").read_bytes()).hexdigest()
    name = {"name": "quickstart", "file": "quickstart.yaml"}
    assert command_of(workflow={**name, "sha256": right})[2] == "quickstart"
    assert command_of(workflow={**name, "sha256": "0" * 64})[2] == "quickstart.yaml"
    assert command_of(workflow={"name": "x", "file": None})[2] == "FILE"


def test_the_report_does_not_import_torch(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    code = "import sys\nfrom sgd.graph.cli import main\nassert main.main(['report', sys.argv[1]]) == 0\n"
    code += "assert 'torch' not in sys.modules, 'torch'"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_assets_cannot_end_their_element_and_are_ascii() -> None:
    folder = Path(media_files.__file__).parent / "assets"
    for file in folder.iterdir():
        text = file.read_text(encoding="ascii").lower()
        assert not re.search(r"</(script|style)|<!--", text), file.name
    assert "MIT License" in (folder / "uplot.LICENSE").read_text()


def test_all_nodes_are_in_drawing_and_table(sgd) -> None:
    write_run(Path("run"))
    sgd("run")
    page = outline(Path("run/report.html"))
    assert [value for _, name, value in page.given if name == "data-path"] == list(NODES)
