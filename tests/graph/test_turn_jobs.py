"""Turns of mapping loops as jobs: which workflows have them, the work of a job, the joined record. No cluster runs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import cluster_toys
from jsonschema import Draft202012Validator
from sgd.graph.cli import main
from sgd.graph.compiler.checks.separate_turns import SeparateTurns, separate_turns
from sgd.graph.compiler.compile import Checked, check, plan_of
from sgd.graph.contract.errors import NodeError
from sgd.graph.contract.events import Observer
from sgd.graph.contract.file_locks import alone
from sgd.graph.contract.processes import Mesh
from sgd.graph.language.literals import Given
from sgd.graph.language.registry import Library, installed
from sgd.graph.runtime.clock import Clock
from sgd.graph.runtime.cluster import ray_cluster
from sgd.graph.runtime.cluster.job_result import JobResult
from sgd.graph.runtime.cluster.turn_run import TurnRun
from sgd.graph.runtime.cluster.turn_work import OpenTurns, TurnWork, texts_of
from sgd.graph.runtime.cluster.worker_process import LOCK, PREFIX, WorkerProcess, remove_left
from sgd.graph.runtime.context import Context
from sgd.graph.runtime.output_folder import OutputFolder
from sgd.graph.runtime.ranks.run_ranks import fingerprint
from sgd.graph.runtime.run import run
from sgd.graph.runtime.session import session
from sgd.graph.store.fingerprints import packages_of

SCHEMA = Draft202012Validator(json.loads((Path(__file__).parents[2] / "docs" / "run.schema.json").read_text()))
TEXT = """\
sgd: 1
name: greys
inputs:
  levels: {type: "list[int]", default: [10, 20, 30]}
nodes:
  base: {uses: toy.half, with: {level: 6}}
  mix:
    for: {level: $levels}
    body:
      grey: {uses: toy.grey, with: {level: $level}}
      half: {uses: ./half.yaml, with: {level: $grey}}
    yield: {level: $half}
  save:
    for: {level: $mix, sign: [a, b, c]}
    body: {file: {uses: toy.fill, with: {level: $level, path: "${index}-${sign}.png"}}}
    yield: {file: $file}
outputs: {files: $save, base: $base}
"""
PART = """\
sgd: 1
inputs: {level: {type: int}}
nodes: {half: {uses: toy.half, with: {level: $level}}}
outputs: {level: $half}
"""


@pytest.fixture
def library() -> Library:
    return installed((Path(cluster_toys.__file__),))


@pytest.fixture
def checked_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: Library) -> Callable[[str], Checked]:
    """Check a workflow in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SGD_TOY_MARKS", str(tmp_path / "marks"))
    (tmp_path / "half.yaml").write_text(PART)

    def checked(text: str) -> Checked:
        (tmp_path / "greys.yaml").write_text(text)
        result = check("greys.yaml", library=library, complete=True)
        assert not result.errors, result.errors
        return result

    return checked


def work_of(result: Checked, library: Library, file: str = "greys.yaml", **changed: Any) -> TurnWork:
    turns, problems = separate_turns(result.graph)
    assert turns is not None, problems
    known: dict[str, Any] = {
        "file": file, "base": os.getcwd(), "inputs": {}, "settings": {}, "libraries": (cluster_toys.__file__,),
        "options": {}, "device": "cpu", "metadata": True, "turns": turns,
        "plan": fingerprint(plan_of(result, library), Mesh()), "versions": packages_of(library.libraries.values()),
    }  # fmt: skip
    return TurnWork(**known | changed)


