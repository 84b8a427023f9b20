"""Values with the same adapters and the same quantising share the new weights, and the old ones are freed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import sgd
import torch
from helpers import tiny_flux
from helpers.direct import DirectRun, model_of
from helpers.transformer_cases import called, flux
from sgd.graph.compiler.plan import Acquire
from sgd.graph.contract.errors import NodeError
from sgd.nodes.models.memory.offloading import Offload
from sgd.nodes.models.memory.weights import Weights
from sgd.nodes.models.nodes.model_load import load
from sgd.nodes.models.nodes.model_quantize import quantize
from sgd.nodes.models.row_kernels.quantized_products import QuantizedLinear
from sgd.nodes.models.transforms.optimize_transform import Optimize
from sgd.nodes.models.transforms.quantize_transform import Quantize


@dataclass(frozen=True)
class Marked:
    """A transform that changes a view alone, or fails."""

    kind: ClassVar[str] = "attention"

    component: str = "transformer"
    fails: bool = False

    def apply(self, module: Any, run: Any) -> None:
        if self.fails:
            raise NodeError("cannot be done")
        module.marked = True


@dataclass(frozen=True)
class Added:
    """Adapters of a file. Counts how often they are merged."""

    kind: ClassVar[str] = "lora"
    merged: ClassVar[list[Path]] = []

    file: Path
    component: str = "transformer"

    def apply(self, module: Any, run: Any) -> None:
        self.merged.append(self.file)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("flux")
    tiny_flux.build().save_pretrained(made)
    return made


@pytest.fixture
def model(folder):
    loaded = model_of(folder, "scheduler")
    loaded.release("scheduler")
    return loaded


@pytest.fixture
def freeing(monkeypatch):
    """Free replaced weights as on a GPU. On a CPU they are mapped files."""
    monkeypatch.setattr(Weights, "spare", lambda self, part, placed=None: self._held[part, placed].count == 1)


def acquired(value: Any) -> Any:
    value.acquire("transformer", DirectRun())
    return value


def places(value: Any) -> dict[str, int]:
    """The addresses of the quantised weights of a value's transformer."""
    modules = value.component("transformer").named_modules()
    found = {name: each.weight.data_ptr() for name, each in modules if isinstance(each, QuantizedLinear)}
    assert found
    return found


@pytest.mark.parametrize("backwards", [False, True])
def test_one_quantised_copy_for_all_values_after_quantize(model, run, freeing, backwards):
    small = quantize(run, model)
    rebuilt = small.transformed(Optimize("transformer", True, ()))
    values = [small, rebuilt, rebuilt.transformed(Marked())]
    order = values[::-1] if backwards else values
    for each in order:
        acquired(each)
    assert len({tuple(places(each).items()) for each in values}) == 1
    assert [hasattr(each.component("transformer"), "marked") for each in values] == [False, False, True]
    base = model.weights.component("transformer")
    assert {name for name, each in base.named_parameters() if each.is_meta} == {
        f"{name}.weight" for name in places(small)
    }, "no value loads the old weights again"
    for each in order:
        each.release("transformer")
    assert not len(model.weights.views)


def test_a_reader_of_the_old_weights_gets_them(model, run, freeing):
    marked = acquired(quantize(run, model).transformed(Marked()))
    before = places(marked)
    whole = acquired(model).component("transformer")
    assert not any(each.is_meta for each in whole.parameters())
    assert places(marked) == before
    assert not any(isinstance(each, QuantizedLinear) for each in whole.modules())


def test_adapters_are_merged_once_and_again_if_their_file_has_changed(model, run, tmp_path):
    Added.merged.clear()
    file = tmp_path / "a.safetensors"
    file.write_text("a")
    model.weights.views.kept = True  # as in a session
    acquired(model)
    small = quantize(run, model.transformed(Added(file)))
    values = [small, small.transformed(Marked())]
    for count, text in ((1, "a"), (1, None), (2, "other")):
        if text is not None:
            file.write_text(text)
        for each in values:
            acquired(each)
        assert places(values[0]) == places(values[1])
        assert len(Added.merged) == count
        for each in values:
            each.release("transformer")
    assert len(model.weights.views) == 2


