"""The work of calls as torch runs them, against torch's own counter and formulas by hand; measured rates."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import tiny
from sgd.graph.compiler.compile import compile
from sgd.graph.contract.events import Observer, Observers
from sgd.graph.contract.machine_limits import Work
from sgd.graph.runtime.context import Context
from sgd.graph.runtime.execute import Executor
from sgd.graph.runtime.library_contexts import around_run
from sgd.graph.runtime.observers.work_count import WorkCount
from sgd.nodes import denoiser
from sgd.nodes.library import rate_measuring
from sgd.nodes.support import function_work
from sgd.nodes.support.work_meter import OperationMeter, uncounted
from torch.utils.flop_counter import FlopCounterMode


def attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Two products for each head: scores, and their product with the values. Shapes are [B, heads, tokens, width]."""
    batch, heads, queries, width = query
    return int(2 * batch * heads * queries * key[2] * width + 2 * batch * heads * queries * key[2] * value[3])


def oracle() -> FlopCounterMode:
    """torch's counter. It has no formula for the kernel of attention on a CPU."""
    return FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_flops}
    )


def counted(function: Any, *arguments: Any, **options: Any) -> tuple[Work, Any]:
    meter = OperationMeter()
    meter.begin(float("inf"), {})
    try:
        with torch.no_grad():
            result = function(*arguments, **options)
    finally:
        count = meter.end()
    assert count.work is not None
    return count.work, result


def test_a_product_reads_two_matrices_and_writes_one() -> None:
    a, b = torch.ones(3, 5), torch.ones(5, 7)
    work, _ = counted(torch.mm, a, b)
    assert work == Work({"float32": 2 * 3 * 5 * 7}, 4 * (3 * 5 + 5 * 7 + 3 * 7))
    work, _ = counted(torch.mm, a.to(torch.bfloat16), b.to(torch.bfloat16))
    assert work == Work({"bfloat16": 2 * 3 * 5 * 7}, 2 * (3 * 5 + 5 * 7 + 3 * 7))


def test_views_and_empty_tensors_move_nothing() -> None:
    a = torch.ones(8, 8)
    assert counted(lambda: a.t().reshape(64)[:3].view(3).detach())[0].bytes == 2 * 4 * 64  # only `reshape` copies
    assert counted(lambda: torch.empty(1000))[0] == Work()
    assert counted(lambda: torch.ones(10, device="meta") @ torch.ones(10, 10, device="meta"))[0] == Work()
    assert counted(lambda: a.add_(1))[0].bytes == 2 * 4 * 64


@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_two_products_of_each_head(masked: bool) -> None:
    query, key, value = (torch.randn(2, 3, tokens, 8) for tokens in (10, 20, 20))
    mask = torch.ones(10, 20, dtype=torch.bool) if masked else None
    work, _ = counted(torch.nn.functional.scaled_dot_product_attention, query, key, value, attn_mask=mask)
    assert work.total == 2 * 2 * 3 * 10 * 20 * 8 * 2


