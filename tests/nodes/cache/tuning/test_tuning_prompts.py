"""The prompts of `sgd tune`: those that are measured, those that choose, and a seed for each clip."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sgd.graph.contract.library_command import WorkflowFile
from sgd.graph.contract.ports import INT, STR, Type
from sgd.nodes.cache.tuning.tuning_prompts import TuningPrompts, tuning_prompts


def prompts(folder: Path, count: int, types: dict[str, Type], given: tuple[str, ...] = ()) -> TuningPrompts:
    (folder / "prompts.txt").write_text("\n".join(f"prompt {number}" for number in range(count)))
    workflow: Any = SimpleNamespace(file="w.yaml", given=given, input_types=lambda: types)
    arguments = Namespace(input="prompt", prompts=str(folder / "prompts.txt"))
    return tuning_prompts(arguments, cast(WorkflowFile, workflow))


@pytest.mark.parametrize(("count", "measured"), [(8, 4), (15, 4), (24, 6), (48, 12), (64, 16), (200, 16)])
def test_a_quarter_is_measured_and_no_prompt_is_in_both(tmp_path, count, measured):
    found = prompts(tmp_path, count, {"prompt": STR})
    assert (len(found.measured), len(found.chosen)) == (measured, count - measured)
    assert len({*found.measured, *found.chosen}) == count


def test_each_clip_has_a_seed_if_the_workflow_has_an_input_for_it(tmp_path):
    found = prompts(tmp_path, 9, {"prompt": STR, "seed": INT})
    assert found.seeds
    assert [values["seed"] for values in found.values.values()] == list(range(9))


@pytest.mark.parametrize(
    ("types", "given"), [({}, ()), ({"seed": STR}, ()), ({"seed": INT}, ("seed",))], ids=["none", "text", "given"]
)
def test_else_all_clips_have_the_seed_of_the_file(tmp_path, types, given):
    found = prompts(tmp_path, 9, {"prompt": STR, **types}, given)
    assert not found.seeds
    assert found.values["prompt 3"] == {"prompt": "prompt 3"}
