"""`sgd resume`: runs that were interrupted, killed, damaged or changed. The nodes use no torch."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from sgd.graph.cli.main import main
from sgd.graph.contract.array_storage import StoredArray
from sgd.graph.resume.snapshot_file import Damaged, Snapshot, read
from sgd.graph.resume.snapshot_folder import SnapshotFolder
from sgd.graph.runtime import stored_steps
from sgd.graph.runtime.resume_checks import changed_code
from sgd.graph.runtime.run_snapshots import RunSnapshots
from sgd.graph.store import keys
from sgd.graph.store.entries import FolderStore
from sgd.graph.store.fingerprints import codes_of, forget_code

NODES = """
import time
from dataclasses import dataclass
from pathlib import Path
from sgd.graph.contract.node import OutPath, Run, State, node
from sgd.graph.contract.ports import Port

@dataclass(frozen=True)
class Number(Port):
    value: int

class Sum(State):
    def __init__(self):
        self.sum = 0
    def snapshot(self):
        return self.sum
    def restore(self, snapshot, run):
        self.sum = snapshot

@node("slow.read")
def read(run: Run, *, file: Path) -> Number:
    "Reads a number."
    return Number(int(file.read_text()))

@node("slow.add")
def add(number: Number, state: Sum, run: Run, *, index: str, at: int = -1) -> Number:
    "Adds up; waits for ever at one turn, unless a file `go` is there."
    while int(index) == at and not run.planning and not Path("go").exists():
        Path("waiting").touch()
        time.sleep(0.01)
    if at >= 0 and not run.planning and not Path("go").exists():
        time.sleep(0.2)  # the thread that writes snapshots begins beside the first turn, not after the last
    run.event("sum", turn=int(index))
    state.sum += number.value
    return Number(state.sum)

@node("slow.times")
def times(number: Number, *, file: Path) -> Number:
    "Multiplies by a number in a file."
    return Number(number.value * int(file.read_text()))

@node("slow.write", effect=True)
def write(number: Number, run: Run, *, path: OutPath = Path("out.txt")) -> Path:
    "Writes the number."
    target = run.output(path)
    target.write_text(str(number.value))
    return target
"""
FLOW = """
sgd: 1
inputs: {at: {type: int, default: -1}, file: {type: path}}
nodes:
  read: {uses: slow.read, with: {file: $file}}
  sum:
    for: {i: [1, 2, 3, 4, 5, 6]}
    carry: {n: $read}
    body: {add: {uses: slow.add, with: {number: $n, at: $at, index: "${index}"}}}
    yield: {n: $add}
  times: {uses: slow.times, with: {number: $sum, file: three.txt}}
  write: {uses: slow.write, with: {number: $times}}