def test_a_kernel_that_is_an_operator_of_ours_counts_as_attention() -> None:
    @torch.library.custom_op("sgd_test::flash_4", mutates_args=())
    def kernel(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        scores = torch.einsum("blhd,bkhd->bhlk", query, key)
        return torch.einsum("bhlk,bkhd->blhd", scores, value).contiguous()

    query, key, value = (torch.randn(2, tokens, 3, 8) for tokens in (10, 20, 20))
    work, _ = counted(kernel, query, key, value)
    assert work.total == 2 * 2 * 3 * 10 * 20 * 8 * 2


def test_a_transformer_is_counted_as_torch_counts_it_and_computes_the_same() -> None:
    transformer = tiny.wan_transformer()
    given = {
        "hidden_states": torch.randn(1, 16, 3, 8, 8),
        "timestep": torch.tensor([500.0]),
        "encoder_hidden_states": torch.randn(1, 6, 32),
    }
    with torch.no_grad():
        expected = transformer(**given).sample
        with oracle() as theirs:
            transformer(**given)
    work, made = counted(transformer, **given)
    assert torch.equal(made.sample, expected)
    assert work.total == theirs.get_total_flops() > 0
    weights = sum(p.numel() * p.element_size() for p in transformer.parameters())
    assert work.bytes > weights


def test_a_count_with_no_allowance_is_given_up_and_its_parts_make_the_next_one_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(function_work, "costs", lambda: (0.0, 1.0))  # a second for each operation
    transformer = tiny.wan_transformer()
    given = (torch.randn(1, 16, 3, 8, 8), torch.tensor([500.0]), torch.randn(1, 6, 32))
    whole, made = counted(transformer, *given)
    parts: Any = {}
    for attempt in range(50):  # noqa: B007
        meter = OperationMeter()
        meter.begin(20.0, parts)
        try:
            with torch.no_grad():
                again = transformer(*given).sample
        finally:
            count = meter.end()
        assert torch.equal(again, made.sample)
        assert count.seconds < 20 + 20  # one function has a few operations
        if count.work is not None:
            break
        assert len(count.parts) > len(parts)
        parts = json.loads(json.dumps({name: [dict(w.flops), w.bytes] for name, w in count.parts.items()}))
        parts = {name: Work(flops, moved) for name, (flops, moved) in parts.items()}
    assert attempt > 2
    assert count.work == whole


def test_work_that_depends_on_numbers_is_counted_each_time() -> None:
    a, few = torch.ones(100), torch.zeros(100, dtype=torch.bool)
    few[:3] = True
    every = torch.ones(100, dtype=torch.bool)
    alone = [counted(lambda chosen=chosen: a[chosen])[0].bytes for chosen in (few, every)]
    assert alone[0] < alone[1]
    assert counted(lambda: (a[few], a[every]))[0].bytes == sum(alone)
    assert counted(lambda: (a.nonzero(), (a - 1).nonzero()))[0].bytes < 2 * counted(a.nonzero)[0].bytes + 800
    assert counted(lambda: (a * 2, a * 2, a * 2))[0].bytes == 3 * counted(lambda: a * 2)[0].bytes
    assert counted(lambda: (a.contiguous(), a.reshape(10, 10).t().contiguous()))[0].bytes == 800


def test_trials_do_not_count() -> None:
    def work() -> None:
        a = torch.ones(4, 4)
        a @ a
        with uncounted():
            a @ a

    assert counted(work)[0].total == 2 * 4**3
    with uncounted():
        pass  # nothing counts here


def test_calls_that_counting_would_change_are_left_alone() -> None:
    meter = OperationMeter()
    call: Any = SimpleNamespace(type=denoiser.predict.node)
    compiled = SimpleNamespace(transforms=(SimpleNamespace(kind="compile"),))
    flex = SimpleNamespace(transforms=(SimpleNamespace(kind="attention", candidates=("native", "flex")),))
    plain = SimpleNamespace(transforms=(SimpleNamespace(kind="lora"),))
    assert meter.takes(call, {"model": plain})
    assert not meter.takes(call, {"model": compiled})
    assert not meter.takes(call, {"model": [plain, compiled]})
    assert not meter.takes(call, {"model": flex})
    other: Any = SimpleNamespace(type=SimpleNamespace(function=test_trials_do_not_count))
    assert not meter.takes(other, {"model": plain})


def test_a_gated_loop_has_the_work_that_ran(tmp_path: Path) -> None:
    """Every call is counted by torch, and few by us."""
    size = {"noise.width": 32, "noise.height": 32, "noise.frames": 5, "video.path": "c.mp4"}
    plan = compile("quickstart", inputs={"steps": 14, "cache": 0.4}, set=size)
    theirs: dict[str, int] = {}
    counter = oracle()

    meter = OperationMeter()
    began = []
    begin = meter.begin
    meter.begin = lambda *given: (began.append(1), begin(*given))[1]  # type: ignore[method-assign, assignment]
    count = WorkCount([meter])

    class Theirs(WorkCount):
        before = 0

        def node_started(self, call: Any, arguments: Any) -> None:
            self.before = counter.get_total_flops()

        def node_finished(self, call: Any, seconds: float, outputs: Any) -> None:
            theirs[call.id] = theirs.get(call.id, 0) + counter.get_total_flops() - self.before

    context = Context(tmp_path, count)
    observer = Observers([Theirs(()), count])
    context.observer = observer
    with counter, around_run(plan, context):
        Executor(plan, context, observer).execute()
    ours = {id: work.total for id in theirs if (work := count.of(id)) is not None}
    assert ours == theirs
    assert theirs["denoise.loop.predict"] > 0
    assert len(began) < len(theirs) + 10


def names(plan: Any, out: Path) -> dict[str, str | None]:
    """The lasting name of the first call of each node."""
    found: dict[str, str | None] = {}

    class Names(Observer):
        def node_started(self, call: Any, arguments: Any) -> None:
            if call.id not in found:
                found[call.id] = OperationMeter().lasting(call, arguments)

    observers = Observers([Names()])
    context = Context(out, observers, overwrite=True)
    with around_run(plan, context):
        Executor(plan, context, observers).execute()
    return found


def test_a_name_that_lasts_has_what_decides_the_work(tmp_path: Path) -> None:
    size = {"noise.width": 32, "noise.height": 32, "noise.frames": 5}
    first = names(compile("quickstart", inputs={"steps": 2}, set=size), tmp_path)
    assert all(first[id] for id in ("text", "denoise.loop.predict", "frames"))
    assert first["video"] is None  # its path may lead to anything
    other_seed = names(compile("quickstart", inputs={"steps": 2, "seed": 5}, set=size), tmp_path)
    assert {id for id in first if first[id] != other_seed[id]} == {"noise"}
    wider = names(compile("quickstart", inputs={"steps": 2}, set={**size, "noise.width": 48}), tmp_path)
    assert {"denoise.loop.predict", "frames"} <= {id for id in first if first[id] != wider[id]}
    assert wider["text"] == first["text"]
    other_type = names(compile("quickstart", inputs={"steps": 2}, set={**size, "model.dtype": "bfloat16"}), tmp_path)
    assert {"text", "denoise.loop.predict"} <= {id for id in first if first[id] != other_type[id]}


def test_rates_are_of_the_right_size() -> None:
    rates = rate_measuring.matrix_rates("cpu", size=64)
    assert set(rates) >= {"float32"}
    a = torch.ones(64, 64)
    began = time.perf_counter()
    for _ in range(50):
        torch.mm(a, a)
    assert rates["float32"] >= 0.5 * 50 * 2 * 64**3 / (time.perf_counter() - began)
    assert 1e7 < rate_measuring.copy_rate("cpu") < 1e13


def test_the_disk_is_measured_where_it_can_be_written_and_nothing_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_measuring, "DISK_BYTES", 16 << 20)
    assert rate_measuring.disk_rate(tmp_path) is not None
    assert list(tmp_path.iterdir()) == []
    assert rate_measuring.disk_rate(tmp_path / "nowhere") is None


def test_the_name_of_a_device_has_all_that_changes_its_limits() -> None:
    name = rate_measuring.key("cpu")
    assert rate_measuring.card("cpu") in name
    assert f"{torch.get_num_threads()} threads" in name
    assert torch.__version__ in name
