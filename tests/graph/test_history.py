"""`sgd replay`, `sgd runs`, `sgd clean`: what they say, what they remove, and that finished runs stay."""

from __future__ import annotations

import html
import io
import json
import os
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from filelock import FileLock
from helpers import keeping
from sgd.graph.cli import main
from sgd.graph.cli.commands import list_runs
from sgd.graph.cli.history.leftovers import leftovers, remove
from sgd.graph.cli.history.run_list import runs_in, under_way
from sgd.graph.runtime.output_folder import JOURNAL, LOCK, OutputFolder

KEEP = str(Path(keeping.__file__))
FILE = """sgd: 1
name: numbers
inputs: {v: {type: float, default: 1}, note: {type: str, default: hello}, of: {type: path, default: data.txt}}
nodes:
  a: {uses: keep.save, with: {value: $v, words: $note, source: $of, path: a.keep}}
  b: {uses: keep.save, with: {value: 2, path: b.keep}}
outputs: {a: $a}
"""
TEMPORARY = f".sgd-{'0' * 32}.part"


@pytest.fixture
def sgd(capsys, tmp_path, monkeypatch):
    """Run a command in this process, in a folder with `w.yaml`. Returns code, stdout and stderr."""
    (tmp_path / "w.yaml").write_text(FILE)
    (tmp_path / "data.txt").write_text("data")
    monkeypatch.chdir(tmp_path)

    def run(*words, library=True):
        capsys.readouterr()
        code = main.main([*words, *(["--library", KEEP] if library else [])])
        found = capsys.readouterr()
        assert "Traceback" not in found.err
        return code, found.out, found.err

    return run


def exec(sgd, out: str, *words: str) -> None:
    assert sgd("exec", "w.yaml", "--quiet", "--out", out, *words)[0] == 0


def test_a_replay_is_bit_equal(sgd):
    exec(sgd, "one", "v=3")
    for run in ("one", "one/run.json"):
        code, out, _ = sgd("replay", run, "--quiet", "--out", f"again-{len(run)}")
        assert code == 0
        assert [line.split()[-1] for line in out.splitlines()[:2]] == ["bit-equal", "bit-equal"]
        assert "equal: the run was made again" in out
        assert "differs" not in out
    code, out, _ = sgd("replay", "one/a.keep", "--quiet", "--out", "again")
    assert (code, out.splitlines()[0].split()[1:]) == (0, ["a.keep", "bit-equal"])
    found = json.loads(sgd("replay", "one", "--json", "--quiet", "--out", "j")[1])
    assert (found["equal"], found["differences"], found["folder"]) == (True, [], "j")


def test_a_replay_of_a_run_without_metadata_has_none(sgd):
    exec(sgd, "one", "--no-metadata")
    code, out, _ = sgd("replay", "one", "--quiet", "--out", "again")
    assert (code, out.splitlines()[0].split()[1:]) == (0, ["a.keep", "bit-equal"])
    assert Path("one/a.keep").read_bytes() == Path("again/a.keep").read_bytes()


def test_a_replay_says_what_differs_and_how_near_it_is(sgd):
    exec(sgd, "one")
    Path("data.txt").write_text("other")
    record = json.loads(Path("one/run.json").read_text())
    record["recipe"]["versions"]["pillow"] = "1.0"
    Path("one/run.json").write_text(json.dumps(record))
    data = Path("one/a.keep").read_bytes()
    Path("one/a.keep").write_bytes(data.replace(b"KEEP\n1 ", b"KEEP\n9 "))
    code, out, _ = sgd("replay", "one", "--quiet", "--out", "two")
    assert code == 1
    lines = out.splitlines()
    assert lines[0].split(maxsplit=2) == ["a", "a.keep", "PSNR 30.00 dB"], out
    assert "equal pixels; the bytes of the files differ" in lines[1]
    assert "differs: data.txt has other bytes" in lines
    assert any(line.startswith("differs: pillow: 1.0 then, ") for line in lines)
    assert lines[-2] == "not equal"
    assert sgd("replay", "one", "--quiet", "--out", "three", "--min-psnr", "29")[0] == 0
    assert sgd("replay", "one", "--quiet", "--out", "four", "--min-psnr", "31")[0] == 1


def test_a_replay_has_the_options_that_decide_but_no_permission(sgd):
    exec(sgd, "one")
    record = json.loads(Path("one/run.json").read_text())
    record["recipe"]["options"] = {"loud": True, "allow": True}
    Path("one/run.json").write_text(json.dumps(record))
    code, out, err = sgd("replay", "one", "--quiet", "--out", "two")
    assert code == 0, "the pixels are equal"
    assert "was made with --allow, which is not taken from a recipe" in err
    assert "--loud" not in err
    assert "differs: --allow: only then" in out
    assert Path("two/a.keep").read_bytes().startswith(b"KEEP\n1! ")
    with pytest.raises(SystemExit):
        sgd("replay", "one", "--loud")