outputs: {out: $write}
"""
EXPECTED = str(3 * 7 * 2**5)  # each turn adds the sum of all before
LIBRARY = ("--library", "nodes.py")
# The command, which writes a snapshot whenever there is a new turn, however long the disk takes.
HASTY = (
    "import sys; from sgd import entry; from sgd.graph.resume import keeper; keeper.SHARE = 1e9; sys.exit(entry.main())"
)


def prepare(folder: Path) -> None:
    (folder / "nodes.py").write_text(NODES)
    (folder / "w.yaml").write_text(FLOW)
    (folder / "seven.txt").write_text("7")
    (folder / "three.txt").write_text("3")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ended(folder: Path, number: int, *more: str) -> tuple[int, str]:
    """Ends a run in its turn 4 with a signal, when there are two snapshots. Gives its exit code and stderr.

    more: Further words of its command line.
    """
    words = [sys.executable, "-c", HASTY, "exec", "w.yaml", "at=4", "file=seven.txt", "--out", "run", "--quiet"]
    words += [*LIBRARY, "--snapshot-every", "0", *more]

    def hear() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, cwd=folder, preexec_fn=hear)  # noqa: PLW1509
    until = time.monotonic() + 60
    while not (folder / "waiting").exists() or len(list((folder / "run/.resume").glob("snapshot-*"))) != 2:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until, "there are no two snapshots"
        time.sleep(0.01)
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=60)
    (folder / "go").touch()
    return process.returncode, err


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, int, str]:
    """A run that was interrupted, and a copy of its folder."""
    folder = tmp_path_factory.mktemp("cut") / "here"
    folder.mkdir()
    prepare(folder)
    code, err = ended(folder, signal.SIGINT)
    shutil.copytree(folder, folder.with_name("copy"))
    return folder, folder.with_name("copy"), code, err


@pytest.fixture
def cut(interrupted: tuple[Path, Path, int, str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """The interrupted run, as it was, in the current folder; its exit code and stderr."""
    folder, copy, code, err = interrupted
    shutil.rmtree(folder)
    shutil.copytree(copy, folder)
    monkeypatch.chdir(folder)
    return code, err


def snapshots() -> list[Path]:
    return sorted(Path("run/.resume").glob("snapshot-*.safetensors"))


def resumed(*words: str) -> int:
    return main(["resume", "run", "--quiet", *words])


def calls(name: str) -> tuple[int, int]:
    rows: list[dict[str, Any]] = json.loads(Path("run/run.json").read_text())["nodes"]
    row = next(row for row in rows if row["name"] == name)
    return row["calls"], row.get("resumed_calls", 0)


def test_an_interrupted_run_goes_on_after_its_last_turn(cut: tuple[int, str]) -> None:
    code, err = cut
    assert code == 3
    assert err.count("\n") == 1
    assert err.rstrip().endswith("go on with: sgd resume run --library nodes.py")
    assert resumed(*LIBRARY) == 0
    assert Path("run/out.txt").read_text() == EXPECTED
    assert calls("sum.add") == (2, 4)
    assert calls("read") == (0, 1)
    assert calls("write") == (1, 0)
    record = json.loads(Path("run/run.json").read_text())
    assert [step.get("resumed", False) for step in record["steps"]] == [True] * 4 + [False] * 2
    assert [step["turn"] for step in record["steps"]] == list(range(6))
    assert sorted(path.name for path in Path("run").iterdir()) == ["out.txt", "run.json"]


def test_the_rest_of_a_run_can_be_traced(cut: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, library = Path("run").absolute(), Path("nodes.py").absolute()
    monkeypatch.chdir(tmp_path)  # paths on this command line are relative to its own folder
    assert main(["resume", str(run), "--quiet", "--library", str(library), "--trace", "t.json"]) == 0
    assert (run / "out.txt").read_text() == EXPECTED
    events = json.loads(Path("t.json").read_text())["traceEvents"]
    assert sum(each.get("name", "").endswith("add") and each["ph"] == "X" for each in events) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_was_ended_goes_on(here: Path, number: int) -> None:
    code, _ = ended(here, number)
    assert code == (-signal.SIGKILL if number == signal.SIGKILL else 3)
    assert Path("run/run.json").exists() == (number == signal.SIGTERM)
    assert resumed(*LIBRARY) == 0
    assert Path("run/out.txt").read_text() == EXPECTED
    assert sum(calls("sum.add")) == 6
    assert number == signal.SIGKILL or calls("sum.add") == (2, 4)
    assert json.loads(Path("run/run.json").read_text())["warnings"] == []


@pytest.mark.parametrize("damage", ["short", "bit", "empty"])
def test_a_damaged_snapshot_is_told_and_the_one_before_is_used(
    cut: Any, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    *before, last = snapshots()
    data = bytearray(last.read_bytes())
    data[len(data) // 2] ^= 1
    last.write_bytes({"short": data[: len(data) // 2], "bit": data, "empty": b""}[damage])
    assert resumed(*LIBRARY) == 0
    told = next(line for line in capsys.readouterr().err.splitlines() if last.name in line)
    reason = {"short": "cut off", "bit": "damaged: its h", "empty": "cut off"}[damage]
    assert told.startswith(f"warning: {Path('run').absolute()}/.resume/{last.name} is {reason}")
    assert json.loads(Path("run/run.json").read_text())["warnings"] == [told.removeprefix("warning: ")]
    assert Path("run/out.txt").read_text() == EXPECTED
    assert calls("sum.add")[1] < 4 if before else calls("sum.add") == (6, 0)


def test_a_damaged_header_is_told_in_words(tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    for header in (b"{}      ", b"no json "):
        path.write_bytes(len(header).to_bytes(8, "little") + header)
        with pytest.raises(Damaged, match=r"is damaged: its header cannot be read$"):
            read(path)


def test_a_touched_file_is_no_reason_beside_another(cut: Any, capsys: pytest.CaptureFixture[str]) -> None:
    begun = Path("run/.resume/started.json")
    started = json.loads(begun.read_text())
    for state in started["reads"]:  # no hash of it was remembered when the run began
        state["sha256"] = None
    begun.write_text(json.dumps(started))
    os.utime("seven.txt")
    CHANGES["workflow"][0]()
    assert resumed(*LIBRARY) == 2
    err = capsys.readouterr().err
    assert "w.yaml has changed" in err
    assert "seven.txt" not in err


def test_without_a_whole_snapshot_it_begins_at_its_first_node(cut: Any) -> None:
    for each in snapshots():
        each.write_bytes(b"no")
    assert resumed(*LIBRARY) == 0
    assert Path("run/out.txt").read_text() == EXPECTED
    assert calls("sum.add") == (6, 0)


def edit(file: str, text: str) -> Callable[[], None]:
    def change() -> None:
        Path(file).write_text(text)

    return change


CHANGES = {
    "input": (edit("seven.txt", "8"), "seven.txt has "),
    "later": (edit("three.txt", "4"), "three.txt has changed"),
    "gone": (lambda: Path("seven.txt").unlink(), "seven.txt"),
    "workflow": (edit("w.yaml", FLOW.replace("[1, 2, 3", "[1, 2, 9")), "w.yaml has changed"),
    "library": (edit("nodes.py", NODES + "\n"), "--library nodes.py has changed"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_refused_with_the_reason(cut: Any, capsys: pytest.CaptureFixture[str], name: str) -> None:
    change, reason = CHANGES[name]
    change()
    assert resumed(*LIBRARY) == 2
    err = capsys.readouterr().err
    assert reason in err
    assert "help: " in err
    assert snapshots()


def test_another_version_of_a_package_is_refused(cut: Any, capsys: pytest.CaptureFixture[str]) -> None:
    begun = Path("run/.resume/started.json")
    started = json.loads(begun.read_text())
    started["recipe"]["versions"]["sgd"] = "0.0.9"
    begun.write_text(json.dumps(started))
    assert resumed(*LIBRARY) == 2
    assert "sgd: 0.0.9 then, " in capsys.readouterr().err


def test_other_code_of_a_node_is_refused(cut: Any, capsys: pytest.CaptureFixture[str]) -> None:
    begun = Path("run/.resume/started.json")
    started = json.loads(begun.read_text())
    assert list(started["code"]) == ["nodes.py"]
    started["code"] |= dict.fromkeys(started["code"], "0" * 64)
    begun.write_text(json.dumps(started))
    assert resumed(*LIBRARY) == 2
    assert "the Python code of nodes.py has changed" in capsys.readouterr().err


def test_the_code_of_a_package_is_that_of_all_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "slow_pack"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "nodes.py").write_text(NODES)
    (package / "helper.py").write_text("FACTOR = 1")
    monkeypatch.syspath_prepend(tmp_path)
    types = [import_module("slow_pack.nodes").add.node, import_module("sgd.nodes.schedule").make.node]
    before = codes_of(types)
    assert set(before) == {"slow_pack", "sgd.nodes"}
    (package / "helper.py").write_text("FACTOR = 2")
    forget_code()
    assert changed_code(before, codes_of(types)) == ["the Python code of slow_pack has changed"]


def entries(store: str) -> dict[str, Any]:
    """The stored results of loops and `times`, by key, without times."""
    found = {}
    for file in Path(store).glob("*.safetensors"):
        content = dict(read(file).content)
        content["steps"] = [{n: v for n, v in each.items() if "seconds" not in n} for each in content["steps"]]
        for each in content["steps"]:
            each.pop("start", None)
        content["used"] = [{**each, "sha256": None} for each in content["used"]]  # perhaps hashed later
        found[file.stem] = {name: value for name, value in content.items() if name not in ("made", "seconds")}
    return {key: each for key, each in found.items() if each["type"] != "slow.read"}


EXEC = ("exec", "w.yaml", "file=seven.txt", "--quiet", *LIBRARY)


@pytest.fixture
def keen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every result is kept, even if writing it takes longer than making it."""
    monkeypatch.setattr(stored_steps, "COST", -1)
    monkeypatch.setattr(FolderStore, "drop", lambda *_: None)


