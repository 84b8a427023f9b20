"""The prompts and seeds of `sgd tune`: a quarter of the prompts is measured, the rest chooses a plan. Torch-free."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ....graph.contract.errors import NodeError
from ....graph.contract.library_command import WorkflowFile
from ..calibration.calibrate import own_texts, read_prompts, takes_several
from ..calibration.table import put_aside

FEW = 4
"""The fewest prompts to measure, and the fewest others on which plans are tried."""

MOST_MEASURED = 16
"""The most prompts to measure. Plans are tried on further ones, which makes the tolerance bound tighter."""

SEED = "seed"
"""The input that gets another seed for each clip."""


@dataclass(frozen=True)
class TuningPrompts:
    """The prompts of a tuning.

    Attributes:
        measured: The prompts whose velocities are measured.
        chosen: The others, on which plans are tried.
        values: For each prompt, the values of inputs.
        seeds: Whether each clip has a seed of its own: the number of its prompt, from 0.
    """

    measured: Sequence[str]
    chosen: Sequence[str]
    values: Mapping[str, Mapping[str, Any]]
    seeds: bool


def tuning_prompts(arguments: Namespace, workflow: WorkflowFile) -> TuningPrompts:
    """The prompts of the command line, or else those of the workflow.

    Raises:
        NodeError: If there are too few, or the workflow has no such input.
    """
    name = arguments.input
    if arguments.prompts is not None and name in workflow.given:
        raise NodeError(f"{name} is given twice: by --prompts and by {name}=…", help="leave one of them out")
    several = takes_several(workflow, name)
    if arguments.prompts is not None:
        texts = read_prompts(arguments.prompts)
    else:
        part = workflow.part({"denoiser.predict"}, {})
        texts = list(own_texts(part.inputs.get(name))) if part is not None else []
    texts = list(dict.fromkeys(texts))
    if len(texts) < 2 * FEW:
        message = f"{len(texts)} different prompt{'s' * (len(texts) != 1)}, and a plan needs {2 * FEW}: {FEW} to "
        help = "give a file with one prompt on each line: --prompts prompts.txt"
        raise NodeError(f"{message}measure with, and {FEW} others to choose with", help=help)
    count = min(max(FEW, len(texts) // 4), MOST_MEASURED)
    measured = [texts[number * len(texts) // count] for number in range(count)]
    seeds = takes_seed(workflow)
    values: dict[str, dict[str, Any]] = {text: {name: [text] if several else text} for text in texts}
    if seeds:
        for number, text in enumerate(texts):
            values[text][SEED] = number
    return TuningPrompts(measured, [text for text in texts if text not in measured], values, seeds)


def takes_seed(workflow: WorkflowFile) -> bool:
    """Whether the workflow has an input `seed` that the command line gives no value."""
    with put_aside():
        declared = (workflow.input_types() or {}).get(SEED)
    return declared is not None and declared.kind == "int" and SEED not in workflow.given
