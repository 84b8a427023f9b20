"""The command line as a user meets it: exit codes, stdout and stderr, and no traceback whatever is typed."""

from __future__ import annotations

import gc
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sgd.graph.cli import main

HEAVY = "('torch', 'diffusers', 'transformers', 'accelerate', 'av', 'huggingface_hub')"
TOYS = Path(__file__).parents[1] / "helpers" / "toys.py"
PART = Path(__file__).parent / "fixtures" / "parts" / "scale.yaml"
GOOD = """sgd: 1
name: good
inputs:
  v: {type: float, default: 1, min: 0}
nodes:
  n: {uses: toy.number, with: {value: $v}}
  p: {uses: toy.pair, with: {thing: $n}}
outputs: {o: $p}
"""
BAD = "sgd: 1\nnodes:\n  n: {uses: toy.nmber}\n  p: {uses: toy.pair, with: {thng: $n}}\noutputs: {o: $p}\n"
LOOP = """sgd: 1
nodes:
  n: {uses: toy.number}
  end: {uses: toy.ticks}
  loop:
    for: {tick: $end}
    carry: {state: $n}
    body:
      next: {uses: toy.step, with: {tick: $tick, thing: $state}}
    yield: {state: $next}
  a__b: {uses: toy.pair, with: {thing: $loop}}
  empty: {for: {x: [1, 2]}, body: {}, yield: {x: $x}}
outputs: {o: $a__b, e: $empty}
"""


class Result:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def sgd(capsys, tmp_path, monkeypatch):
    """Run a command in this process, in an empty folder with `good.yaml`, `bad.yaml` and `loop.yaml`."""
    for name, text in (("good", GOOD), ("bad", BAD), ("loop", LOOP), ("part", PART.read_text())):
        (tmp_path / f"{name}.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)

    def run(*words, toys=True):
        library = ["--library", str(TOYS)] if toys else []
        capsys.readouterr()
        code: str | int | None
        try:
            code = main.main([*words, *library])
        except SystemExit as exit:
            code = exit.code
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return Result(code, out, err)

    yield run
    signal.signal(signal.SIGTERM, before)


def process(*words, **more):
    """The installed command, in a process of its own."""
    script = Path(sys.executable).with_name("sgd")
    return subprocess.run([str(script), *words], check=False, capture_output=True, text=True, timeout=60, **more)


def python(*lines):
    """Python code in a process of its own."""
    code = "; ".join(["import sys", *lines, f"print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"])
    return subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60)


def test_check_says_nothing_when_all_is_well(sgd):
    found = sgd("check", "good.yaml", "loop.yaml", "part.yaml")
    assert (found.code, found.out, found.err) == (0, "", "")


def test_check_of_bundled_workflows_by_name(sgd):
    found = sgd("check", "quickstart", toys=False)
    assert (found.code, found.out, found.err) == (0, "", "")


def test_check_reports_every_file(sgd):
    found = sgd("check", "good.yaml", "bad.yaml", "missing.yaml")
    assert (found.code, found.out) == (2, "")
    assert re.findall(r"^error\[([\w-]+)\]", found.err, re.MULTILINE) == [
        "unknown-node-type",
        "missing-parameter",
        "unknown-parameter",
        "composite-not-found",
    ]
    assert "--> bad.yaml:3:13" in found.err


def test_check_as_json(sgd):
    found = sgd("check", "bad.yaml", "--json", "good.yaml")
    data = json.loads(found.out)
    assert (found.code, found.err) == (2, "")
    assert [d["code"] for d in data] == ["unknown-node-type", "missing-parameter", "unknown-parameter"]
    fields = ["code", "severity", "message", "file", "line", "column", "end_line", "end_column", "related", "help"]
    assert all(list(d) == fields for d in data)
    assert json.loads(sgd("check", "good.yaml", "--json").out) == []


def test_a_warning_is_no_failure(sgd):
    Path("warn.yaml").write_text(GOOD.replace("nodes:\n", "nodes:\n  lonely: {uses: toy.number}\n"))
    found = sgd("check", "warn.yaml")
    assert found.code == 0
    assert "warning[unused-node]" in found.err