def test_the_store_has_what_an_uninterrupted_run_would_store(here: Path, keen: None) -> None:
    assert main([*EXEC, "--out", "before", "--store", "cut"]) == 0
    before = entries("cut")
    ended(here, signal.SIGINT, "--store", "cut")
    assert entries("cut") == before
    assert resumed(*LIBRARY) == 0
    record = json.loads(Path("run/run.json").read_text())
    row = next(row for row in record["nodes"] if row["name"] == "read")
    assert (row["calls"], row["reused"], row["saved_seconds"] >= 0) == (0, True, True)
    assert main([*EXEC, "at=4", "--out", "second", "--store", "whole"]) == 0
    whole = entries("whole")
    assert sorted(each["type"] for each in whole.values()) == ["loop", "slow.times"]
    assert {key: each for key, each in entries("cut").items() if key not in before} == whole
    assert main([*EXEC, "at=4", "--out", "last", "--store", "cut"]) == 0
    record = json.loads(Path("last/run.json").read_text())
    row = next(row for row in record["nodes"] if row["name"] == "sum")
    assert row["reused"] is True
    assert row["saved_seconds"] > 0.8  # most of it before the interrupt
    assert [each["turn"] for each in record["sums"]] == list(range(6))
    assert Path("last/out.txt").read_text() == EXPECTED


