"""Bytes of a component that were read so far, for the display."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sgd.graph.contract.node import Run
from sgd.nodes.models.repository import loaded_bytes, reading

MIB = 2**20
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems give no such number")


@linux
def test_touched_pages_of_mapped_files_count_also_after_unmapping(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"x" * 64 * MIB)
    count = loaded_bytes.mapped_bytes()
    assert count() < MIB
    counts = []
    for name in ("a", "b"):
        with (tmp_path / name).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            sum(mapped[:: mmap.PAGESIZE])
            counts.append(count())
        count()
    counts.append(count())
    assert 63 * MIB < counts[0] < 72 * MIB
    assert 126 * MIB < counts[1] < 144 * MIB
    assert counts[2] >= counts[1]


def test_a_system_without_the_number_gives_zero(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(loaded_bytes, "STATM", tmp_path / "none")
    assert loaded_bytes.mapped_bytes()() == 0


def test_a_component_tells_the_bytes_of_its_files() -> None:
    import torch

    class Hears(Run):
        def __init__(self) -> None:
            self.heard: list[tuple[Any, ...]] = []

        def loading(self, part: str, total: int, loaded: Callable[[], int]) -> None:
            self.heard.append((part, total, loaded()))

    from sgd.graph.contract.workflow_folders import bundled_workflows
    from sgd.nodes.models.repository.repository import open_repository

    folder = bundled_workflows() / "models/tiny-wan"
    run = Hears()
    repository = open_repository(str(folder), None, run, configs_only=False)
    reading.read(repository, "vae", None, torch.float32, "cpu", run)
    [(part, total, loaded)] = run.heard
    assert part == "vae"
    assert total == sum(file.stat().st_size for file in (folder / "vae").glob("*.safetensors"))
    assert loaded >= 0
