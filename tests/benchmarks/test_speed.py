"""The table of speed: what it measures on tiny models, how it goes on, and the arithmetic of its cells."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from benchmarks import kernel_times, machine, speed, speed_table, steps
from benchmarks.speed_results import Kernel, Measured, Results, Way
from benchmarks.speed_rows import ROWS

H100 = machine.Machine("NVIDIA H100 80GB HBM3", "580", "700.00 W", "3.12", {"torch": "2.11.0"}, 700.0)


def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    monkeypatch.setattr(sys, "argv", ["speed.py", *words])
    speed.main()
    return capsys.readouterr().out


def test_tiny_rows_are_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "speed.json"
    words = ["flux,hunyuan-decode", "--tiny", "--out", str(out)]
    first = command(monkeypatch, capsys, *words)
    found = Results(out).rows
    assert [(name, each.failed, list(each.ways)) for name, each in found.items()] == [
        ("flux", "", ["eager", "exact", "fast"]),
        ("hunyuan-decode", "", ["diffusers", "exact"]),
    ]
    assert all(way.median for each in found.values() for way in each.ways.values())
    assert 0 < found["flux"].ways["exact"].error < 1e-5 < found["flux"].ways["fast"].error
    assert found["flux"].errors["fast"] > found["flux"].errors["exact"]
    monkeypatch.setattr(speed, "measure", lambda *_, **__: pytest.fail("measured again"))
    again = command(monkeypatch, capsys, *words, "--markdown", str(tmp_path / "speed.md"))
    assert again == first[first.index("Tiny models") :]
    assert (tmp_path / "speed.md").read_text() == again


def test_wrong_values_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(steps.BOUNDS, "exact", 1e-9)
    found = speed.measure(ROWS["z"], tiny=True, kernels=False)
    assert found.ways["exact"].failed.startswith("AssertionError: not timed: the relative difference is")
    assert (found.ways["exact"].seconds, bool(found.ways["eager"].seconds)) == ([], True)
    assert f"| exact | {found.ways['exact'].failed} |" in "\n".join(speed_table.table([ROWS["z"]], {"z": found}))
    with pytest.raises(AssertionError, match="not finite"):
        machine.require_near(torch.tensor([float("nan")]), torch.ones(1), 1.0)


def row(name: str, card: machine.Machine, **seconds: float) -> str:
    found = Measured(card, "2026-11-28", {way: Way([took]) for way, took in seconds.items()})
    return "\n".join(speed_table.table([ROWS[name]], {name: found}))


def test_a_row_says_how_near_it_came() -> None:
    text = row("flux", H100, diffusers=0.134, exact=0.126, fast=0.0948)
    assert "| exact | 0.126 (0.126 to 0.126) | 0.0941 | 1.34 | 0.12 | 1.050 | 0.134 | SGLang 0.129 |" in text
    assert "| fast | 0.0948 (0.0948 to 0.0948) | 0.0941 | 1.01 | 0.095 | 0.998, reached | 0.134 |" in text
    text = row("gate", H100, diffusers=2.0, exact=1.9)
    assert "| exact | 1.9 (1.9 to 1.9) |  |  | 1.94 | 0.979, reached | 2 |" in text


def test_an_h200_gives_ratios_to_the_floor() -> None:
    text = row("flux", machine.Machine("NVIDIA H200", product=700.0), diffusers=0.132, exact=0.121)
    assert "| exact | 1.29 × floor (1.29 × floor to 1.29 × floor) |" in text
    assert "1.40 × floor" in text


def test_a_missed_target_wants_its_kernels(tmp_path: Path) -> None:
    found = Measured(H100, "2026-11-28", {"exact": Way([0.126]), "fast": Way([0.09])})
    results = Results(tmp_path / "speed.json")
    results.put("flux", found)
    assert speed_table.missed(ROWS["flux"], found) == ["exact"]
    assert speed.done(ROWS["flux"], results, kernels=False)
    assert not speed.done(ROWS["flux"], results, kernels=True)
    found.ways["exact"].kernels = [
        Kernel("void cutlass::device_kernel<flash::FlashAttnFwdSm90>", 57, 0.02),
        Kernel("nvjet_tst_256x128_64x4_2x1_v_bz_coopA_TNT", 200, 0.09),
        Kernel("_add_norm", 114, 0.01),
    ]
    results.put("flux", found)
    assert speed.done(ROWS["flux"], Results(tmp_path / "speed.json"), kernels=True)
    text = "\n".join(speed_table.table([ROWS["flux"]], results.rows))
    assert "Kernels 120.0 ms of 126.0 ms: products 90.0, attention 20.0, rows 10.0 ms." in text
    assert "| `nvjet_tst_256x128_64x4_2x1_v_bz_coopA_TNT` | products | 200 | 90.00 | 75.0 % |" in text
    assert kernel_times.group("sm90_xmma_fprop_implicit_gemm_bf16") == "convolutions"


def test_a_row_that_failed_is_tried_again(tmp_path: Path) -> None:
    results = Results(tmp_path / "speed.json")
    results.put("z", Measured(H100, "2026-11-28", failed="OutOfMemoryError"))
    assert not speed.done(ROWS["z"], results, kernels=False)
    assert "Failed: Z-Image-Turbo 1024², a step: OutOfMemoryError" in list(speed_table.table([ROWS["z"]], results.rows))