def test_jobs_make_the_files_of_one_run(checked_file, library, tmp_path: Path) -> None:
    result = checked_file(TEXT)
    turns, _ = separate_turns(result.graph)
    assert turns == SeparateTurns(frozenset({"mix", "save"}), 3)
    done = run(plan_of(result, library), out=tmp_path / "one")
    open_turns = OpenTurns(work_of(result, library), result, library)
    files: dict[str, bytes] = {}
    for job in range(3):
        (tmp_path / f"{job}").mkdir()
        made = open_turns.run(job, tmp_path / f"{job}")
        assert (made.status, len(made.files)) == ("done", 1)
        assert {step["loop"]: step["turn"] for step in made.record["steps"]} == {"mix": 0, "save": 0}
        files |= made.files
    assert files == {path.name: path.read_bytes() for path in done.written}
    assert sorted(files) == ["0-a.png", "1-b.png", "2-c.png"]


def test_jobs_make_the_clips_of_one_run(tmp_path: Path) -> None:
    """With a model: the pixels, and everything else in the files."""
    library = installed()
    values = {"prompts": ["a red circle", "a blue square"], "seeds": [3, 4], "steps": 2}
    given = {name: Given(value, False, tmp_path) for name, value in values.items()}
    result = check("many_prompts", given, library=library, complete=True)
    done = run(plan_of(result, library), out=tmp_path / "one")
    assert done.status == "done", done.error
    open_turns = OpenTurns(work_of(result, library, "many_prompts"), result, library)
    with session():
        for job in range(2):
            (tmp_path / f"{job}").mkdir()
            made = open_turns.run(job, tmp_path / f"{job}")
            assert made.files == {f"clip-{job}.mp4": (done.folder / f"clip-{job}.mp4").read_bytes()}


def test_a_worker_needs_no_file_of_the_workflow(checked_file, library, tmp_path: Path) -> None:
    result = checked_file(TEXT)
    texts = texts_of(result)
    assert texts is not None
    work = work_of(result, library, str(tmp_path / "greys.yaml"), base="/nowhere", texts=texts)
    for name in ("greys.yaml", "half.yaml"):
        (tmp_path / name).unlink()
    (tmp_path / "job").mkdir()
    with work.opened(tmp_path) as ready:
        assert ready.warnings == ()
        assert list(ready.run(1, tmp_path / "job").files) == ["1-b.png"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"plan": "other"}, "it makes another plan of the workflow"),
        ({"libraries": ("/nowhere/toys.py",)}, "--library /nowhere/toys.py is not on this machine"),
        ({"file": "missing.yaml"}, "missing.yaml does not exist"),
    ],
)
def test_a_worker_that_cannot_do_the_work_says_why(checked_file, library, tmp_path, changed, message) -> None:
    work = work_of(checked_file(TEXT), library, **changed)
    with pytest.raises(NodeError, match=message), work.opened(tmp_path):
        pass


def test_a_worker_tells_what_helps(checked_file, library, tmp_path: Path) -> None:
    worker = WorkerProcess(1, work_of(checked_file(TEXT), library, libraries=("/nowhere/toys.py",)), str(tmp_path))
    assert worker.start().problem == "--library /nowhere/toys.py is not on this machine; put it there, at the same path"
    worker.end()


def test_other_versions_are_told(checked_file, library, tmp_path: Path) -> None:
    work = work_of(checked_file(TEXT), library, versions={"sgd": "0.0.1", "torch": None})
    with work.opened(tmp_path) as ready:
        first, second = ready.warnings
    assert first.startswith("sgd is ")
    assert first.endswith("and 0.0.1 where the command runs; results may differ")
    assert "not installed where the command runs" in second


def test_folders_of_killed_workers_are_removed(tmp_path: Path) -> None:
    folders = {name: tmp_path / f"{PREFIX}{name}" for name in ("killed", "alive", "young")}
    for name, folder in folders.items():
        folder.mkdir()
        (folder / LOCK).touch()
        if name != "young":
            os.utime(folder, (1.0, 1.0))
    with alone(folders["alive"] / LOCK):
        remove_left(tmp_path)
    assert [name for name, folder in folders.items() if folder.exists()] == ["alive", "young"]