def test_a_replay_names_the_library_that_it_needs(sgd):
    exec(sgd, "one")
    code, _, err = sgd("replay", "one", library=False)
    assert code == 2
    assert "one/run.json was made with --library keeping.py" in err


def test_a_replay_of_something_else_is_an_error(sgd, tmp_path):
    exec(sgd, "one")
    assert sgd("replay", "w.yaml")[0] == 2
    assert sgd("replay", "nothing")[0] == 2
    record = json.loads(Path("one/run.json").read_text())
    Path("one/run.json").write_text(json.dumps(record | {"status": "failed", "error": "x"}))
    code, _, err = sgd("replay", "one")
    assert (code, "the run failed, so it has no result" in err) == (2, True)
    Path("one/run.json").write_text(json.dumps(record))
    Path("one/a.keep").unlink()
    code, out, _ = sgd("replay", "one", "--quiet", "--out", "two")
    assert (code, "is no longer there" in out) == (1, True)
    assert "another processor" not in out
    assert out.splitlines()[-2] == "not equal"
    Path("data.txt").unlink()
    code, _, err = sgd("replay", "one", "--quiet", "--out", "three")
    assert code in (1, 2)


def test_runs_lists_what_differs(sgd):
    for number in (1, 2):
        exec(sgd, f"outputs/r{number}", f"v={number}", "note=a  long\x1b[31m note")
    code, out, err = sgd("runs", library=False)
    assert (code, err) == (0, "")
    assert "\x1b" not in out
    rows = [line.split() for line in out.splitlines()]
    assert rows[0] == ["when", "folder", "workflow", "status", "seconds", "device", "differs", "outputs"]
    assert [row[2:5] for row in rows[1:]] == [["r2", "numbers", "done"], ["r1", "numbers", "done"]]
    assert [row[-2:] for row in rows[1:]] == [["v=2.0", "a.keep"], ["v=1.0", "a.keep"]]
    found = json.loads(sgd("runs", "outputs", "--json", library=False)[1])
    assert [each["differing"] for each in found] == [{"v": 2.0}, {"v": 1.0}]
    assert abs(datetime.fromisoformat(found[0]["started"]).timestamp() - time.time()) < 600
    assert sgd("runs", "none", library=False)[0] == 2


def test_runs_fits_the_terminal(sgd, monkeypatch):
    monkeypatch.setattr(list_runs, "stdout_width", lambda: 60)
    for number in (1, 2):
        exec(sgd, f"outputs/a-folder-with-a-long-name-{number}", f"v={number}", "note=a long note of many words")
    code, out, _ = sgd("runs", library=False)
    assert code == 0
    assert max(map(len, out.splitlines())) <= 60
    assert "a-folder-with-a-long-name-1" in out


def test_without_any_run_nothing_is_wrong(sgd):
    code, out, err = sgd("runs", library=False)
    assert (code, out, "does not exist" in err) == (0, "", True)
    assert sgd("runs", "--json", library=False)[1] == "[]\n"
    assert sgd("clean", library=False)[0] == 0
    assert not Path("outputs").exists()


def record(folder: Path, **more) -> Path:
    """The folder of a run with a record."""
    folder.mkdir(parents=True)
    now = datetime.now().astimezone() - timedelta(seconds=60)
    content = {
        "sgd": "0", "record": 1, "workflow": {"name": "w"}, "inputs": {}, "set": {}, "environment": {"device": "cpu"},
        "status": "done", "seconds": 1.0, "outputs": {}, "started": now.isoformat(), **more,
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(content))
    (folder / "out.txt").write_text("output")
    return folder


def killed(folder: Path) -> Path:
    """The folder of a run that was killed."""
    folder.mkdir(parents=True)
    began = datetime.now() - timedelta(seconds=60)
    (folder / JOURNAL).write_text(json.dumps({"sgd journal": 1, "started": f"{began:%Y-%m-%d %H:%M:%S}"}) + "\n")
    (folder / LOCK).touch()
    (folder / TEMPORARY).write_text("half")
    return folder


def test_each_state_is_told(tmp_path):
    record(tmp_path / "done")
    record(tmp_path / "failed", status="failed", error="no")
    killed(tmp_path / "killed")
    (record(tmp_path / "odd") / "run.json").write_text("{")
    (record(tmp_path / "other") / "run.json").write_text('{"record": 1, "status": "x"}')
    held = OutputFolder(tmp_path / "running")
    try:
        found = {run.folder.name: run.state for run in runs_in(tmp_path)}
        assert under_way(tmp_path / "running")
    finally:
        held.release()
    assert found == {
        "done": "done", "failed": "failed", "killed": "killed", "odd": "unreadable", "other": "unreadable",
        "running": "running",
    }  # fmt: skip
    assert not under_way(tmp_path / "done")
    assert not (tmp_path / "done" / LOCK).exists()


