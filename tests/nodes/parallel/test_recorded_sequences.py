"""The forward as one CUDA graph where two processes compute a sequence: they decide together, with a double."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.direct import DirectRun
from helpers.graph_double import GraphDouble
from helpers.ranks import on_ranks
from helpers.transformer_cases import CASES, called, shaken, wider
from sgd.graph.contract.processes import Mesh
from sgd.nodes.families import by_name
from sgd.nodes.models.memory.component_views import view
from sgd.nodes.models.ranks.collectives import largest
from sgd.nodes.models.rebuilt import recorded_forward
from sgd.nodes.models.rebuilt.forward_launch import launched
from sgd.nodes.models.rebuilt.loop_values import BranchCall, Values, telling
from sgd.nodes.models.rebuilt.rebuilding import rebuild
from sgd.nodes.parallel.cut_blocks import CutSequence, CutTransformer
from sgd.nodes.parallel.sequence_group import sequence_group

STEPS = 7
SLOW_GPU = {"seconds": 1000.0}
"""A GPU that is slower than its host."""

FAILED = "kernel by kernel: the capture of a CUDA graph failed: "


def loops(case: str, mesh: Mesh, ranks: list[dict[str, Any]], looked: int | None = None) -> list[dict[str, Any]]:
    """Two loops on two processes, recorded and not.

    Args:
        case: The transformer.
        mesh: How the processes are arranged.
        ranks: What differs from the double's defaults, for each process.
        looked: The step at which somebody looks into the forward of the second process.
    """
    module = view(shaken(wider(case)))
    assert rebuild(module, join=False)
    inputs = CASES[case][1](1)

    def work(join: Any) -> dict[str, Any]:
        processes = join(mesh)
        double = GraphDouble.fresh()
        for name, value in ranks[processes.rank].items():
            setattr(double, name, value)
        recorded_forward.CudaGraphs = double  # type: ignore[assignment,misc]  # this process ends with the test
        sequence = CutSequence(sequence_group(processes))
        found: dict[str, Any] = {}
        for way, device in (("plain", "cpu"), ("recorded", "cuda")):
            run, values, made = DirectRun(), Values(), []
            run.device, run.processes = device, processes
            before = processes.sent
            for number in range(STEPS):
                run.ranges = processes.rank == 1 and number == looked
                cut = CutTransformer(module, by_name(case), sequence)
                whole = launched(cut, module, values, run, lambda: 9)
                step = inputs | {"hidden_states": inputs["hidden_states"] + number}
                with telling(module, BranchCall(1, prompt=values)):
                    made.append(called(whole, step))
            found[way] = torch.stack(made)
            found[f"{way} sent"] = processes.sent - before
        return found | {"log": double.log, "details": run.details, "warnings": run.warnings}

    return on_ranks(2, work)


@pytest.mark.parametrize("case", ["flux", "wan"])
@pytest.mark.parametrize("mesh", [Mesh(ulysses=2), Mesh(ring=2)], ids=str)
def test_results_and_bytes_are_those_of_kernels_one_by_one(mesh, case):
    """The first process decides: the GPU of the other one is the slower one."""
    for found in loops(case, mesh, [{}, SLOW_GPU]):
        assert torch.equal(found["recorded"], found["plain"])
        assert found["recorded sent"] == found["plain sent"] > 0
        assert found["log"].count("capture") == 1
        assert found["log"].count("replay") == STEPS - 2
        assert found["details"]["launch"].startswith("one CUDA graph")
        assert not found["warnings"]


def test_none_records_if_the_gpu_of_the_first_is_the_slower_one():
    for found in loops("flux", Mesh(ulysses=2), [SLOW_GPU, {}]):
        assert torch.equal(found["recorded"], found["plain"])
        assert "capture" not in found["log"]
        assert found["log"].count("settle") == 1
        assert not found["details"]


def test_none_goes_on_with_a_graph_if_one_could_not_capture():
    first, second = loops("flux", Mesh(ulysses=2), [{}, {"failure": "out of memory"}])
    for found, reason in ((first, "another process could not capture it"), (second, "out of memory")):
        assert torch.equal(found["recorded"], found["plain"])
        assert found["recorded sent"] == found["plain sent"]
        assert (found["log"].count("capture"), found["log"].count("replay")) == (1, 0)
        assert found["details"]["launch"] == FAILED + reason
        assert len(found["warnings"]) == 1


def test_none_records_if_one_has_too_little_memory():
    for found in loops("flux", Mesh(ulysses=2), [{}, {"free_bytes": 1000}]):
        assert torch.equal(found["recorded"], found["plain"])
        assert "capture" not in found["log"]
        assert found["details"]["launch"].startswith("kernel by kernel: a CUDA graph needs")


@pytest.mark.parametrize("step", [1, 2, 4])
def test_they_wait_for_one_that_is_looked_into(step):
    """At the measured step, at the decision, and later, when the other one replays its graph."""
    for rank, found in enumerate(loops("flux", Mesh(ulysses=2), [{}, {}], step)):
        assert torch.equal(found["recorded"], found["plain"])
        assert found["recorded sent"] == found["plain sent"]
        assert found["log"].count("capture") == 1
        later = step < 3
        assert found["log"].count("replay") == STEPS - 2 - (later or rank == 1)


def test_the_largest_number_of_all_processes():
    def work(join: Any) -> list[int]:
        processes = join(Mesh(ulysses=2))
        return largest(processes, "sequence", [processes.rank, 5 - processes.rank, 3])

    assert on_ranks(2, work) == [[1, 5, 3]] * 2