def test_graph_as_text(sgd):
    found = sgd("graph", "loop.yaml")
    assert found.code == 0
    assert found.out.splitlines() == [
        "n: toy.number",
        "end: toy.ticks",
        "loop: loop (tick <- end.ticks, state <- n.thing)",
        "  loop.next: toy.step (tick <- tick, thing <- state)",
        "  yield state <- loop.next.thing",
        "a__b: toy.pair (thing <- loop.state)",
        "empty: loop",
        "  yield x <- x",
        "output o <- a__b.left",
        "output e <- empty.x",
    ]


def test_graph_as_mermaid(sgd):
    lines = sgd("graph", "loop.yaml", "--format", "mermaid").out.splitlines()
    assert lines[0] == "flowchart TD"
    ids = re.findall(r"^ *(?:subgraph )?(\w+)[\[(]", "\n".join(lines), re.MULTILINE)
    assert len(ids) == len(set(ids)) == 8
    assert not {"end", "style", "graph"} & set(ids)
    for line in lines:
        if "-->" in line or "-." in line:
            first, last = line.split()[0], line.split()[-1]
            assert {first, last} <= set(ids)
    assert sum(line.strip().startswith("subgraph") for line in lines) == sum(line.strip() == "end" for line in lines)


def test_graph_as_dot(sgd):
    text = sgd("graph", "loop.yaml", "--format", "dot").out
    assert text.startswith("digraph {")
    assert text.count("{") == text.count("}")
    drawn = set(re.findall(r'^ *"([^"]+)" \[', text, re.MULTILINE))
    edges = re.findall(r'"([^"]+)" -> "([^"]+)"', text)
    assert ("loop.next", "a__b") in edges
    assert {name for edge in edges for name in edge} <= drawn


def test_graph_of_an_empty_workflow(sgd):
    Path("empty.yaml").write_text("sgd: 1\nnodes: {}\n")
    for format in ("text", "mermaid", "dot"):
        assert sgd("graph", "empty.yaml", "--format", format).code == 0


def test_graph_with_the_times_of_a_run(sgd):
    Path("run.json").write_text(json.dumps({"nodes": [{"name": "n", "calls": 1, "seconds": 2.0}]}))
    for format in ("text", "mermaid", "dot"):
        assert "2" in sgd("graph", "good.yaml", "--format", format, "--profile", "run.json").out
        assert "2" in sgd("graph", "good.yaml", "--format", format, "--profile", ".").out


def test_check_takes_values_of_inputs(sgd):
    assert sgd("check", "good.yaml", "v=3").code == 0
    found = sgd("check", "good.yaml", "v=three")
    assert found.code == 2
    assert "bad-value" in found.err
    assert "did you mean" in sgd("check", "good.yaml", "vv=3").err
    assert sgd("check", "v=3").code == 2
    assert sgd("check", "good.yaml", "v=3", "v=4").code == 2
    Path("a=b.yaml").write_text(Path("good.yaml").read_text())
    assert sgd("check", "a=b.yaml").code == 0


def test_graph_with_the_times_of_another_workflow(sgd):
    rows = [{"name": "n", "calls": 1, "seconds": 2.0}]
    for name, warned in (("good", False), ("other", True)):
        Path("run.json").write_text(json.dumps({"nodes": rows, "workflow": {"name": name}}))
        found = sgd("graph", "good.yaml", "--profile", "run.json")
        assert found.code == 0
        assert ("is the record of other" in found.err) is warned


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"nodes": 3}', '{"nodes": [{}]}', '{"nodes": [{"name": "n", "calls": 1, "seconds": "x"}]}'],
)
def test_a_profile_that_is_none(sgd, content):
    Path("run.json").write_text(content)
    found = sgd("graph", "good.yaml", "--profile", "run.json")
    assert found.code == 2
    assert "run.json" in found.err


