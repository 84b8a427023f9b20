"""A store that several processes share, and processes that are killed. The oracles: bytes, and errors of the system."""

from __future__ import annotations

import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.slow_nodes import CHAIN, Run, started
from sgd.graph.contract.array_storage import StoredArray
from sgd.graph.resume.snapshot_file import Snapshot
from sgd.graph.store.entries import LEFT_OVER, LOCK, FolderStore

__all__ = ["started"]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork")

KEY = "a" * 64


def entry(size: int, value: int = 7) -> Snapshot:
    return Snapshot({"ports": {}}, [(0, StoredArray("U8", (size,), bytes([value]) * size, {}))])


def forked(work: Callable[[], None]) -> int:
    """Do some work in a child process; its number."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)


def parts(folder: Path) -> list[Path]:
    return list(folder.glob(".sgd-*.part"))


def test_a_process_that_is_killed_while_it_writes_leaves_no_entry(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    store.write(KEY, entry(8))

    def write() -> None:
        other = FolderStore(tmp_path / "store")
        while True:
            other.write("b" * 64, entry(64 << 20))
            other.drop("b" * 64)

    killed_in_a_write = False
    for _ in range(20):
        child = forked(write)
        until = time.monotonic() + 10
        while not parts(store.folder) and time.monotonic() < until:
            time.sleep(0.001)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if parts(store.folder):
            killed_in_a_write = True
            break
    assert killed_in_a_write
    found = store.read("b" * 64)  # an earlier round may have ended; half of one is never there
    assert found is None or len(found.arrays[0][1].data) == 64 << 20
    assert store.read(KEY) is not None
    (part,) = parts(store.folder)
    store.prune(1 << 40)
    assert part.exists()  # its process may be at work
    os.utime(part, (time.time() - 2 * LEFT_OVER,) * 2)
    store.prune(1 << 40)
    assert not part.exists()


def test_two_processes_write_and_read_one_entry(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store", largest=1 << 20)

    def write(value: int) -> Callable[[], None]:
        def work() -> None:
            other = FolderStore(tmp_path / "store", largest=1 << 20)
            for _ in range(60):
                other.write(KEY, entry(100_000, value))

        return work

    children = [forked(write(1)), forked(write(2))]
    seen: set[int] = set()
    left = set(children)
    while left:
        for child in tuple(left):
            done, code = os.waitpid(child, os.WNOHANG)
            if done:
                assert os.waitstatus_to_exitcode(code) == 0
                left.discard(child)
        found = store.read(KEY)  # raises `Damaged` for a mixture
        if found is not None:
            data = bytes(found.arrays[0][1].data)
            assert data in (b"\1" * 100_000, b"\2" * 100_000)
            seen.add(data[0])
    assert seen
    assert [each.key for each in store.listed()] == [KEY]
    assert not parts(store.folder)


@pytest.fixture
def read_only(started: Run) -> Iterator[Path]:
    """A folder with results that this process, which is root's no longer, may only read."""
    is_root = os.geteuid() == 0
    base = Path(tempfile.mkdtemp())
    base.chmod(0o755)
    folder = base / "store"
    started(CHAIN, folder)
    if is_root:
        for path in (folder, *folder.iterdir()):
            os.chown(path, 65534, 65534)
    folder.chmod(0o500)
    yield folder
    folder.chmod(0o700)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    base.rmdir()


def test_a_store_that_can_only_be_read_is_read(read_only: Path, tmp_path: Path, started: Run) -> None:
    if os.geteuid() == 0:
        os.seteuid(65534)
    try:
        store = FolderStore(read_only)
        assert store.listed()
        assert all(store.read(each.key) is not None for each in store.listed())
        with pytest.raises(OSError, match="Permission denied"):
            store.write(KEY, entry(8))
        store.drop(store.listed()[0].key)
    finally:
        os.seteuid(os.getuid())
    assert len(store.listed()) == 2


def test_a_run_goes_on_where_entries_cannot_be_written(
    tmp_path: Path, started: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that may not grow stands for a full disk: the write ends in the middle with an error of the system."""
    store = FolderStore(tmp_path / "store")
    monkeypatch.setattr(store, "prune", lambda largest: [])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    write = FolderStore.write

    def limited(self: FolderStore, key: str, what: Snapshot) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        try:
            write(self, key, what)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    monkeypatch.setattr(FolderStore, "write", limited)
    done, calls = started(CHAIN, store)
    assert calls == ["number abc", "double", "save"]
    assert any("results are not stored: File too large" in text for text in done.record["warnings"])
    assert {path.name for path in store.folder.iterdir()} <= {LOCK, ".sgd-store"}


def test_a_lock_that_another_process_holds_stops_no_write(tmp_path: Path) -> None:
    import fcntl

    store = FolderStore(tmp_path / "store")
    with open(tmp_path / "store" / LOCK, "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        child = forked(lambda: FolderStore(tmp_path / "store").write(KEY, entry(8)))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.read(KEY) is not None
