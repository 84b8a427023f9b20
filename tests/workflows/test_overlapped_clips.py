"""`--overlap` with the small model: files, gates and records are those of a run without it, byte by byte."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sgd
import torch
from helpers.overlapped import ONE_LOOP, TWO_LOOPS
from helpers.untimed_records import untimed
from sgd.graph.compiler.overlaps import overlaps_of
from sgd.graph.contract.node import Run
from sgd.graph.contract.second_stream import SecondDevice
from sgd.graph.runtime.estimate import estimate
from sgd.graph.runtime.overlap import possible
from sgd.nodes.library.standard_library import StandardLibrary
from sgd.nodes.models.second_card import SecondModels
from sgd.nodes.support.moved_values import Move


@pytest.mark.parametrize("text", [TWO_LOOPS, ONE_LOOP], ids=["two-loops", "one-loop"])
def test_clips_gates_and_records_are_as_without_it(text: str, tmp_path: Path) -> None:
    file = tmp_path / "clips.yaml"
    file.write_text(text)
    plan = sgd.compile(file)
    with sgd.session():
        sgd.run(plan, out=tmp_path / "first")  # the next two have the same components in memory
        before = sgd.run(plan, out=tmp_path / "without")
        after = sgd.run(plan, out=tmp_path / "with", overlap=True)
    assert after.status == before.status == "done", after.error
    clips = {path.name: path.read_bytes() for path in (tmp_path / "without").glob("*.mp4")}
    assert len(clips) == 2
    assert {path.name: path.read_bytes() for path in (tmp_path / "with").glob("*.mp4")} == clips
    assert after.record["gates"] == before.record["gates"]
    assert untimed(after.record) == untimed(before.record)
    marked = {row["type"] for row in after.record["nodes"] if row.get("overlapped")}
    assert {"vae.decode", "video.save"} <= marked


@pytest.mark.parametrize("text", [TWO_LOOPS, ONE_LOOP], ids=["two-loops", "one-loop"])
def test_a_card_must_hold_both_parts_of_a_turn(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "clips.yaml"
    file.write_text(text)
    plan = sgd.compile(file)
    found, _ = overlaps_of(plan)
    estimated = estimate(plan, device="cuda", memory_bytes=1 << 40)
    needs = possible.needed_bytes(estimated, found[0].head, found[0].calls)
    rows = {row["name"]: row["peak_bytes"] for row in estimated["nodes"]}
    decode = next(peak for name, peak in rows.items() if name.endswith(".frames"))
    predict = next(peak for name, peak in rows.items() if name.endswith(".predict"))
    assert max(decode, predict) < needs <= decode + predict
    monkeypatch.setattr(possible, "estimate", lambda *_, **__: estimated)  # with less memory, nodes choose to need less
    for has, fits in ((int(1.2 * needs), True), (int(1.05 * needs), False)):
        monkeypatch.setattr(possible.devices, "memory_bytes", lambda device, has=has: has)
        assert (possible.misfit(plan, found, "cuda", {}) == "") == fits
    assert "at once, and the device has" in possible.misfit(plan, found, "cuda", {})
    assert possible.misfit(plan, found, "cpu", {}) == ""


class OtherCpu(SecondDevice):
    """A second device that is the CPU too. Tensors are copied to it, and models are loaded there once more."""

    def __init__(self, run: Run, device: str) -> None:
        models = SecondModels(run, device)
        self.copied: list[tuple[str, tuple[int, ...]]] = []
        self._there = Move(self._copier("there"), models.there)
        self._back = Move(self._copier("back"), models.back)

    def _copier(self, way: str) -> Callable[[torch.Tensor], torch.Tensor]:
        def copied(tensor: torch.Tensor) -> torch.Tensor:
            self.copied.append((way, tuple(tensor.shape)))
            return tensor.clone()

        return copied

    def there(self, value: Any) -> Any:
        return self._there(value)

    def back(self, value: Any) -> Any:
        return self._back(value)


@pytest.mark.parametrize("text", [TWO_LOOPS, ONE_LOOP], ids=["two-loops", "one-loop"])
def test_clips_of_a_second_device_are_the_same(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    links: list[OtherCpu] = []

    def second_device(library: StandardLibrary, run: Run, device: str) -> OtherCpu:
        links.append(OtherCpu(run, device))
        return links[-1]

    monkeypatch.setattr(StandardLibrary, "second_device", second_device)
    monkeypatch.setattr(possible.devices, "require_second_card", lambda *_: None)
    file = tmp_path / "clips.yaml"
    file.write_text(text)
    plan = sgd.compile(file)
    before = sgd.run(plan, out=tmp_path / "without")
    after = sgd.run(plan, out=tmp_path / "with", overlap="cpu")
    assert after.status == before.status == "done", after.error
    clips = {path.name: path.read_bytes() for path in (tmp_path / "without").glob("*.mp4")}
    assert {path.name: path.read_bytes() for path in (tmp_path / "with").glob("*.mp4")} == clips
    assert after.record["gates"] == before.record["gates"]
    assert {name: value for name, value in untimed(after.record).items() if name != "overlap_device"} == untimed(
        before.record
    )
    loads = [entry["part"] for entry in after.record["timeline"] if entry["kind"] == "load"]
    assert sorted(loads) == sorted(entry["part"] for entry in before.record["timeline"] if entry["kind"] == "load")
    ways = [way for way, shape in links[0].copied if len(shape) == 5]
    assert ways == ["there"] * 2  # the latents of each clip; a clip's file has no tensor
