"""Statistics of tensors; NumPy is the oracle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from sgd.graph.contract.ports import Port
from sgd.nodes.support import tensor_statistics
from sgd.nodes.support.tensor_statistics import statistics, statistics_of


def expected(tensor: torch.Tensor) -> tuple[float, float, float, int]:
    numbers = tensor.to(torch.complex128 if tensor.is_complex() else torch.float64).numpy().ravel()
    if np.iscomplexobj(numbers):
        numbers = np.concatenate([numbers.real, numbers.imag])
    finite = numbers[np.isfinite(numbers)]
    return finite.mean(), finite.std(), np.abs(finite).max(), numbers.size - finite.size


GENERATOR = torch.Generator().manual_seed(0)
NORMAL = torch.randn(3, 5, 7, generator=GENERATOR)
CASES: dict[str, torch.Tensor] = {
    "normal": NORMAL,
    "bfloat16": (NORMAL * 1e30).bfloat16(),
    "float16": NORMAL.half(),
    "float8": NORMAL.to(torch.float8_e4m3fn),
    "float64": NORMAL.double() * 1e300,
    "far from zero": NORMAL.double() + 1e9,
    "int64": torch.randint(-9, 9, (40,), generator=GENERATOR),
    "bool": NORMAL > 0,
    "number": torch.tensor(-3.5),
    "not contiguous": NORMAL.permute(2, 0, 1)[::2],
    "expanded": NORMAL[:1].expand(4, 5, 7),
    "complex": torch.complex(NORMAL, -2 * NORMAL).conj(),
    "some not finite": torch.tensor([1.0, float("nan"), float("inf"), -4.0, -float("inf")]),
    "gradient": NORMAL.clone().requires_grad_(),
    "sparse": torch.eye(4).to_sparse(),
}


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("part", [1, 4, 1 << 22])
@pytest.mark.parametrize("name", CASES)
def test_numbers_are_those_of_numpy(name: str, part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_statistics, "PART", part)
    tensor = CASES[name]
    dense = tensor.detach().to_dense() if tensor.layout != torch.strided else tensor.detach().resolve_conj()
    mean, deviation, largest, not_finite = expected(dense)
    found = statistics("path", tensor)
    assert found.mean == pytest.approx(mean, rel=1e-9, abs=1e-12)
    assert found.deviation == pytest.approx(deviation, rel=1e-6)
    assert (found.largest, found.not_finite) == (largest, not_finite)
    assert (found.path, found.shape) == ("path", tuple(tensor.shape))
    assert found.dtype == str(tensor.dtype).split(".")[1]


@pytest.mark.parametrize("tensor", [torch.empty(0, 3), torch.tensor([float("nan"), float("inf")])])
def test_without_finite_numbers_there_are_no_statistics(tensor: torch.Tensor) -> None:
    found = statistics("", tensor)
    assert (found.mean, found.deviation, found.largest) == (None, None, None)
    assert found.not_finite == tensor.numel()


@dataclass
class Inner:
    data: dict[str, torch.Tensor]


@dataclass
class Outer(Port):
    inner: Inner
    many: Sequence[torch.Tensor]
    name: str = "x"


def test_tensors_are_found_wherever_they_lie() -> None:
    value: Any = [Outer(Inner({"a": torch.ones(2)}), (torch.zeros(1), torch.ones(3)))]
    assert [(found.path, found.shape) for found in statistics_of(value)] == [
        ("[0].inner.data.a", (2,)),
        ("[0].many[0]", (1,)),
        ("[0].many[1]", (3,)),
    ]
    assert statistics_of("text") == statistics_of(None) == statistics_of([1, 2]) == []