def test_results_of_two_machines_are_not_stored(here: Path, keen: None, monkeypatch: pytest.MonkeyPatch) -> None:
    ended(here, signal.SIGINT, "--store", "cut")
    monkeypatch.setattr(keys, "machine", lambda _: "another processor")
    assert resumed(*LIBRARY) == 0
    assert entries("cut") == {}


def test_a_loop_that_begins_again_is_not_stored(here: Path, keen: None, monkeypatch: pytest.MonkeyPatch) -> None:
    ended(here, signal.SIGINT, "--store", "cut")
    monkeypatch.setattr(RunSnapshots, "lost", "sum")
    assert resumed(*LIBRARY) == 0
    assert [each["type"] for each in entries("cut").values()] == ["slow.times"]


def test_a_library_must_be_given_again(cut: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert resumed() == 2
    assert "the run was started with --library nodes.py" in capsys.readouterr().err


def test_there_is_nothing_to_go_on_with(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["exec", "w.yaml", "file=seven.txt", "--out", "run", "--quiet", *LIBRARY]) == 0
    assert not Path("run/.resume").exists()
    for folder, reason in (("run", "is finished"), ("none", "is not a folder"), (".", "holds no run")):
        assert main(["resume", folder]) == 2
        assert reason in capsys.readouterr().err


def test_a_broken_start_is_an_error_in_words(cut: Any, capsys: pytest.CaptureFixture[str]) -> None:
    begun = Path("run/.resume/started.json")
    for text, reason in (
        ("{", "started.json:1"),
        ('{"resume": 1}', "version 1"),
        ('{"resume": 2}', "damaged"),
        ("[]", "how"),
    ):
        begun.write_text(text)
        assert resumed(*LIBRARY) == 2
        assert reason in capsys.readouterr().err


def test_a_full_disk_is_a_warning_and_keeps_the_snapshot_before(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sgd.graph.resume import snapshot_file

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(snapshot_file, "write", full)
    # No turn 9: each turn takes a while, so that a snapshot is due before the end.
    words = ["exec", "w.yaml", "file=seven.txt", "at=9", "--out", "run", "--quiet", "--snapshot-every", "0", *LIBRARY]
    assert main(words) == 0
    record = json.loads(Path("run/run.json").read_text())
    assert [text for text in record["warnings"] if "No space left on device" in text]
    assert Path("run/out.txt").read_text() == EXPECTED


def test_a_process_that_is_killed_while_it_writes_a_snapshot_leaves_the_one_before(tmp_path: Path) -> None:
    folder = SnapshotFolder(tmp_path)
    folder.begin({})

    def snapshot(size: int) -> Snapshot:
        return Snapshot({"size": size}, [(0, StoredArray("U8", (size,), bytes(size), {}))])

    folder.add(snapshot(8))
    child = os.fork()
    if not child:
        try:
            for _ in range(50):
                folder.add(snapshot(64 << 20))
        finally:
            os._exit(0)
    until = time.monotonic() + 30
    while not list(folder.path.glob(".sgd-*.part")) and time.monotonic() < until:
        time.sleep(0.0005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    found = [each for _, each in folder.snapshots()]
    assert found
    assert all(isinstance(each, Snapshot) for each in found)


def test_a_disk_that_is_full_in_the_middle_of_a_snapshot_keeps_the_one_before(tmp_path: Path) -> None:
    """A file that may not grow stands for a full disk."""
    folder = SnapshotFolder(tmp_path)
    folder.begin({})
    kept = Snapshot({"number": 1}, [])
    folder.add(kept)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            folder.add(Snapshot({"number": 2}, [(0, StoredArray("U8", (5000,), bytes(5000), {}))]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [each.content for _, each in folder.snapshots() if isinstance(each, Snapshot)] == [{"number": 1}]
    assert sorted(path.name for path in folder.path.iterdir()) == ["snapshot-000001.safetensors", "started.json"]


@pytest.mark.parametrize("words", [["-1"], ["nan"], ["soon"], ["inf"]])
def test_bad_seconds(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["exec", "quickstart", "--snapshot-every", *words])
    assert "is no number of seconds" in capsys.readouterr().err or words == ["-1"]
