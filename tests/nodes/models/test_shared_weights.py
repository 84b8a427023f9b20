"""Values with the same adapters and the same quantising share the new weights, and the old ones are freed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from helpers import tiny_flux
from helpers.direct import DirectRun, model_of
from helpers.transformer_cases import called, flux
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