def test_another_format_has_weights_of_its_own(model, run):
    values = [acquired(quantize(run, model, format=f).transformed(Marked())) for f in ("fp8", "int8")]
    assert set(places(values[0]).values()).isdisjoint(places(values[1]).values())


def test_an_offloaded_component_has_weights_of_its_own(model, run):
    small = quantize(run, model)
    placed = small.transformed(Offload("transformer"))
    for each in (small, placed, placed.transformed(Marked())):
        acquired(each)
    assert set(places(small).values()).isdisjoint(places(placed).values())
    assert places(placed) == places(placed.transformed(Marked()))
    for each in (small, placed, placed.transformed(Marked())):
        each.release("transformer")
    assert not len(model.weights.views)


def test_a_view_that_fails_keeps_no_weights(model, run):
    broken = quantize(run, model).transformed(Marked(fails=True))
    with pytest.raises(NodeError, match="cannot be done"):
        acquired(broken)
    assert not len(model.weights.views)


def test_a_plan_counts_quantised_weights_once():
    from sgd.nodes.support import cost_meter

    run: Any = DirectRun()
    run.device, run.planning, run.options = "meta", True, {"device": "cuda", "memory_bytes": 80 << 30}
    plain = load(run, "black-forest-labs/FLUX.1-dev")
    small = plain.transformed(Quantize("transformer", "fp8"))
    live = []
    for values in ([small], [small.transformed(Optimize("transformer", False, ())), small]):
        with cost_meter.meter(run) as counter:
            for each in values:
                each.acquire("transformer", run)
            live.append(counter.live)
            for each in values:
                each.release("transformer")
    assert live[0] == live[1]


def test_results_are_those_of_weights_that_are_not_shared(model, run):
    small = acquired(quantize(run, model))
    alone = called(small.component("transformer"), flux(2))
    beside = acquired(small.transformed(Marked()))
    assert torch.equal(called(beside.component("transformer"), flux(2)), alone)


FILE = """
sgd: 1
nodes:
  model: {uses: model.load, with: {source: sgd:models/tiny-wan}}
  q: {uses: model.quantize, with: {model: $model}}
  opt: {uses: model.optimize, with: {model: $q}}
  text: {uses: text.encode, with: {model: $model, prompt: a}}
  noise: {uses: latents.noise, with: {model: $model, width: 32, height: 32, frames: 5, seed: 1}}
  schedule: {uses: schedule.make, with: {model: $model, steps: 1}}
  first: {uses: sgd:parts/cfg_denoise, with: {model: $opt, text: $text, latents: $noise, schedule: $schedule, scale: 1}}
  last: {uses: sgd:parts/cfg_denoise, with: {model: VALUE, text: $text, latents: $first, schedule: $schedule, scale: 1}}
outputs: {latents: $last}
"""


def holders(file: Any, value: str) -> set[str]:
    file.write_text(FILE.replace("VALUE", value))
    steps = sgd.compile(file).steps
    return {step.holder.node for step in steps if isinstance(step, Acquire) and step.part == "transformer"}


def test_only_values_that_are_read_hold_a_quantised_component(tmp_path):
    file = tmp_path / "f.yaml"
    assert holders(file, "$opt") == {"opt"}
    assert holders(file, "$q") == {"opt", "q"}
    assert holders(file, "$model") == {"opt", "model"}


def test_a_run_makes_one_view_for_one_reader(tmp_path, monkeypatch):
    made: list[str] = []
    real = QuantizedLinear.of
    monkeypatch.setattr(QuantizedLinear, "of", lambda *given: made.append("layer") or real(*given))
    acquire = Weights.acquire
    monkeypatch.setattr(Weights, "acquire", lambda self, part, *given: made.append(part) or acquire(self, part, *given))
    file = tmp_path / "f.yaml"
    found = {}
    for value in ("$opt", "$q"):
        made.clear()
        file.write_text(FILE.replace("VALUE", value))
        done = sgd.run(sgd.compile(file), out=tmp_path / value[1:], device="cpu")
        found[value] = done.outputs["latents"].tensor, made.count("layer"), made.count("transformer")
    assert [counts for _, *counts in found.values()] == [[16, 1], [16, 2]]
    assert torch.equal(found["$opt"][0], found["$q"][0]), "on a CPU `model.optimize` changes nothing"
