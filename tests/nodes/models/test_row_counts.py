"""Rows of linear layers in a run: counted, and as they come to each layer of diffusers' own transformers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import sgd
import torch
from benchmarks.step_works import WORKS, step_of
from helpers.direct import DirectRun
from helpers.transformer_cases import shaken, wider
from sgd.nodes.models.memory.component_views import view
from sgd.nodes.models.model import Model
from sgd.nodes.models.row_kernels import quantized_speed
from sgd.nodes.models.row_kernels.quantized_products import QuantizedLinear
from sgd.nodes.models.transforms import sensitive_layers
from sgd.nodes.models.transforms.quantize_transform import Quantize
from sgd.nodes.models.transforms.row_counts import RowCounts, row_counts
from sgd.nodes.values import Latents, Size

PADDING = {"z": 32}
"""Z-Image fills each of its two sequences up to a multiple of 32."""


class Holding(DirectRun):
    """A run that has made some values, and a choice before it was interrupted."""

    def __init__(self, values: Iterable[Any], earlier: Any = None) -> None:
        super().__init__()
        self.values, self.earlier, self.chosen = list(values), earlier, list[Any]()

    def at_hand(self) -> Iterable[Any]:
        return self.values

    def choice(self, name: str) -> Any:
        return self.earlier

    def chose(self, name: str, value: Any) -> None:
        self.chosen.append(value)


@pytest.mark.parametrize("family", ["flux", "hunyuan", "qwen", "z", "wan"])
def test_the_rows_of_each_layer_are_those_of_a_forward(family):
    seen: dict[str, int] = {}
    with torch.no_grad(), step_of(WORKS[family], "cpu", True) as step:
        transformer: Any = step.model.component("transformer")
        layers = dict(transformer.named_modules())
        chosen = [path for path in layers if path in set(sensitive_layers.select(transformer).quantized)]
        chosen += sensitive_layers.select(transformer).unfit  # tiny models have odd widths
        for path in chosen:

            def note(_: Any, given: Any, path: str = path) -> None:
                seen[path] = max(seen.get(path, 0), given[0].numel() // given[0].shape[-1])

            layers[path].register_forward_pre_hook(note)
        step(step.model)
        counts = row_counts(Holding([step.start, [step.branches]]), transformer.config)
    assert counts is not None
    assert len(seen) == len(chosen) > 0
    fill = PADDING.get(family, 1)
    rounded = RowCounts(-(-counts.latents // fill) * fill, -(-counts.text // fill) * fill)
    assert {path: rounded.of(path) for path in chosen} == seen


def test_no_latents_no_count():
    assert row_counts(DirectRun(), {}) is None


def ordinary(module: Any) -> set[str]:
    """The layers that could be in 8 bits, and are not."""
    paths = sensitive_layers.select(module).quantized
    return {path for path in paths if not isinstance(module.get_submodule(path), QuantizedLinear)}


def test_layers_that_are_slower_with_their_rows_stay(monkeypatch):
    monkeypatch.setattr(quantized_speed, "pays", lambda shape, rows, device: rows > 64)
    module = shaken(wider("flux"))
    values = [Latents(torch.zeros(2, 64, module.config.in_channels), "flux", Size(128, 128, 1))]
    run, small = Holding(values), view(module)
    Quantize("transformer", "fp8", paying=True).apply(small, run)
    stay = ordinary(small)
    assert stay
    assert all("add_" in path or "ff_context" in path for path in stay)
    assert isinstance(small.get_submodule("transformer_blocks.0.attn.to_q"), QuantizedLinear)
    assert "with 0 rows" in run.details["not_faster"]

    monkeypatch.setattr(quantized_speed, "pays", lambda *_: pytest.fail("timed again"))
    again, resumed = view(module), Holding(values, run.chosen[0])
    Quantize("transformer", "fp8", paying=True).apply(again, resumed)
    assert ordinary(again) == stay
    assert resumed.chosen == run.chosen


def test_a_run_shows_its_values_while_it_loads_a_component(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, set[str]] = {}
    runs: list[Any] = []
    acquire = Model.acquire

    def watched(self: Model, part: str, run: Any) -> None:
        seen[part] = {type(value).__name__ for value in run.at_hand()}
        runs.append(run)
        acquire(self, part, run)

    monkeypatch.setattr(Model, "acquire", watched)
    small = {"noise.width": 32, "noise.height": 32, "noise.frames": 5}
    sgd.run(sgd.compile("quickstart", inputs={"steps": 1}, set=small), out=tmp_path / "out")
    assert {"Latents", "Branches"} <= seen["transformer"]
    assert not list(runs[-1].at_hand())


@pytest.mark.parametrize(("most", "timed"), [(9000, [16384, 8192]), (0, [16384, 8192, 4096, 2048, 1024])])
def test_rows_that_do_not_fit_the_memory_are_not_timed(monkeypatch, most, timed):
    seen: list[int] = []

    def measured(shape: tuple[int, int], rows: int, device: torch.device) -> bool:
        seen.append(rows)
        if rows > most:
            raise torch.OutOfMemoryError("no memory")
        return True

    monkeypatch.setattr(quantized_speed, "_pays", measured)
    assert quantized_speed.pays((8, 8), 16384, torch.device("cpu")) is (most > 0)
    assert seen == timed