NODES = "nodes:\n  mix: {for: {l: [1, 2]}, body: {g: {uses: toy.grey, with: {level: $l}}}, yield: {g: $g}}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nodes: {a: {uses: toy.half, with: {level: 4}}}\noutputs: {a: $a}", "has no loop whose turns could be dealt"),
        (NODES + "  a: {uses: toy.all, with: {levels: $mix}}\noutputs: {a: $a}", "`a` reads the results of all turns"),
        (
            NODES + "  b: {for: {l: [1, 2]}, body: {c: {uses: toy.all, with: {levels: $mix}}}, yield: {c: $c}}\n"
            "outputs: {b: $b}",
            "`b.c` reads the results of all turns",
        ),
        (
            NODES + "  b: {for: {l: [1, 2, 3]}, body: {c: {uses: toy.half, with: {level: $l}}}, yield: {c: $c}}\n"
            "outputs: {b: $b, m: $mix}",
            "`l` of `mix` has 2, `l` of `b` has 3",
        ),
        (
            NODES + "  f: {uses: toy.fill, with: {level: 1, path: a.png}}\noutputs: {m: $mix}",
            "`f` stands in no mapping loop and writes a file",
        ),
        (
            "nodes:\n  n: {uses: toy.list, with: {count: 2}}\n"
            "  b: {for: {l: $n}, body: {c: {uses: toy.half, with: {level: $l}}}, yield: {c: $c}}\noutputs: {b: $b}",
            "loop `b` goes over `$n`, whose length is known only during the run",
        ),
    ],
)  # fmt: skip
def test_turns_that_cannot_be_apart(checked_file, text, message) -> None:
    turns, problems = separate_turns(checked_file(f"sgd: 1\n{text}\n").graph)
    assert turns is None
    assert [(each.code, message in each.message) for each in problems] == [("unsupported", True)], problems


def test_unread_nodes_do_not_count(checked_file) -> None:
    text = NODES + "  a: {uses: toy.all, with: {levels: $mix}}\noutputs: {m: $mix}"
    assert separate_turns(checked_file(f"sgd: 1\n{text}\n").graph)[1] == []


class Workers:
    """A dealer that runs all jobs here, but for those that fail or do not begin."""

    workers = ()

    def __init__(self, ready: OpenTurns, scratch: Path, without: int | None = None) -> None:
        self.ready, self.scratch, self.without = ready, scratch, without
        self.ended: Callable[[JobResult], None]

    def deal(self, jobs) -> None:
        for job in jobs:
            if job != self.without:
                folder = self.scratch / f"job{job}"
                folder.mkdir(parents=True)
                self.ended(self.ready.run(job, folder))


def finished(result: Checked, library: Library, folder: Path, without: int | None = None):
    work = work_of(result, library)
    owned = OutputFolder(folder / "out")
    told: list[JobResult] = []
    context = Context(folder / "out", Observer(), "cpu", folder=owned)
    turns = TurnRun(plan_of(result, library), work, context, told.append)
    dealer: Any = Workers(OpenTurns(work, result, library), folder / "scratch", without)
    dealer.ended = turns.ended
    done = turns.finish(dealer, turns.deal(dealer), owned, Clock())
    owned.release()
    SCHEMA.validate(json.loads((folder / "out" / "run.json").read_text()))
    return done, told


def test_the_record_has_the_sums_of_all_jobs(checked_file, library, tmp_path: Path) -> None:
    done, told = finished(checked_file(TEXT), library, tmp_path)
    record = done.record
    assert done.status == record["status"] == "done"
    assert record["outputs"] == {"files": ["0-a.png", "1-b.png", "2-c.png"], "base": 3}
    rows = {row["name"]: row for row in record["nodes"]}
    assert {name: row["calls"] for name, row in rows.items() if row["type"]} == {
        "base": 3, "mix": 6, "mix.grey": 3, "mix.half": 3, "mix.half.half": 3, "save": 3, "save.file": 3,
    }  # fmt: skip
    seconds = [next(r["seconds"] for r in each.record["nodes"] if r["name"] == "save.file") for each in told]
    assert rows["save.file"]["seconds"] == pytest.approx(sum(seconds))
    assert sum(row["share"] for name, row in rows.items() if "." not in name) == pytest.approx(1)
    assert [(s["loop"], s["turn"], s["job"]) for s in record["steps"]] == [
        (loop, job, job) for job in range(3) for loop in ("mix", "save")
    ]
    assert [(row["job"], row["status"], row["attempts"]) for row in record["jobs"]] == [
        (job, "done", 1) for job in range(3)
    ]
    assert record["jobs"][1]["outputs"]["files"] == ["1-b.png"]
    assert sum(record["phases"].values()) == pytest.approx(record["seconds"])
    assert record["recipe"]["inputs"]["levels"] == [10, 20, 30]
    assert not [path for path in done.folder.iterdir() if path.name.startswith(".sgd")]


