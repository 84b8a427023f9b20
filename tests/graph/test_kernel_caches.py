"""Caches of compiled kernels: their places, who may remove them, `sgd doctor` and `sgd clean --kernels`."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from sgd.graph.cli.main import main
from sgd.graph.contract import kernel_caches
from sgd.graph.contract.kernel_caches import KernelCache
from sgd.graph.contract.node_library import NodeLibrary
from sgd.graph.language.registry import standard

VARIABLES = {
    "TRITON_CACHE_DIR": "triton",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "CUTE_DSL_CACHE_DIR": "cute",
    "FLASH_ATTENTION_CUTE_DSL_CACHE_DIR": "flash-attention-4",
}


@pytest.fixture
def root(monkeypatch, tmp_path):
    """The folder of kernels in an empty cache folder; the environment names no cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in (*VARIABLES, "TRITON_CACHE_AUTOTUNING"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(kernel_caches, "_set", {})
    monkeypatch.setattr(kernel_caches, "_locks", {})
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "cache" / "sgd" / "kernels"
    for descriptor in kernel_caches._locks.values():
        os.close(descriptor)


def libraries() -> list[NodeLibrary]:
    return list(standard().libraries.values())


def fill(root: Path) -> None:
    for name in ("triton", "attention"):
        (root / name / "a").mkdir(parents=True)
        (root / name / "a" / "kernel").write_bytes(b"12345")


def python(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_the_environment_names_folders_in_the_cache(root):
    kernel_caches.prepare(libraries())
    assert {name: os.environ[name] for name in VARIABLES} == {n: str(root / f) for n, f in VARIABLES.items()}
    assert os.environ["TRITON_CACHE_AUTOTUNING"] == "1"
    assert stat.S_IMODE(root.stat().st_mode) == 0o700


def test_a_setting_of_the_user_wins(root, monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "mine"))
    monkeypatch.setenv("TRITON_CACHE_AUTOTUNING", "0")
    kernel_caches.prepare(libraries())
    assert os.environ["TRITON_CACHE_DIR"] == str(tmp_path / "mine")
    assert os.environ["TRITON_CACHE_AUTOTUNING"] == "0"
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(root / "inductor")
    triton, inductor, *_ = kernel_caches.caches_of(libraries())
    assert (triton.place(), inductor.place()) == (tmp_path / "mine", root / "inductor")


def test_another_cache_folder_moves_what_sgd_named(root, monkeypatch, tmp_path):
    kernel_caches.prepare(libraries())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    kernel_caches.prepare(libraries())
    assert os.environ["TRITON_CACHE_DIR"] == str(tmp_path / "other" / "sgd" / "kernels" / "triton")


def test_a_folder_that_others_may_write_is_closed_and_a_link_is_not_used(root):
    root.mkdir(parents=True, mode=0o777)
    root.chmod(0o777)
    assert kernel_caches.kernels_folder() == root
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    root.rename(root.with_name("elsewhere"))
    root.symlink_to(root.with_name("elsewhere"))
    assert kernel_caches.kernels_folder() is None
    kernel_caches.prepare(libraries())
    assert "TRITON_CACHE_DIR" not in os.environ


def test_without_a_cache_folder_the_environment_stays(root, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nothing")
    kernel_caches.prepare(libraries())
    assert not set(VARIABLES) & set(os.environ)


def test_torch_is_not_imported_before_the_places_are_named(root):
    code = (
        "import sys, os; from sgd.graph.contract import kernel_caches; seen = []; real = kernel_caches.prepare\n"
        "def prepare(libraries):\n"
        "    seen.append('torch' in sys.modules or 'triton' in sys.modules); real(libraries)\n"
        "kernel_caches.prepare = prepare\n"
        "from sgd.graph.cli.main import main\n"
        "assert main(['exec', 'quickstart', 'steps=1', '--out', 'o', '--quiet', '--device', sys.argv[1]]) == 0\n"
        "import json; print(json.dumps([seen[0], os.environ['TORCHINDUCTOR_CACHE_DIR']]))"
    )
    ran = subprocess.run([sys.executable, "-c", code, "auto"], capture_output=True, text=True, check=True)
    assert json.loads(ran.stdout.splitlines()[-1]) == [False, str(root / "inductor")]


def test_doctor_shows_each_cache(root, monkeypatch, capsys):
    fill(root)
    monkeypatch.setenv("CUTE_DSL_CACHE_DIR", str(root.parent))
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["Kernels"]
    assert found["Triton"] == f"{root / 'triton'}, 5 B, 1 entry"
    assert found["torch.compile"] == f"{root / 'inductor'}, 0 B, 0 entries"
    assert found["CuTe"].startswith(f"{root.parent} (CUTE_DSL_CACHE_DIR), 10 B, ")
    assert found["attention choices"] == f"{root / 'attention'}, 5 B, 1 entry"


def test_clean_removes_kernels_only_when_asked(root, capsys):
    fill(root)
    assert main(["clean"]) == 0
    assert main(["clean", "--kernels"]) == 2, "nobody can be asked"
    assert (root / "triton" / "a" / "kernel").exists()
    capsys.readouterr()
    assert main(["clean", "--kernels", "--yes"]) == 0
    out = capsys.readouterr().out
    assert f"5 B  {root / 'triton'}" in out
    assert "removed 2 of 2 entries, 10 B" in out
    assert [path.name for path in root.iterdir()] == [kernel_caches.LOCK]
    assert main(["clean", "--kernels", "--yes"]) == 0
    assert capsys.readouterr().out == "nothing to remove\n"


def test_clean_keeps_a_folder_that_the_environment_names(root, monkeypatch, tmp_path, capsys):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "kernel").touch()
    monkeypatch.setenv("TRITON_CACHE_DIR", str(mine))
    assert main(["clean", "--kernels", "--yes"]) == 0
    assert f"kept: {mine}: TRITON_CACHE_DIR names it, so it is not sgd's" in capsys.readouterr().err
    assert (mine / "kernel").exists()


def test_kernels_that_a_process_uses_stay(root, capsys):
    fill(root)
    code = (
        "from sgd.graph.contract import kernel_caches; from sgd.graph.language.registry import standard;"
        "kernel_caches.prepare(standard().libraries.values()); print('ready', flush=True); input()"
    )
    users = [python(code) for _ in range(2)]
    for user in users:
        assert user.stdout is not None
        assert user.stdout.readline() == "ready\n"
    assert main(["clean", "--kernels", "--yes"]) == 1
    captured = capsys.readouterr()
    assert f"{root / 'triton'} was not removed: a process that uses it is at work" in captured.err
    assert (root / "triton" / "a" / "kernel").exists()
    for user in users:
        user.communicate("\n")
        assert user.returncode == 0
    assert main(["clean", "--kernels", "--yes"]) == 0


def test_caches_of_several_libraries_stand_once() -> None:
    one, other = NodeLibrary(), NodeLibrary()
    one.kernel_caches = other.kernel_caches = (KernelCache("a", "a"),)
    assert kernel_caches.caches_of([one, other]) == [KernelCache("a", "a")]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_compiler_of_torch_keeps_its_kernels_there(root: Path) -> None:
    code = (
        "from sgd.graph.contract import kernel_caches; from sgd.graph.language.registry import standard;"
        "kernel_caches.prepare(standard().libraries.values()); import torch;"
        "torch.compile(lambda x: x.sin() + 1)(torch.ones(8))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert any(path.is_file() for path in (root / "inductor").rglob("*"))