def test_values_and_settings(sgd):
    assert sgd("graph", "good.yaml", "v=3", "--set", "n.value=3").code == 2
    assert "wired-parameter" in sgd("graph", "good.yaml", "--set", "n.value=3").err
    assert sgd("graph", "--format", "text", "good.yaml", "v=3").code == 0
    assert sgd("graph", "good.yaml", "--format", "text", "v=3").code == 0
    assert "below the minimum" in sgd("graph", "good.yaml", "v=-1").err
    assert "did you mean `v`" in sgd("graph", "good.yaml", "V=1").err


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["frobnicate"],
        ["check"],
        ["check", "good.yaml", "--strict"],
        ["check", "--", "--strange"],
        ["check", ""],
        ["check", "."],
        ["check", "x" * 5000],
        ["check", "nothing.yaml"],
        ["exec"],
        ["exec", "good.yaml", "--trace", "."],
        ["exec", "good.yaml", "--profile", "kernels"],
        ["exec", "good.yaml", "--weights", "none"],
        ["exec", "good.yaml", "nonsense"],
        ["exec", "good.yaml", "w=1"],
        ["exec", "good.yaml", "v=1", "v=2"],
        ["exec", "good.yaml", "=1"],
        ["exec", "bad.yaml"],
        ["exec", "part.yaml"],
        ["plan", "missing.yaml"],
        ["graph", "good.yaml", "--format", "svg"],
        ["graph", "good.yaml", "--set"],
        ["graph", "good.yaml", "--set", "x"],
        ["graph", "good.yaml", "--set", "=1"],
        ["graph", "good.yaml", "--set", "n.x=1", "--set", "n.x=2"],
        ["graph", "good.yaml", "--profile", "missing.json"],
        ["graph", "good.yaml", "--profile", "."],
        ["nodes", "toy.nmber"],
        ["nodes", "--library", "missing.py"],
        ["nodes", "--library", "good.yaml"],
        ["nodes", "--library", "broken.py"],
        ["nodes", "--library", "raises.py"],
        ["nodes", "a", "b"],
        ["schema", "--library", "missing.py"],
        ["diff", "good.yaml"],
        ["diff", "good.yaml", "missing.yaml"],
        ["diff", "bad.yaml", "good.yaml"],
        ["report", "x"],
        ["calibrate", "good.yaml"],
    ],
    ids=lambda words: " ".join(words)[:40] or "nothing",
)
def test_a_wrong_command_line_exits_with_2_and_a_message(sgd, words):
    Path("broken.py").write_text("def (")
    Path("raises.py").write_text("raise ValueError('no')")
    found = sgd(
        *words,
        toys=bool(words) and words[0] in ("check", "exec", "graph", "plan", "diff", "nodes") and "--" not in words,
    )
    assert found.code == 2
    assert found.out == ""
    assert "error" in found.err


def test_nodes(sgd):
    listing = sgd("nodes").out
    assert re.search(r"^toy\.pair +-> Thing, Thing +A thing and its opposite\.$", listing, re.MULTILINE)
    details = sgd("nodes", "toy.plain").out
    for text in (
        "toy.plain  (version 1",
        "A whole number from 0 to 10.",
        "whole: int, default 1, at least 0, at most 10",
        "mode: fast | slow, default",
    ):
        assert text in details
    data = json.loads(sgd("nodes", "toy.plain", "--json").out)
    assert data["name"] == "toy.plain"
    assert [i["name"] for i in data["inputs"]][:3] == ["text", "whole", "ratio"]
    everything = json.loads(sgd("nodes", "--json").out)
    assert {"toy.plain", "vae.decode"} <= {n["name"] for n in everything}
    assert "did you mean `toy.plain`" in sgd("nodes", "toy.plan").err


def test_schema(sgd):
    data = json.loads(sgd("schema").out)
    assert data["$schema"] == "http://json-schema.org/draft-07/schema#"
    assert "node:toy.pair" in data["definitions"]


def test_diff(sgd):
    assert sgd("diff", "good.yaml", "good.yaml").out.strip() == ""
    after = (
        GOOD.replace("default: 1", "default: 2")
        .replace("  p:", "  extra: {uses: toy.gadget}\n  p:")
        .replace("$p}", "$p.right}")
    )
    Path("after.yaml").write_text(after)
    found = sgd("diff", "good.yaml", "after.yaml")
    assert found.code == 0
    assert "+ extra: toy.gadget" in found.out
    assert "v: float, default 1.0, min 0 -> float, default 2.0, min 0" in found.out
    assert "o: $p.left -> $p.right" in found.out
    assert "would run again: n, extra, p" in found.out
    data = json.loads(sgd("diff", "good.yaml", "after.yaml", "--json").out)
    assert data["added"] == {"extra": "toy.gadget"}
    assert data["rerun"] == ["n", "extra", "p"]
    back = json.loads(sgd("diff", "after.yaml", "good.yaml", "--json").out)
    assert back["removed"] == {"extra": "toy.gadget"}