def test_a_job_that_fails_leaves_the_others(checked_file, library, tmp_path: Path) -> None:
    done, _ = finished(checked_file(TEXT.replace("[10, 20, 30]", "[10, 13, 30]")), library, tmp_path)
    assert (done.status, str(done.error)) == ("failed", "1 of 3 jobs failed: 1")
    assert [path.name for path in done.written] == ["0-a.png", "2-c.png"]
    assert "thirteen cannot be mixed" in done.record["jobs"][1]["error"]
    assert done.record["outputs"] == {}


def test_jobs_that_did_not_begin_are_interrupted(checked_file, library, tmp_path: Path) -> None:
    done, _ = finished(checked_file(TEXT), library, tmp_path, without=2)
    assert done.status == "interrupted"
    assert [row["status"] for row in done.record["jobs"]] == ["done", "done", "interrupted"]


def test_two_jobs_cannot_write_one_file(checked_file, library, tmp_path: Path) -> None:
    result = checked_file(TEXT)
    owned = OutputFolder(tmp_path / "out")
    context = Context(tmp_path / "out", Observer(), "cpu", folder=owned)
    told: list[JobResult] = []
    turns = TurnRun(plan_of(result, library), work_of(result, library), context, told.append)
    for job in (0, 1):
        turns.ended(JobResult(job, "done", 1.0, files={"same.png": b"%d" % job}))
    owned.release()
    assert [each.status for each in told] == ["done", "failed"]
    assert "already written" in told[1].error
    assert (tmp_path / "out" / "same.png").read_bytes() == b"0"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ray", "--processes", "2"], "--ray cannot be combined with --processes"),
        (["--ray", "--overlap"], "--ray cannot be combined with --overlap"),
        (["--ray", "--device", "cuda:1"], "--ray cannot be combined with --device cuda:1"),
        (["--ray", "--watch"], "--ray cannot be combined with --watch"),
        (["--ray", "--store", "here"], "--ray cannot be combined with --store"),
        (["--ray", "--trace", "t.json"], "--ray cannot be combined with --trace"),
        (["--ray", "--profile", "off"], "--ray cannot be combined with --profile"),
        (["--ray", "--preview", "2"], "--ray cannot be combined with --preview"),
        (["--ray-address", "auto"], "--ray-address has no meaning without --ray"),
        (["--ray", "--ray-address", ""], "--ray-address is empty"),
    ],
)
def test_options_that_cannot_be_combined(words, message, capsys) -> None:
    assert main.main(["exec", "many_prompts", *words]) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}\n = help: ")


def test_a_sweep_on_a_cluster_has_no_jobs_option(capsys) -> None:
    assert main.main(["sweep", "quickstart", "--vary", "seed=0:2", "--ray", "--jobs", "2"]) == 2
    assert "--ray cannot be combined with --jobs" in capsys.readouterr().err


def test_without_ray_the_message_says_how_to_install_it(monkeypatch, capsys) -> None:
    monkeypatch.setattr(ray_cluster, "find_spec", lambda name: None)
    assert main.main(["exec", "many_prompts", "--ray"]) == 2
    assert capsys.readouterr().err.splitlines()[1] == ' = help: install it: pip install "sgd[ray]"'
