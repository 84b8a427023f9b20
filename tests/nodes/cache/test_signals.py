"""The signals of gates: the inputs that the blocks and embedders of diffusers really get."""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import pytest
import torch
from helpers.gate_pipelines import FAMILIES
from helpers.ours import Pair
from sgd.nodes.cache.engine.kept_rows import together
from sgd.nodes.cache.engine.predictors import Taylor, predict, update
from sgd.nodes.cache.engine.signals import Drift, changes, relative_change
from sgd.nodes.models.repository import peek


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request, tmp_path_factory):
    return Pair(request.param, tmp_path_factory.mktemp("gates") / request.param)


def test_the_modulated_input_is_the_input_of_the_first_attention(pair):
    """Attention's own input, seen by a hook; the block is called by the family's transformer as ever."""
    family, transformer = pair.model.family, pair.model.component("transformer")
    block = getattr(transformer, next(iter(family.blocks.lists)))[0]
    attention = next(child for name, child in block.named_children() if name in ("attn", "attn1", "attention"))
    made, got = [], []

    def before_block(module, args, kwargs):
        bound = inspect.signature(module.forward).bind(*args, **kwargs).arguments
        hidden = bound.get("hidden_states", bound.get("x"))
        made.append(family.modulated(module, hidden, bound))

    def before_attention(module, args, kwargs):
        got.append(kwargs["hidden_states"] if "hidden_states" in kwargs else args[0])

    handles = [
        block.register_forward_pre_hook(before_block, with_kwargs=True),
        attention.register_forward_pre_hook(before_attention, with_kwargs=True),
    ]
    pair.run(steps=2)
    for handle in handles:
        handle.remove()
    assert len(made) == len(got) > 1
    assert all(torch.equal(a, b) for a, b in zip(made, got, strict=True))


def test_arguments_of_blocks(pair):
    """The layouts that the gate's stack relies on are those of the blocks' signatures."""
    family, transformer = pair.model.family, pair.model.component("transformer")
    for name, key in family.blocks.lists.items():
        blocks = getattr(transformer, name)
        assert len(blocks) == pair.model.config("transformer")[key]
        parameters = list(inspect.signature(blocks[0].forward).parameters)
        assert parameters[0] in ("hidden_states", "x")
        assert (parameters[1] == "encoder_hidden_states") == family.blocks.takes_text


def test_time_embeddings_are_those_of_the_transformer(tmp_path):
    pair = Pair("wan", tmp_path / "wan")
    transformer = pair.model.component("transformer")
    times = torch.tensor([999.0, 640.5, 3.0])
    temb, projected, *_ = transformer.condition_embedder(times, torch.zeros(3, 4, 32))
    family = pair.model.family
    assert torch.allclose(family.time_signal(transformer, times, projected=False), temb, atol=1e-6)
    assert torch.allclose(family.time_signal(transformer, times, projected=True), projected, atol=1e-6)
    run = SimpleNamespace(options={})
    read = peek.submodules(pair.model, "transformer", transformer, family.time_modules, run)
    assert torch.equal(
        family.time_signal(read, times, projected=True), family.time_signal(transformer, times, projected=True)
    )
    assert peek.submodules(pair.model, "transformer", transformer, family.time_modules, dummy()) is None


def dummy():
    return SimpleNamespace(options={"weights": "dummy"})


def test_a_time_embedding_is_read_in_the_precision_that_it_runs_in(tmp_path):
    """diffusers keeps Wan's embedder in float32 in a bfloat16 model; the plan must not round it."""
    from helpers.direct import model_of
    from sgd.nodes.models.repository.dummy import meta_module

    pair = Pair("wan", tmp_path / "wan")
    half = model_of(tmp_path / "wan", "transformer", transformer="bfloat16")
    loaded = half.component("transformer")
    meta = meta_module(type(loaded), loaded.config, torch.bfloat16)
    family, times = pair.model.family, torch.tensor([999.0, 640.5, 3.0])
    read = peek.submodules(half, "transformer", meta, family.time_modules, SimpleNamespace(options={}))
    for projected in (False, True):
        assert torch.equal(family.time_signal(read, times, projected), family.time_signal(loaded, times, projected))


