"""Times, work and limits on a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sgd
import torch
from sgd.nodes.library import rate_measuring

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Any:
    plan = sgd.compile("quickstart", inputs={"steps": 12})
    sgd.run(plan, out=tmp_path_factory.mktemp("warm"), device="cuda")
    return sgd.run(plan, out=tmp_path_factory.mktemp("run"), device="cuda").record


def test_device_seconds_of_nodes_and_steps_agree_and_fit_into_the_run(record: Any) -> None:
    rows = {row["name"]: row for row in record["nodes"]}
    steps = sum(step["device_seconds"] for step in record["steps"])
    inside = sum(row["device_seconds"] for name, row in rows.items() if name.startswith("denoise.loop."))
    assert 0 < inside <= steps * 1.01
    assert steps < record["seconds"]
    top = [row for name, row in rows.items() if "." not in name]
    assert sum(row["seconds"] for row in top) == pytest.approx(record["seconds"], rel=0.02)
    assert abs(record["unaccounted_seconds"]) < 0.02 * record["seconds"]


def test_memory_over_time_is_that_of_torch(record: Any) -> None:
    assert record["memory"]
    assert max(point["bytes"] for point in record["memory"]) <= record["peak_bytes"]


def test_profiling_does_not_wait_for_the_device(tmp_path: Path) -> None:
    from sgd.graph.runtime.observers.device_times import DeviceTimes

    torch.cuda.set_sync_debug_mode("error")
    try:
        times = DeviceTimes(torch.cuda)
        found: list[float] = []
        start = times.mark()
        a = torch.ones(4096, 4096, device="cuda")
        for _ in range(10):
            a = a @ a
        times.between(start, times.mark(), found.append)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    times.read()
    assert 1e-4 < found[0] < 10


def test_work_is_that_of_the_cpu(record: Any, tmp_path: Path) -> None:
    """Text and decoding compute the same on both; a gate may decide otherwise near its threshold."""
    plan = sgd.compile("quickstart", inputs={"steps": 12})
    for number in range(20):  # counting a short run may be put off to a later one
        slow = sgd.run(plan, out=tmp_path / str(number), device="cpu").record
        if not any(row.get("uncounted") for row in slow["nodes"]):
            break
    ours, theirs = ({row["name"]: row["flops"] for row in each["nodes"]} for each in (record, slow))
    assert ours["text"] == theirs["text"]
    assert ours["frames"] == theirs["frames"]


def test_rates_of_the_card() -> None:
    limits = rate_measuring.measure("cuda")
    assert limits.card == torch.cuda.get_device_name()
    assert limits.matrix["bfloat16"] > 2 * limits.matrix["float32"]
    assert limits.matrix["tf32"] > limits.matrix["float32"]
    assert limits.copy > limits.host_to_device > 1e9
    if torch.cuda.get_device_capability() >= (9, 0):
        assert limits.matrix["float8"] > limits.matrix["bfloat16"]