@pytest.mark.parametrize(
    "words", [["report"], ["exec"], ["check"], ["replay"], ["diff", "w.yaml"], ["graph", "w.yaml", "--profile"]]
)
def test_a_killed_run_is_said_to_be_killed(sgd, words):
    folder = killed(Path("outputs/killed"))
    code, _, err = sgd(*words, str(folder))
    assert code == 2
    assert "the run in outputs/killed was killed, and left no run.json" in err
    assert "--out outputs/killed --overwrite" in err
    (folder / ".resume").mkdir()
    (folder / ".resume/started.json").write_text("{}")
    code, _, err = sgd(*words, str(folder))
    assert code == 2
    assert "`sgd resume outputs/killed` goes on with it" in err
    with FileLock(folder / LOCK):
        assert "outputs/killed is under way" in sgd(*words, str(folder))[2]


def test_the_gallery_is_a_page_of_plain_text_and_relative_links(sgd):
    evil = "</script><img src=x onerror=alert(1)>\u202e"
    folder = record(Path("outputs/a b"), inputs={"p": evil}, outputs={"o": ["x#1.png", "../../secret.png", "no.png"]})
    record(Path("outputs/c"), status="failed", error=evil, workflow={"name": evil})
    (folder / "x#1.png").write_bytes(b"x")
    Path("secret.png").write_bytes(b"x")
    code, out, _ = sgd("runs", "--html", library=False)
    assert (code, out) == (0, "gallery: outputs/runs.html\n")
    text = Path("outputs/runs.html").read_text(encoding="ascii")
    assert "<img src=x" not in text
    assert "\u202e" not in html.unescape(text)
    assert 'src="./a%20b/x%231.png"' in text
    assert "secret" not in text
    assert "http" not in text.replace("http-equiv", "")
    assert sgd("runs", "--html", library=False)[0] == 0, "an older gallery is replaced"
    Path("mine.html").write_text("mine")
    assert sgd("runs", "--html", "--out", "mine.html", library=False)[0] == 2
    assert Path("mine.html").read_text() == "mine"
    assert sgd("runs", "--out", "x.html", library=False)[0] == 2


def test_clean_removes_leftovers_and_asks_first(sgd, monkeypatch):
    folder = killed(Path("outputs/killed"))
    record(Path("outputs/done"))
    (Path("outputs/done") / LOCK).touch()
    assert sgd("clean", library=False)[0] == 2, "nobody can be asked"
    assert (folder / TEMPORARY).exists()

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    assert sgd("clean", library=False)[:2][0] == 0
    assert (folder / TEMPORARY).exists()
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    code, out, err = sgd("clean", library=False)
    assert code == 0
    assert "4 B  outputs/killed/.sgd-" in out
    assert "remove 3 entries, 4 B? [y/N]" in err
    assert sorted(p.name for p in folder.iterdir()) == [JOURNAL], "the journal still says that a run was killed"
    assert sorted(p.name for p in Path("outputs/done").iterdir()) == ["out.txt", "run.json"]
    assert sgd("clean", library=False)[1] == "nothing to remove\n"


def test_clean_removes_failed_runs_and_never_a_finished_one(sgd):
    done = record(Path("outputs/done"))
    failed = record(Path("outputs/failed"), status="failed", error="x")
    record(Path("outputs/interrupted"), status="interrupted")
    killed(Path("outputs/killed"))
    around = record(Path("outputs/around"), status="failed", error="x")
    record(around / "inner")
    old = record(Path("outputs/old"), status="failed", error="x")
    os.utime(old / "out.txt", (1e9, 1e9))
    (failed / "link").symlink_to(done.resolve())
    held = OutputFolder(Path("outputs/running"))
    try:
        code, out, err = sgd("clean", "--failed", "--yes", library=False)
    finally:
        held.release()
    assert code == 0
    assert "removed 3 of 3 entries" in out
    assert sorted(p.name for p in Path("outputs").iterdir()) == ["around", "done", "old", "running"]
    assert sorted(p.name for p in done.iterdir()) == ["out.txt", "run.json"]
    assert "kept: outputs/around: outputs/around/inner in it is done" in err
    assert "kept: outputs/old: out.txt in it is older than the run" in err


def test_a_run_that_begins_or_ends_meanwhile_stays(tmp_path):
    failed = record(tmp_path / "failed", status="failed", error="x")
    found, _ = leftovers(tmp_path, failed=True)
    assert [each.path for each in found] == [failed]
    held = OutputFolder(failed)
    try:
        assert remove(found[0]) == "a run is under way there"
    finally:
        held.release()
    text = (failed / "run.json").read_text().replace('"failed"', '"done"')
    (failed / "run.json").write_text(text)
    assert remove(found[0]) == "a run finished there meanwhile"
    assert sorted(p.name for p in failed.iterdir()) == ["out.txt", "run.json"]