def test_relative_changes():
    before, now = torch.tensor([[1.0, -3.0]]), torch.tensor([[2.0, -2.0]])
    assert relative_change(before, now).item() == 0.5
    assert relative_change(before, torch.zeros(2, 2)).item() == float("inf")
    assert changes(torch.cat([before, now]), [(0, 1), (1, 1)]) == [0.5, 0.0]
    assert changes(before, []) == []


def test_drift_is_the_papers_formula():
    drift = Drift()
    x = [torch.full((2, 2), value) for value in (1.0, 2.0, 4.0, 5.0)]
    y = [torch.full((2, 2), value) for value in (1.0, 4.0)]
    for step in (0, 1):
        assert drift.measure(x[step]) is None
        drift.passed(x[step])
        drift.learned(x[step], y[step])
    # k = |4 - 1| / |2 - 1| = 3; then 3 |4 - 2| / 4 and, without computing, 3 |5 - 4| / 4.
    assert drift.measure(x[2]).item() == 1.5
    drift.passed(x[2])
    assert drift.measure(x[3]).item() == 0.75


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_an_expansion_is_exact_for_polynomials_of_its_order(order):
    """A constant, of order 0; a line, of every other."""
    predictor = Taylor(order)

    def value(step):
        return torch.tensor([[float(step) if order else 7.0, 2.0 * step if order else 1.0]])

    for step in range(order + 2):
        update([predictor], step, value(step))
    for ahead in (1, 2, 3):
        assert torch.allclose(predict([predictor], order + 1 + ahead, 2), value(order + 1 + ahead))


def test_an_expansion_by_hand():
    """Steps 0, 1, 3 of values 0, 1, 9: d1 = 8 / 2, d2 = (4 - 1) / 2; at step 5, 9 + 4 * 2 + 1.5 * 4 / 2."""
    predictor = Taylor(2)
    for step, value in ((0, 0.0), (1, 1.0), (3, 9.0)):
        update([predictor], step, torch.tensor([[value]]), [1])
    assert predict([predictor], 5, 1).item() == 20.0
    update([predictor], 6, torch.zeros(1, 3), [3])  # another length begins anew
    assert torch.equal(predict([predictor], 7, 3), torch.zeros(1, 3))


def test_rows_that_are_computed_at_other_steps_expand_as_each_does_alone():
    """The steps of each row are drawn; a row by itself is one that `test_an_expansion_by_hand` covers."""
    steps = [(0, 1, 3, 4, 7), (0, 2, 3, 6), (0, 1, 3, 4, 7), (0, 5)]
    values = torch.randn(9, len(steps), 3, 2, generator=torch.Generator().manual_seed(0))
    for order in (0, 1, 2):
        rows, alone = ([Taylor(order) for _ in steps] for _ in range(2))
        for step in range(9):
            computed = [row for row, taken in enumerate(steps) if step in taken]
            reused = [row for row in range(len(steps)) if row not in computed]
            if computed:
                update([rows[row] for row in computed], step, values[step][computed].clone())
            for row in computed:
                update([alone[row]], step, values[step][row : row + 1].clone())
            if reused:
                made = predict([rows[row] for row in reused], step, 3)
                assert torch.equal(made, torch.cat([predict([alone[row]], step, 3) for row in reused]))
        kept = {id(d.shared): len(d.shared) for row in rows for d in row.derivatives}
        assert sum(kept.values()) == sum(len(row.derivatives) for row in rows)  # no memory for rows that are gone


def test_a_residual_of_rows_that_lie_together_is_not_copied():
    """Also where one of them was computed later than the other."""
    rows = [Taylor(0) for _ in range(2)]
    update(rows, 0, torch.zeros(2, 1, 1))
    update(rows[1:], 1, torch.ones(1, 1, 1))
    made = predict(rows, 2, 1)
    assert made.flatten().tolist() == [0.0, 1.0]
    assert made is rows[0].derivatives[0].shared is rows[1].derivatives[0].shared


def test_rows_that_were_always_computed_together_are_not_copied():
    rows = [Taylor(1) for _ in range(3)]
    for step in range(3):
        tensor = torch.full((3, 2, 2), float(step))
        update(rows, step, tensor)
        assert rows[0].derivatives[0].shared is tensor
    assert together([row.derivatives[0] for row in rows], 2) is tensor
    assert together([row.derivatives[0] for row in rows[1:]], 2).data_ptr() == tensor[1:].data_ptr()
