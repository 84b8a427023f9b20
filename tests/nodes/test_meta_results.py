"""Remembered results of operations on the meta device, against the operations themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from sgd.nodes.support.meta_results import MetaResults

aten = torch.ops.aten


def meta(*sizes: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(sizes, dtype=dtype, device="meta")


CASES: list[Callable[[], tuple[Any, tuple[Any, ...], dict[str, Any]]]] = [
    lambda: (aten.add.Tensor, (meta(2, 3), meta(3)), {}),
    lambda: (aten.add.Tensor, (meta(2, 3).T, meta(3, 2).contiguous()), {}),
    lambda: (aten.add.Tensor, (meta(2, 3, dtype=torch.int32), 1), {}),
    lambda: (aten.add.Tensor, (meta(2, 3, dtype=torch.int32), 1.0), {}),
    lambda: (aten.add.Tensor, (meta(2, 3, dtype=torch.bool), True), {}),
    lambda: (aten.add.Tensor, (meta(2, 3, dtype=torch.bool), 1), {}),
    lambda: (aten.mul.Tensor, (meta(2, 3, dtype=torch.bfloat16), meta()), {}),
    lambda: (aten.mul.Tensor, (meta(2, 3, dtype=torch.bfloat16), meta(1)), {}),
    lambda: (aten.addmm.default, (meta(5), meta(2, 3), meta(3, 5)), {"beta": 1}),
    lambda: (aten.native_layer_norm.default, (meta(2, 4, 8), [8], None, None, 1e-6), {}),
    lambda: (aten.cat.default, ([meta(2, 3), meta(2, 4)], 1), {}),
    lambda: (aten.cat.default, ([meta(2, 3), meta(2, 4)], -1), {}),
    lambda: (aten._to_copy.default, (meta(2, 3).T,), {"dtype": torch.float16}),
    lambda: (aten._to_copy.default, (meta(2, 3),), {"dtype": torch.float64}),
    lambda: (aten.clone.default, (meta(1, 4, 3, 3),), {"memory_format": torch.channels_last}),
]


def described(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(described, value))
    facts = (type(value), value.shape, value.stride(), value.dtype, value.device.type, value.storage_offset())
    return (*facts, value.untyped_storage().nbytes())


def test_results_have_the_forms_that_torch_gives() -> None:
    results = MetaResults()  # one for all cases: arguments that are nearly equal are not taken for each other
    for _ in range(3):
        for case in CASES:
            func, args, kwargs = case()
            found = results.call(func, args, kwargs)
            assert described(found) == described(func(*args, **kwargs)), (func, args, kwargs)


def test_a_form_that_was_seen_is_not_computed_again() -> None:
    calls: list[Any] = []

    class Counted:
        _schema = aten.add.Tensor._schema

        def __call__(self, *args: Any) -> Any:
            calls.append(args)
            return aten.add.Tensor(*args)

    results, func, held = MetaResults(), Counted(), meta(2, 3)
    made = [results.call(func, (held, meta(3)), {}) for _ in range(4)]
    assert len(calls) == 1
    assert len({each.untyped_storage()._cdata for each in made}) == 4
    results.call(func, (meta(3, 3), meta(3)), {})
    assert len(calls) == 2


def test_views_changes_and_other_devices_are_left_to_torch() -> None:
    results, base, real = MetaResults(), meta(4, 6), torch.arange(6.0)
    for _ in range(2):
        part = results.call(aten.slice.Tensor, (base, 1, 2, 4), {})
        assert part.untyped_storage()._cdata == base.untyped_storage()._cdata
        assert part.storage_offset() == 2
        assert results.call(aten.add_.Tensor, (base, 1), {}) is base
        assert torch.equal(results.call(aten.add.Tensor, (real, 1), {}), real + 1)
        split = results.call(aten.split.Tensor, (base, 2), {})
        assert [each.shape for each in split] == [(2, 6), (2, 6)]
