"""What `auto` keeps about attention backends, what a run may spend on it, and damaged files. No GPU is needed."""

from __future__ import annotations

import json
import math
import stat
from itertools import count
from time import perf_counter, sleep
from typing import Any

import pytest
import torch
from helpers.direct import DirectRun
from sgd.nodes.models.attention import backend_timing, backends, choice_files, kernels, tuning
from sgd.nodes.models.attention.backend_table import BACKENDS

CANDIDATES = ("native", "_native_math", "_native_efficient")
SHAPES = backend_timing.Shapes((1, 16, 2, 8), (1, 16, 2, 8), False, torch.float32, torch.device("cpu"))


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """The folder of choices, in an empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "sgd" / "kernels" / "attention"


LONG = backend_timing.Shapes((1, 16, 32, 8), (1, 16, 32, 8), False, torch.float32, torch.device("cpu"))


@pytest.fixture
def slow(monkeypatch):
    """Backends whose calls take 4, 3 and 2 ms a head. Gives the names of those that were called."""
    called: list[str] = []

    def attend(backend, query, key, value):
        called.append(backend)
        sleep(query.shape[2] * 1e-3 * (4 - CANDIDATES.index(backend)))
        return query

    monkeypatch.setattr(backend_timing, "attend", attend)
    return called


def test_another_run_does_not_measure_again(folder):
    first = tuning.fastest(CANDIDATES[:2], SHAPES, DirectRun())
    again = tuning.fastest(CANDIDATES[:2], SHAPES, DirectRun())
    assert (first.seconds > 0, again.seconds, again.origin) == (True, 0, "remembered")
    assert (again.backend, again.timings) == (first.backend, first.timings)
    [file] = folder.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
    assert json.loads(file.read_text())["case"]["versions"] == list(choice_files.versions(CANDIDATES[:2]))


def test_the_budget_holds_where_one_call_takes_half_of_it(folder, slow, monkeypatch):
    monkeypatch.setattr(tuning, "BUDGET", 0.25)
    tries = []
    for number in range(5):  # other work on the machine may delay some
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / str(number)))
        began = perf_counter()
        found = tuning.fastest(CANDIDATES, LONG, DirectRun())
        tries.append((perf_counter() - began, number, found))
    took, _, found = min(tries)
    assert took < 0.3
    assert (found.backend, found.left) == ("_native_efficient", ())
    assert 0.128 <= found.timings["native"] < 0.16, "all heads, though fewer were measured"
    assert found.origin == f"measured in {found.seconds:.2f} s"


def test_the_budget_is_that_of_a_run_and_the_next_run_goes_on(folder, slow, monkeypatch):
    run = DirectRun()
    monkeypatch.setitem(tuning._spent, run, tuning.BUDGET - 0.03)
    first = tuning.fastest(CANDIDATES, LONG, run)
    assert first.left[-1] == "_native_efficient"
    assert first.origin.endswith("_native_efficient")
    slow.clear()
    tuning._spent[run] = tuning.BUDGET
    other = backend_timing.Shapes((1, 8, 2, 8), (1, 8, 2, 8), False, torch.float32, torch.device("cpu"))
    assert tuning.fastest(CANDIDATES, other, run).left == CANDIDATES[1:]
    assert slow == [], "the run has spent its budget"
    later = [tuning.fastest(CANDIDATES, LONG, DirectRun()) for _ in range(2)]
    assert [found.backend for found in later] == ["_native_efficient"] * 2
    assert [found.origin == "remembered" for found in later] == [False, True]


def test_long_calls_are_measured_with_few_repetitions() -> None:
    calls = count()

    def call() -> None:
        next(calls)
        sleep(0.05)

    assert 0.05 <= backend_timing.measure(call, torch.device("cpu"), 0.0) < 0.08
    assert next(calls) == 1
    assert 0.05 <= backend_timing.measure(call, torch.device("cpu"), 0.26) < 0.08
    assert 4 <= next(calls) - 2 <= 5


@pytest.mark.parametrize("damage", ["{", "[]", '{"seconds": {"native": -1}}', "{}"])
def test_a_damaged_file_is_measured_again_with_a_warning(folder, damage):
    tuning.fastest(CANDIDATES[:2], SHAPES, DirectRun())
    [file] = folder.iterdir()
    good = json.loads(file.read_text())
    file.write_text(damage)
    run = DirectRun()
    assert tuning.fastest(CANDIDATES[:2], SHAPES, run).seconds > 0
    [warning] = run.warnings
    assert str(file) in warning
    assert warning.endswith("; the attention backends are measured again")
    assert json.loads(file.read_text())["case"] == good["case"]
    assert tuning.fastest(CANDIDATES[:2], SHAPES, DirectRun()).origin == "remembered"


@pytest.mark.parametrize("seconds", [math.nan, 0, "1", True, [1]])
def test_a_file_with_wrong_times_is_damaged(folder, seconds):
    case = tuning.case_of(CANDIDATES, SHAPES)
    choice_files.write(case, {"native": 1.0, "_native_math": None})
    assert choice_files.read(case) == {"native": 1.0, "_native_math": None}
    [file] = folder.iterdir()
    kept = json.loads(file.read_text())
    file.write_text(json.dumps(kept | {"seconds": {"native": seconds}}))
    with pytest.raises(choice_files.UnreadableFile):
        choice_files.read(case)


def test_each_fact_of_a_case_has_its_own_file(folder, monkeypatch):
    wide = backend_timing.Shapes((1, 32, 2, 8), (1, 16, 2, 8), False, torch.float32, torch.device("cpu"))
    half = backend_timing.Shapes((1, 16, 2, 8), (1, 16, 2, 8), False, torch.bfloat16, torch.device("cpu"))
    cases = [tuning.case_of(CANDIDATES, each) for each in (SHAPES, wide, half)] + [tuning.case_of(["native"], SHAPES)]
    monkeypatch.setattr(choice_files.packages, "installed", lambda package, module: "99")
    cases.append(tuning.case_of(CANDIDATES, SHAPES))
    for number, case in enumerate(cases, start=1):
        choice_files.write(case, {"native": float(number)})
    assert [choice_files.read(case)["native"] for case in cases] == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_a_plan_says_what_is_remembered(folder):
    case = tuning.case_of(CANDIDATES, SHAPES)
    assert choice_files.planned("float32", CANDIDATES, "cpu") == "measured at the first call"
    choice_files.write(case, {"native": 1.0})
    assert choice_files.planned("float32", CANDIDATES, "cpu") == "measured at the first call", "not complete"
    choice_files.write(case, dict.fromkeys(CANDIDATES, 1.0))
    (folder / "broken.json").write_text("{")
    assert (
        choice_files.planned("float32", CANDIDATES, "cpu") == "remembered for 1 size on this card; measured for others"
    )
    assert choice_files.planned("float32", CANDIDATES, "another") == "measured at the first call"
    assert choice_files.planned("float32", CANDIDATES, None) == "measured at the first call"


def test_without_a_cache_folder_nothing_is_kept(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nothing")
    for _ in range(2):
        run = DirectRun()
        assert tuning.fastest(CANDIDATES[:2], SHAPES, run).seconds > 0
        assert not run.warnings


def test_a_backend_that_lacked_memory_is_tried_again(folder, monkeypatch):
    def attend(backend, query, key, value):
        if backend == "_native_math":
            raise torch.OutOfMemoryError
        return query

    monkeypatch.setattr(backend_timing, "attend", attend)
    assert tuning.fastest(CANDIDATES[:2], SHAPES, DirectRun()).left == ("_native_math",)
    monkeypatch.setattr(backend_timing, "attend", lambda backend, query, key, value: query)
    assert tuning.fastest(CANDIDATES[:2], SHAPES, DirectRun()).left == ()


def test_flash_attention_3_is_one_operator_in_a_compiled_graph(monkeypatch):
    """The operator of the wheel is replaced; torch.compile must not look into it, nor break the graph."""
    from diffusers.models.attention_dispatch import dispatch_attention_fn

    def stand_in(query, key, value, scale, causal):
        query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
        result = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=causal, scale=scale)
        return result.transpose(1, 2).contiguous()

    wheel = backends.FLASH_3_WHEEL.library
    assert kernels.KERNELS[wheel] is kernels.flash_3
    monkeypatch.setattr(kernels, "KERNELS", {**kernels.KERNELS, "_sgd_wheel": stand_in})
    member = kernels.name("_sgd_wheel")
    graphs: list[Any] = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    query, key, value = (torch.randn(1, 5, 2, 8) for _ in range(3))
    torch._dynamo.reset()
    attend = torch.compile(
        lambda *given: dispatch_attention_fn(*given, backend=member) + 1, backend=backend, fullgraph=True
    )
    assert torch.allclose(attend(query, key, value), stand_in(query, key, value, None, False) + 1)
    [graph] = graphs
    assert [str(n.target) for n in graph.graph.nodes if "sgd" in str(n.target)] == ["sgd.sgd_wheel.default"]
    torch._dynamo.reset()


def test_flash_attention_3_is_refused_by_name_on_another_torch(monkeypatch):
    known = {"torch": "2.13.0", "fa3-fwd": "0.0.3"}
    monkeypatch.setattr(backends.packages, "installed", lambda package, module: known.get(package))
    monkeypatch.setattr(backends, "gpu", lambda: (9, 0))
    assert "flash3" in BACKENDS
    found = backends.machine_problem(backends.chosen("flash3"), "cuda")
    assert found is not None
    assert (found.code, found.message) == (
        "unavailable",
        "fa3-fwd was tried with torch 2.11, and torch 2.13.0 is installed",
    )