def test_exec_runs_and_leaves_a_record(sgd):
    found = sgd("exec", "good.yaml", "v=3", "--out", "out", "--quiet", "--json", "--device", "cpu")
    assert found.code == 0
    record = json.loads(found.out)
    assert (record["status"], record["inputs"]) == ("done", {"v": 3.0})
    assert json.loads(Path("out/run.json").read_text())["inputs"] == {"v": 3.0}
    assert sgd("exec", "good.yaml", "--out", "out", "--quiet", "--device", "cpu").code == 2


def test_settings_are_recorded_as_values_of_their_types(sgd):
    found = sgd(
        "exec", "loop.yaml", "--set", "loop.next.by=2", "--set", "end.count=4", "--quiet", "--json", "--device", "cpu"
    )
    assert json.loads(found.out)["set"] == {"loop.next.by": 2.0, "end.count": 4}


def test_a_run_that_fails_is_1(sgd):
    Path("fails.yaml").write_text(
        "sgd: 1\nnodes:\n  n: {uses: toy.number}\n  f: {uses: toy.fail, with: {thing: $n}}\noutputs: {o: $f}\n"
    )
    found = sgd("exec", "fails.yaml", "--quiet", "--device", "cpu")
    assert found.code == 1
    for text in ("it broke", "fails.yaml:4"):
        assert text in found.err


def test_a_workflow_cannot_choose_a_folder_by_its_name(sgd):
    Path("outside.yaml").write_text(GOOD.replace("name: good", "name: ../../elsewhere"))
    found = sgd("exec", "outside.yaml", "--quiet", "--json", "--device", "cpu")
    assert found.code == 0
    assert len(list(Path("outputs").glob("*/run.json"))) == 1


def test_help_and_version(sgd):
    for words in (
        ["--help"],
        ["--version"],
        *([c, "--help"] for c in ("exec", "check", "plan", "graph", "nodes", "schema", "diff", "calibrate")),
    ):
        found = sgd(*words, toys=False)
        assert found.code == 0
        assert found.out


# In processes of their own


def test_installed_command(tmp_path):
    (tmp_path / "bad.yaml").write_text(BAD)
    found = process("check", "bad.yaml", cwd=tmp_path)
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.startswith("error[unknown-node-type]")
    assert process("frobnicate").returncode == 2


def test_terminals_that_know_only_ascii(tmp_path):
    (tmp_path / "w.yaml").write_text("sgd: 1\nnodes: {n: {uses: 猫}}\n", encoding="utf-8")
    found = process("check", "w.yaml", cwd=tmp_path, env={"PYTHONIOENCODING": "ascii", "PATH": "/usr/bin:/bin"})
    assert found.returncode == 2
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize(
    "words",
    [["check", "quickstart"], ["graph", "quickstart"], ["nodes"], ["schema"], ["diff", "quickstart", "quickstart"]],
)
def test_commands_without_weights_import_no_torch(words):
    found = python("from sgd.graph.cli.main import main", f"assert main({words!r}) == 0")
    assert (found.returncode, found.stderr.splitlines()) == (0, ["[]"])


def test_toys_import_no_torch():
    found = python(f"sys.path.insert(0, {str(TOYS.parents[1])!r})", "from helpers import toys", "toys.library()")
    assert (found.returncode, found.stderr.splitlines()) == (0, ["[]"])


def test_a_reader_that_goes_away_is_no_error():
    script = Path(sys.executable).with_name("sgd")
    with subprocess.Popen([str(script), "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        running.stdout.read(10)
        running.stdout.close()
        assert running.stderr.read() == b""
    assert running.returncode == 0


def test_collector_works_again_after_a_command_of_a_longer_process(tmp_path):
    (tmp_path / "good.yaml").write_text(GOOD)
    assert main.main(["check", str(tmp_path / "good.yaml"), "--library", str(TOYS)]) == 0
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
