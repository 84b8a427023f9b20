"""SHA-256 of files: every byte, remembered while nothing of the file changed, hashed beside the run."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from sgd.graph.compiler.plan import Plan
from sgd.graph.contract.user_cache import user_cache
from sgd.graph.language.recipe import Recipe, RecipeFile
from sgd.graph.runtime import file_hashes
from sgd.graph.runtime.file_hashes import Stopped, sha256_of
from sgd.graph.runtime.used_files import UsedFiles


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "sgd"


def aged(path: Path, data: bytes, seconds: float = 10.0) -> Path:
    """A file whose clock says that it changed some time ago; its ctime is real, so tests lower `SETTLED`."""
    path.write_bytes(data)
    moment = time.time() - seconds
    os.utime(path, (moment, moment))
    return path


def reads(monkeypatch, path: Path) -> list[int]:
    """The sizes of the blocks that are hashed from now on."""
    found: list[int] = []
    assert sha256_of(path, advance=found.append)
    return found


def is_known(path: Path) -> bool:
    with_stop = [False]

    def stop() -> bool:
        with_stop[0] = True
        return False

    sha256_of(path, stop)
    return not with_stop[0]


@pytest.mark.parametrize("size", [0, 1, file_hashes.BLOCK, file_hashes.BLOCK + 7])
def test_it_is_the_hash_of_every_byte(tmp_path, size):
    data = os.urandom(size)
    (tmp_path / "f").write_bytes(data)
    assert sha256_of(tmp_path / "f") == hashlib.sha256(data).hexdigest()


def test_a_hash_is_remembered_while_the_file_is_the_same(tmp_path, monkeypatch, cache):
    monkeypatch.setattr(file_hashes, "SETTLED", -1.0)
    file = aged(tmp_path / "f", b"one")
    assert not is_known(file)
    assert is_known(file)
    (tmp_path / "link").symlink_to(file)
    assert is_known(tmp_path / "link"), "a link is the file that it leads to"
    before = file.stat()
    file.write_bytes(b"two")  # the same size
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # and the same time: the ctime tells
    assert not is_known(file)
    assert sha256_of(file) == hashlib.sha256(b"two").hexdigest()
    other = aged(tmp_path / "g", b"one")
    other.replace(file)
    assert not is_known(file)
    assert oct(cache.stat().st_mode & 0o777) == "0o700"


def test_a_file_that_changed_just_now_is_not_remembered(tmp_path):
    (tmp_path / "f").write_bytes(b"new")
    sha256_of(tmp_path / "f")
    assert not is_known(tmp_path / "f")


def test_the_memory_is_bounded(tmp_path, monkeypatch, cache):
    monkeypatch.setattr(file_hashes, "SETTLED", -1.0)
    monkeypatch.setattr(file_hashes, "MOST", 3)
    for number in range(6):
        sha256_of(aged(tmp_path / f"f{number}", b"x"))
    memory = sqlite3.connect(cache / "file-hashes.sqlite")
    assert memory.execute("SELECT count(*) FROM hashes").fetchone() == (3,)
    assert is_known(tmp_path / "f5")
    assert not is_known(tmp_path / "f0")


@pytest.mark.parametrize(
    "damage", [b"not a database, but long enough to be read as the head of one" * 20, b"SQLite format 3\0"]
)
def test_a_damaged_memory_is_made_again(tmp_path, monkeypatch, cache, damage):
    monkeypatch.setattr(file_hashes, "SETTLED", -1.0)
    cache.mkdir(parents=True)
    (cache / "file-hashes.sqlite").write_bytes(damage)
    file = aged(tmp_path / "f", b"x")
    for _ in range(3):
        assert sha256_of(file) == hashlib.sha256(b"x").hexdigest()
    assert is_known(file)


def test_without_a_cache_folder_files_are_hashed(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "f"))
    (tmp_path / "f").write_bytes(b"x")
    assert user_cache() is None
    assert sha256_of(tmp_path / "f") == hashlib.sha256(b"x").hexdigest()


def test_several_processes_share_the_memory(tmp_path, monkeypatch, cache):
    monkeypatch.setattr(file_hashes, "SETTLED", -1.0)
    files = [aged(tmp_path / f"f{number}", bytes([number])) for number in range(30)]
    code = (
        "import sys; from pathlib import Path; from sgd.graph.runtime import file_hashes as f; f.SETTLED = -1.0\n"
        "for _ in range(3):\n for p in sys.argv[1:]: print(f.sha256_of(Path(p)))"
    )
    jobs = [
        subprocess.Popen([sys.executable, "-c", code, *map(str, files)], stdout=subprocess.PIPE, text=True)
        for _ in "ab"
    ]
    expected = [hashlib.sha256(bytes([number])).hexdigest() for number in range(30)] * 3
    assert [job.communicate(timeout=60)[0].split() for job in jobs] == [expected, expected]
    assert all(is_known(file) for file in files)


def test_hashing_can_be_stopped(tmp_path):
    (tmp_path / "f").write_bytes(bytes(10))
    with pytest.raises(Stopped):
        sha256_of(tmp_path / "f", lambda: True)


def test_a_file_that_changes_while_it_is_read_has_no_hash(tmp_path):
    file = tmp_path / "f"
    file.write_bytes(bytes(10))

    def change(_: int) -> None:
        file.write_bytes(bytes(20))

    with pytest.raises(ValueError, match="changed while"):
        sha256_of(file, advance=change)


def used(warnings: list[str], **more) -> UsedFiles:
    plan = Plan("p", (), {}, recipe=Recipe((RecipeFile(name="w.yaml", text="x"),)))
    return UsedFiles(plan, "cpu", {}, more.pop("in_files", True), warnings.append)


def test_files_are_hashed_beside_the_run_and_noted_once(tmp_path, monkeypatch):
    release, threads = threading.Event(), set()

    def slow(path, stop, advance):
        threads.add(threading.current_thread())
        assert release.wait(10)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    monkeypatch.setattr("sgd.graph.runtime.used_files.sha256_of", slow)
    (tmp_path / "a").write_bytes(b"a")
    files = used([])
    began = time.monotonic()
    for _ in range(3):
        files.note(tmp_path / "a", "weights", "m", "part/a", None)
    files.note(tmp_path / "a", "weights", None, None, "0" * 64)
    files.note(tmp_path / "none", "weights", None, None, None)
    assert time.monotonic() - began < 5, "noting does not wait"
    assert files.recipe().used["weights"][0].sha256 is None
    threading.Timer(0.3, release.set).start()
    found = files.text(lambda: False, lambda *_: None)
    assert hashlib.sha256(b"a").hexdigest() in found
    assert threading.current_thread() not in threads
    recipe = files.finished(lambda: False)
    assert recipe["weights"] == [{"source": "m", "name": "part/a", "sha256": hashlib.sha256(b"a").hexdigest()}]


def test_an_ended_run_waits_for_no_hash(tmp_path, monkeypatch):
    def endless(path, stop, advance):
        while not stop():
            time.sleep(0.01)
        raise Stopped

    monkeypatch.setattr("sgd.graph.runtime.used_files.sha256_of", endless)
    (tmp_path / "a").write_bytes(b"a")
    files = used([])
    files.note(tmp_path / "a", "weights", None, None, None)
    recipe = files.finished(lambda: True)
    assert recipe["weights"] == [{"name": "a", "sha256": None}]
    files.note(tmp_path / "a", "later", None, None, None)
    assert "later" not in files.recipe().json()


def test_a_file_that_cannot_be_hashed_gives_a_warning(tmp_path, monkeypatch):
    def unreadable(path, stop, advance):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("sgd.graph.runtime.used_files.sha256_of", unreadable)
    (tmp_path / "a").write_bytes(b"a")
    warnings: list[str] = []
    files = used(warnings)
    files.note(tmp_path / "a", "weights", None, None, None)
    assert files.finished(lambda: False)["weights"] == [{"name": "a", "sha256": None}]
    assert warnings == ["the recipe lacks the hash of a: Input/output error"]


def test_without_metadata_no_file_waits(tmp_path):
    (tmp_path / "a").write_bytes(b"a")
    files = used([], in_files=False)
    files.note(tmp_path / "a", "weights", None, None, None)
    assert files.text(lambda: False, lambda *_: None) is None
    assert files.finished(lambda: False)["weights"][0]["sha256"] == hashlib.sha256(b"a").hexdigest()
